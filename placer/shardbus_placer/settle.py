"""One plan among equally good ones: fewer devices, then fewer bytes to move, then a stable order of names.

The search returns some plan of the least cost. Here it is changed for an equally good one (to one part in a billion)
by dropping stages that others can do without, by exchanging devices of equal figures and the places of stages, and by
moving boundaries to where layers lie already. So equal inputs give equal plans, whatever way the search came, and a new
plan stays near the old one. Where a score does not tell how to cut, the slowest stage is made as quick as it can be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.cut import Cut, best_cut, cost_of, stage_seconds
from shardbus_placer.problem import Problem, Unit

SAME = 1e-9
"""Relative difference below which two costs are equal."""
MOST_STAGES_PRICED = 2000
"""Stages of changed plans that are priced at most; counted, so that the answer does not depend on the machine."""
MOST_PASSES = 8
"""How often all changes are gone through."""

Held = Mapping[DeviceKey, tuple[int, int]]
"""The range of this model's layers that each device holds already."""


def settle(problem: Problem, cut: Cut, held: Held) -> Cut:
    """Return the plan to take among those that cost no more than ``cut``."""
    limit = cut.cost + SAME * abs(cut.cost)
    state = _Settling(problem, held, limit, cut, MOST_STAGES_PRICED)
    for _ in range(MOST_PASSES):
        before = state.cut
        while fewer := _without_a_stage(problem, state.cut, limit):
            state.cut = fewer
        if problem.objective == "score":
            state.cut = _balanced(problem, state.cut)
        state.exchange_all()
        if state.cut == before:
            break
    return state.cut


def moved_bytes(problem: Problem, cut: Cut, held: Held) -> int:
    """Return what all devices must take in that they do not hold yet: weights, and the cache that belongs to them."""
    return sum(
        _moved(problem, unit, start, end, held)
        for unit, (start, end) in zip(cut.order, pairwise(cut.bounds), strict=True)
    )


