"""One plan among equally good ones: fewer devices, then fewer bytes to move, then a stable order of names.

The search returns some plan of the least cost. Here it is changed for an equally good one (to one part in a billion)
by dropping stages that others can do without, by exchanging devices of equal figures and the places of stages, and by
moving boundaries to where layers lie already. So equal inputs give equal plans, whatever way the search came, and a new
plan stays near the old one. Where a score does not tell how to cut, the slowest stage is made as quick as it can be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, combinations, pairwise

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.cut import Cut, best_cut, cost_of, stage_seconds
from shardbus_placer.movement import Holding, Moves
from shardbus_placer.problem import Problem, Unit

SAME = 1e-9
"""Relative difference below which two costs are equal."""
MOST_STAGES_PRICED = 1000
"""Stages of changed plans that are priced at most, each way: counted, so that no plan depends on the machine."""
DEARER = 10
"""Where moving has a price a stage less is seldom as good, and takes so many times as long to find out."""
MOST_PASSES = 8
"""How often all changes are gone through."""


def settle(problem: Problem, cut: Cut, moves: Moves | None) -> Cut:
    """Return the plan to take among those that cost no more than ``cut``."""
    limit = cut.cost + SAME * abs(cut.cost)
    state = _Settling(problem, moves, limit, cut)
    if problem.moves:
        state.drops_left //= DEARER
    for _ in range(MOST_PASSES):
        before = state.cut
        while state.drops_a_stage():
            pass
        if problem.objective == "score":
            state.cut = _balanced(problem, state.cut)
        state.exchange_all()
        if state.cut == before:
            break
    return state.cut


def moved_bytes(cut: Cut, moves: Moves | None) -> int:
    """Return the bytes that all stages fetch; 0 where nobody holds anything, for then every plan does."""
    stages = zip(cut.order, pairwise(cut.bounds), strict=True)
    return sum(_moved(unit, start, end, moves) for unit, (start, end) in stages)


def _moved(unit: Unit, start: int, end: int, moves: Moves | None) -> int:
    return moves.bytes(unit.devices, start, end) if moves is not None and moves.holders else 0


def _balanced(problem: Problem, cut: Cut) -> Cut:
    """Return the plan with layers moved between devices of equal score for as long as the slowest stage gains."""
    order, counts = cut.order, [end - start for start, end in pairwise(cut.bounds)]
    for _ in range(problem.layers * len(order)):
        times = stage_seconds(order, tuple(accumulate(counts, initial=0)))
        fairer = _fairer(problem, order, counts, times)
        if fairer is None:
            break
        counts = fairer
    bounds = tuple(accumulate(counts, initial=0))
    return cut if bounds == cut.bounds else Cut(order, bounds, cost_of(problem, order, bounds))


def _fairer(problem: Problem, order: Sequence[Unit], counts: Sequence[int], times: Sequence[float]) -> list[int] | None:
    """Return the numbers of layers with one moved from a slow stage to one of equal score that is quicker with it."""
    slow_first = sorted(range(len(order)), key=lambda i: (-times[i], i))
    for slow in slow_first:
        for quick in reversed(slow_first):
            if quick == slow or order[quick].score != order[slow].score or counts[slow] == 1:
                continue
            moved = list(counts)
            moved[slow] -= 1
            moved[quick] += 1
            bounds = tuple(accumulate(moved, initial=0))
            after = stage_seconds(order, bounds)
            less = after[quick] < times[slow] * (1 - SAME) and max(after) <= max(times) * (1 + SAME)
            if less and _fits(problem, order, bounds):
                return moved
    return None


def _fits(problem: Problem, order: Sequence[Unit], bounds: Sequence[int]) -> bool:
    return all(
        unit.pin in (None, end - start) and problem.memory.stage(start, end) <= unit.room_bytes
        for unit, (start, end) in zip(order, pairwise(bounds), strict=True)
    )


@dataclass
class _Settling:
    """A plan that is changed for an equally good one that comes before it, until none does."""

    problem: Problem
    moves: Moves | None
    limit: float
    cut: Cut
    drops_left: int = MOST_STAGES_PRICED
    swaps_left: int = MOST_STAGES_PRICED

    @cached_property
    def holders(self) -> Mapping[DeviceKey, Holding]:
        """Who has layers already."""
        return {} if self.moves is None else self.moves.holders

    def drops_a_stage(self) -> bool:
        """Do without a stage, or with a part of a group, if that is as good; return whether it was."""
        problem, order = self.problem, self.cut.order
        for at in sorted(range(len(order)), key=lambda i: (-len(order[i].devices), order[i].devices)):
            members = set(order[at].devices)
            parts = [unit for unit in problem.units if len(members) > 1 and set(unit.devices) < members]
            parts.sort(key=lambda unit: (len(unit.devices), unit.devices))
            for instead in ((), *((unit,) for unit in parts)):
                fewer = (*order[:at], *instead, *order[at + 1 :])
                self.drops_left -= len(order)
                if self.drops_left < 0:
                    return False
                found = (
                    best_cut(problem, fewer, math.nextafter(self.limit, math.inf)) if problem.admits(fewer) else None
                )
                if found is not None:
                    self.cut = found
                    return True
        return False

    def exchange_all(self) -> None:
        """Go once through all changes of names, places and boundaries."""
        alike = self._alike()
        for at in range(len(self.cut.order)):
            self._exchange(at, alike.get(_figures(self.cut.order[at]), []))
        for i, j in combinations(range(len(self.cut.order)), 2):
            self._swap(i, j)
        if self.holders and self.problem.objective != "score":
            self._shift()

    def _alike(self) -> dict[object, list[Unit]]:
        """Return the units that take equally long for the same layers and count the same, by their figures."""
        wanted: dict[object, list[Unit]] = {_figures(unit): [] for unit in self.cut.order}
        for unit in self.problem.units:  # sorted by their names
            figures = _figures(unit)
            if figures in wanted:
                wanted[figures].append(unit)
        return wanted

    def _exchange(self, at: int, alike: Sequence[Unit]) -> None:
        """Put the first unit of equal figures that is not used elsewhere at this place, if it moves no more."""
        order, bounds = self.cut.order, self.cut.bounds
        unit, start, end = order[at], bounds[at], bounds[at + 1]
        elsewhere = {device for other in order if other is not unit for device in other.devices}
        needed = self.problem.memory.stage(start, end)
        best = (_moved(unit, start, end, self.moves), unit.devices)
        for other in alike:
            if other.room_bytes < needed or not elsewhere.isdisjoint(other.devices):
                continue
            rank = (_moved(other, start, end, self.moves), other.devices)
            if rank >= best:
                continue
            changed = (*order[:at], other, *order[at + 1 :])
            if self._no_slower(at, other) and self.problem.admits(changed):
                best, self.cut = rank, Cut(changed, bounds, cost_of(self.problem, changed, bounds))

    def _no_slower(self, at: int, other: Unit) -> bool:
        """Return whether the hops to and from this place are no slower with another unit there."""
        order, hops = self.cut.order, self.problem.hops
        here = order[at].node
        ways: list[tuple[float | None, float | None]] = []
        if at > 0:
            ways.append((hops[order[at - 1].node][here], hops[order[at - 1].node][other.node]))
        if at + 1 < len(order):
            ways.append((hops[here][order[at + 1].node], hops[other.node][order[at + 1].node]))
        return all(new is not None and old is not None and new <= old for old, new in ways)

    def _swap(self, i: int, j: int) -> None:
        """Let two stages change places, with their layers or without."""
        order, bounds = self.cut.order, self.cut.bounds
        if self.swaps_left < 0:
            return
        tied_ends = self.problem.memory.both_ends != self.problem.memory.embedding + self.problem.memory.head
        if not self.holders and not tied_ends and order[i].devices < order[j].devices:
            return
        swapped = list(order)
        swapped[i], swapped[j] = order[j], order[i]
        counts = [end - start for start, end in pairwise(bounds)]
        if counts[i] != counts[j] and self._take(tuple(swapped), bounds):
            return
        if self.holders and (self._relocates(i, j) or self._relocates(j, i)):
            return
        counts[i], counts[j] = counts[j], counts[i]
        self._take(tuple(swapped), tuple(accumulate(counts, initial=0)))

    def _relocates(self, here: int, there: int) -> bool:
        """Move a stage with its layers to another place; return whether that was as good and came first."""
        stages = list(zip(self.cut.order, (end - start for start, end in pairwise(self.cut.bounds)), strict=True))
        stages.insert(there, stages.pop(here))
        return self._take(tuple(unit for unit, _ in stages), tuple(accumulate((n for _, n in stages), initial=0)))

    def _shift(self) -> None:
        """Move boundaries to where the devices on either side have theirs already."""
        for at in range(1, len(self.cut.order)):
            order = self.cut.order
            held = self.holders
            known = {held[device].end for device in order[at - 1].devices if device in held}
            known |= {held[device].start for device in order[at].devices if device in held}
            for bound in sorted(known):
                bounds = self.cut.bounds
                if bounds[at - 1] < bound < bounds[at + 1]:
                    self._take(order, (*bounds[:at], bound, *bounds[at + 1 :]))

    def _take(self, order: tuple[Unit, ...], bounds: tuple[int, ...]) -> bool:
        """Keep a plan if it is equally good and comes first; return whether it was kept."""
        problem = self.problem
        self.swaps_left -= len(order)
        if self.swaps_left < 0 or not _fits(problem, order, bounds) or not problem.admits(order):
            return False
        found = Cut(order, bounds, cost_of(problem, order, bounds))
        if found.cost > self.limit:
            return False
        before, after = moved_bytes(self.cut, self.moves), moved_bytes(found, self.moves)
        names, known = [unit.devices for unit in order], [unit.devices for unit in self.cut.order]
        # A nicer order alone is not worth a slower one.
        if after > before or (after == before and ((names, bounds) >= (known, self.cut.bounds) or self._slower(found))):
            return False
        self.cut = found
        return True

    def _slower(self, found: Cut) -> bool:
        """Return whether a token waits longer, or the slowest stage is slower."""
        measures: list[tuple[float, float]] = []
        for cut in (found, self.cut):
            seconds = stage_seconds(cut.order, cut.bounds)
            measures.append((sum(seconds) + sum(self.problem.hop_after(cut.order)), max(seconds)))
        return any(a > b * (1 + SAME) for a, b in zip(*measures, strict=True))


def _figures(unit: Unit) -> object:
    """Return all in which units that may stand for each other are equal."""
    return (
        *(len(unit.devices), unit.pin, unit.score, unit.head_seconds, unit.seconds, unit.seconds_by_count),
        unit.moving,
    )