def _moved(problem: Problem, unit: Unit, start: int, end: int, held: Held) -> int:
    memory, total = problem.memory, 0
    for device in unit.devices:
        first, last = held.get(device, (end, end))
        kept_from, kept_to = max(first, start), min(last, end)
        new = memory.prefix[end] - memory.prefix[start]
        if kept_from < kept_to:
            new -= memory.prefix[kept_to] - memory.prefix[kept_from]
        known = first < last
        new += memory.extra(
            first=start == 0 and not (known and first == 0),
            last=end == problem.layers and not (known and last == problem.layers),
        )
        total += -(-new // len(unit.devices))
    return total


def _without_a_stage(problem: Problem, cut: Cut, limit: float) -> Cut | None:
    """Return an equally good plan with a stage less, or with a single device for a group, or ``None``."""
    for at in sorted(range(len(cut.order)), key=lambda i: (-len(cut.order[i].devices), cut.order[i].devices[0])):
        orders = [cut.order[:at] + cut.order[at + 1 :]]
        if len(cut.order[at].devices) > 1:
            members = set(cut.order[at].devices)
            smaller = [unit for unit in problem.units if set(unit.devices) < members]
            smaller.sort(key=lambda unit: (len(unit.devices), unit.devices))
            orders += [(*cut.order[:at], unit, *cut.order[at + 1 :]) for unit in smaller]
        for order in orders:
            if not order or not problem.admits(order):
                continue
            found = best_cut(problem, order, limit + SAME * SAME * abs(limit))
            if found is not None and found.cost <= limit:
                return found
    return None


def _balanced(problem: Problem, cut: Cut) -> Cut:
    """Return the plan with layers moved between devices of equal score for as long as the slowest stage gains."""
    order, counts = cut.order, [end - start for start, end in pairwise(cut.bounds)]
    for _ in range(problem.layers * len(order)):
        bounds = tuple(accumulate(counts, initial=0))
        seconds = stage_seconds(order, bounds)
        slowest = max(range(len(order)), key=lambda i: (seconds[i], -i))
        best: tuple[float, int] | None = None
        for other, unit in enumerate(order):
            if other == slowest or unit.pin is not None or unit.score != order[slowest].score:
                continue
            tried = counts.copy()
            tried[slowest] -= 1
            tried[other] += 1
            moved = tuple(accumulate(tried, initial=0))
            if tried[slowest] == 0 or order[slowest].pin is not None or not _fits(problem, order, moved):
                continue
            worst = max(stage_seconds(order, moved))
            if worst < seconds[slowest] * (1 - SAME) and (best is None or worst < best[0] * (1 - SAME)):
                best = (worst, other)
        if best is None:
            break
        counts[slowest] -= 1
        counts[best[1]] += 1
    bounds = tuple(accumulate(counts, initial=0))
    return cut if bounds == cut.bounds else Cut(order, bounds, cost_of(problem, order, bounds))


def _fits(problem: Problem, order: tuple[Unit, ...], bounds: tuple[int, ...]) -> bool:
    return all(
        unit.pin in (None, end - start) and problem.memory.stage(start, end) <= unit.room_bytes
        for unit, (start, end) in zip(order, pairwise(bounds), strict=True)
    )


@dataclass
class _Settling:
    """A plan that is changed for an equally good one that comes before it, until none does."""

    problem: Problem
    held: Held
    limit: float
    cut: Cut
    tries_left: int

    def exchange_all(self) -> None:
        """Go once through all changes of names, places and boundaries."""
        alike = self._alike()
        for at in range(len(self.cut.order)):
            self._exchange(at, alike.get(_figures(self.cut.order[at]), []))
        for i, j in combinations(range(len(self.cut.order)), 2):
            self._swap(i, j)
        if self.held and self.problem.objective != "score":
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
        best = (_moved(self.problem, unit, start, end, self.held), unit.devices)
        for other in alike:
            if other.room_bytes < needed or not elsewhere.isdisjoint(other.devices):
                continue
            rank = (_moved(self.problem, other, start, end, self.held), other.devices)
            if rank >= best:
                continue
            changed = (*order[:at], other, *order[at + 1 :])
            if self._no_slower(at, other) and self.problem.admits(changed):
                best, self.cut = rank, Cut(changed, bounds, self.cut.cost)

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
        tied_ends = self.problem.memory.both_ends != self.problem.memory.embedding + self.problem.memory.head
        if not self.held and not tied_ends and order[i].devices < order[j].devices:
            return
        swapped = list(order)
        swapped[i], swapped[j] = order[j], order[i]
        counts = [end - start for start, end in pairwise(bounds)]
        if counts[i] != counts[j] and self._take(tuple(swapped), bounds):
            return
        counts[i], counts[j] = counts[j], counts[i]
        self._take(tuple(swapped), tuple(accumulate(counts, initial=0)))

    def _shift(self) -> None:
        """Move boundaries to where the devices on either side have theirs already."""
        for at in range(1, len(self.cut.order)):
            order = self.cut.order
            known = {self.held[device][1] for device in order[at - 1].devices if device in self.held}
            known |= {self.held[device][0] for device in order[at].devices if device in self.held}
            for bound in sorted(known):
                bounds = self.cut.bounds
                if bounds[at - 1] < bound < bounds[at + 1]:
                    self._take(order, (*bounds[:at], bound, *bounds[at + 1 :]))

    def _take(self, order: tuple[Unit, ...], bounds: tuple[int, ...]) -> bool:
        """Keep a plan if it is equally good and comes first; return whether it was kept."""
        problem = self.problem
        self.tries_left -= len(order)
        if self.tries_left < 0 or not _fits(problem, order, bounds) or not problem.admits(order):
            return False
        found = Cut(order, bounds, cost_of(problem, order, bounds))
        if found.cost > self.limit:
            return False
        before, after = moved_bytes(problem, self.cut, self.held), moved_bytes(problem, found, self.held)
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
    return (len(unit.devices), unit.pin, unit.score, unit.head_seconds, unit.seconds, unit.seconds_by_count)
