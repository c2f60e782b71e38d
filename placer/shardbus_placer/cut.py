"""The best contiguous cut of the layers over units in a given order, exact for equal and unequal layers.

Costs are always minimised: the slowest stage with its outgoing hop (``throughput``), the sum of stages and
hops (``latency``), or minus the sum of layers times device score (``score``). Where moving has a price, what all
stages have to fetch is added to the first two.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from shardbus_placer.problem import HARDLY, Problem, Unit

ROUNDING = 1e-12
"""Relative slack where a float is compared with a limit that was computed in another order."""
FINE = 1e-10
"""Relative width at which the search for the smallest slowest stage stops."""
NEAR = 0.02
"""The relative width at which it is worth asking about what is just below the best."""
COARSE = 1e-4
"""The same while many orders are compared."""


@dataclass(frozen=True)
class Cut:
    """Units in pipeline order with their layer boundaries: unit ``i`` holds ``bounds[i]`` to ``bounds[i + 1]``."""

    order: tuple[Unit, ...]
    bounds: tuple[int, ...]
    cost: float


def cost_of(problem: Problem, order: Sequence[Unit], bounds: Sequence[int]) -> float:
    """Return the objective of a cut, to be minimised."""
    if problem.objective == "score":
        return -sum(unit.score * (bounds[i + 1] - bounds[i]) for i, unit in enumerate(order))
    seconds = stage_seconds(order, bounds)
    hops = problem.hop_after(order)
    moved = moved_in(order, bounds) if problem.moves else 0.0
    if problem.objective == "latency":
        return math.fsum(seconds) + math.fsum(hops) + moved
    return max(stage + hop for stage, hop in zip(seconds, hops, strict=True)) + moved


def moved_in(order: Sequence[Unit], bounds: Sequence[int]) -> float:
    """Return what fetching adds to the cost of a cut."""
    return math.fsum(unit.moved(bounds[i], bounds[i + 1]) for i, unit in enumerate(order))


def stage_seconds(order: Sequence[Unit], bounds: Sequence[int]) -> list[float]:
    """Return each stage's decode time."""
    last = len(order) - 1
    return [unit.stage_seconds(bounds[i], bounds[i + 1], last=i == last) for i, unit in enumerate(order)]


def best_cut(problem: Problem, order: Sequence[Unit], below: float = math.inf, *, fine: bool = True) -> Cut | None:
    """Return the cheapest cut that costs less than ``below``, or ``None``; every unit holds at least one layer.

    Among cuts with an equally fast slowest stage it returns the one with the least latency. Without ``fine``
    the slowest stage is found to one part in ten thousand only, several times sooner, and latency is left aside.
    """
    order = tuple(order)
    if not 0 < len(order) <= problem.layers:
        return None
    hops = problem.hop_after(order)
    if problem.objective != "throughput":
        plain = problem.even and all(unit.pin is None and unit.seconds_by_count is None for unit in order)
        if not plain and problem.objective == "latency" and problem.least_seconds + math.fsum(hops) >= below:
            return None
        bounds = _fill(problem, order) if plain else _cheapest(problem, order, [math.inf] * len(order))
        found = _cut(problem, order, bounds)
        return found if found is not None and found.cost < below else None
    if problem.moves:
        return _Weighing(problem, order, hops).best(below, fine=fine)
    found = _cut(problem, order, _reach(problem, order, hops, below * (1 - FINE)))
    if found is None or found.cost >= below:
        return None
    lowest, width = 0.0, FINE if fine else COARSE
    while found.cost - lowest > width * found.cost:
        # A cut's cost is one of few times: once near, nothing just below the best is the end of it.
        near = found.cost - lowest <= NEAR * found.cost
        limit = found.cost * (1 - FINE) if near else (lowest + found.cost) / 2
        nearer = _cut(problem, order, _reach(problem, order, hops, limit))
        if nearer is not None and nearer.cost < found.cost:
            found = nearer
        elif near:
            break
        else:
            lowest = limit
    if not fine:
        return found
    limits = [found.cost * (1 + ROUNDING) - hop for hop in hops]
    quickest = _cut(problem, order, _cheapest(problem, order, limits))
    return quickest if quickest is not None and quickest.cost <= found.cost * (1 + FINE) else found


class _Weighing:
    """The best of the slowest stage and of what is fetched together, for one order.

    Within a time, dynamic programming knows the least that must be fetched; the more time, the less that is. So between
    two times no plan costs less than the shorter with what is fetched within the longer: most of them are ruled out.
    """

    def __init__(self, problem: Problem, order: tuple[Unit, ...], hops: list[float]) -> None:
        self.problem, self.order, self.hops = problem, order, hops

    def within(self, limit: float) -> tuple[Cut, float, float] | None:
        """Return the cut that fetches the least with no stage and its hop above ``limit``; its pace and its moves."""
        problem, order, hops = self.problem, self.order, self.hops
        if _reach(problem, order, hops, limit) is None:
            return None
        found = _cut(problem, order, _cheapest(problem, order, [limit - hop for hop in hops]))
        if found is None:
            return None
        moved = moved_in(order, found.bounds)
        return found, found.cost - moved, moved

    def best(self, below: float, *, fine: bool) -> Cut | None:
        """Return the cheapest cut that costs less than ``below``."""
        best: Cut | None = None
        width = FINE if fine else COARSE
        steps = [unit.moving.steps for unit in self.order if unit.moving is not None]
        least_of_all = sum(map(min, zip(*steps, strict=True))) + self.problem.least_moved_ends
        open_between = [(0.0, math.inf, least_of_all * (1 - ROUNDING))]
        while open_between:
            low, pace, least = open_between.pop()
            # Whatever is quicker than ``pace`` fetches at least as much, so to be cheaper it must be quicker than this.
            high = min(pace * (1 - FINE), below * (1 - width) - least)
            if high <= low * (1 + width):
                continue
            # The first is asked about all that may be cheaper, the others halve what is left between two of them.
            near = pace == math.inf or high - low <= NEAR * high
            middle = high if near else (low + high) / 2
            found = self.within(middle)
            if not near:
                open_between.append((middle, pace, least))
            if found is None:
                continue
            cut, quicker, more = found
            if cut.cost < below:
                best, below = cut, cut.cost
            open_between.append((low, quicker, more))
        return best


def any_cut(problem: Problem, order: Sequence[Unit]) -> tuple[int, ...] | None:
    """Return the bounds of some cut that fits this order, whatever it costs, or ``None`` if there is none."""
    order = tuple(order)
    return _reach(problem, order, [0.0] * len(order), math.inf) if 0 < len(order) <= problem.layers else None


def _fill(problem: Problem, order: Sequence[Unit]) -> tuple[int, ...] | None:
    """Return the bounds with the least sum where all layers are alike: one layer each, the rest to the cheapest."""
    size, layers = problem.memory.prefix[1], problem.layers
    most: list[int] = []
    for position in range(len(order)):
        room = _room(problem, order, position)
        fitting = 0 if room < 0 else layers if size == 0 else room // size
        if fitting == 0:
            return None
        most.append(fitting)
    left = layers - len(order)
    counts = [1] * len(order)
    score = problem.objective == "score"
    for position in sorted(
        range(len(order)), key=lambda index: -order[index].score if score else order[index].seconds[-1]
    ):
        more = min(left, most[position] - 1)
        counts[position] += more
        left -= more
    return None if left else tuple(accumulate(counts, initial=0))


def _cut(problem: Problem, order: tuple[Unit, ...], bounds: tuple[int, ...] | None) -> Cut | None:
    return None if bounds is None else Cut(order, bounds, cost_of(problem, order, bounds))


def _room(problem: Problem, order: Sequence[Unit], position: int) -> int:
    """Return what the layers alone may take at this position of the pipeline."""
    extra = problem.memory.extra(first=position == 0, last=position == len(order) - 1)
    return order[position].room_bytes - extra


def _reach(problem: Problem, order: tuple[Unit, ...], hops: list[float], limit: float) -> tuple[int, ...] | None:
    """Return bounds with which no stage and its hop take longer than ``limit``, or ``None``.

    Each unit takes as many layers as it may: to have reached further never hurts those behind. That holds
    unless a unit's layers are pinned, its measured times fall with more layers, or the one layer that it must
    take at least is too large for it there, while a smaller one lies before; then all bounds that can be
    reached are followed.
    """
    if any(unit.pin is not None or unit.seconds_by_count is not None for unit in order):
        return _reach_any(problem, order, hops, limit)
    prefix, layers, last = problem.memory.prefix, problem.layers, len(order) - 1
    bounds = [0]
    for position, unit in enumerate(order):
        start = bounds[-1]
        room = _room(problem, order, position)
        left = (limit - hops[position] - unit.head_seconds * (position == last)) * (1 + ROUNDING)
        if room < 0 or left < 0:
            return None
        end = bisect_right(prefix, prefix[start] + room) - 1
        if left < math.inf:
            end = min(end, bisect_right(unit.seconds, unit.seconds[start] + left) - 1)
        end = min(end, layers - (last - position))
        if end <= start:
            uneven = position < last and not problem.even
            return _reach_any(problem, order, hops, limit) if uneven else None
        bounds.append(end)
    return tuple(bounds) if bounds[-1] == layers else None


def _ends(problem: Problem, order: tuple[Unit, ...], position: int, start: int, most_seconds: float) -> Sequence[int]:
    """Return where the unit at ``position`` may end when it begins at ``start``."""
    unit, layers, last = order[position], problem.layers, len(order) - 1
    room = _room(problem, order, position)
    furthest = min(
        layers - (last - position), bisect_right(problem.memory.prefix, problem.memory.prefix[start] + room) - 1
    )
    lowest = layers if position == last else start + 1
    if unit.pin is not None:
        lowest, furthest = max(lowest, start + unit.pin), min(furthest, start + unit.pin)
    if room < 0 or lowest <= start:
        return ()
    most = most_seconds * (1 + ROUNDING)
    if unit.seconds_by_count is None:
        if most < math.inf:
            left = most - unit.head_seconds * (position == last)
            furthest = min(furthest, bisect_right(unit.seconds, unit.seconds[start] + left) - 1)
        return range(lowest, furthest + 1)
    return [end for end in range(lowest, furthest + 1) if unit.stage_seconds(start, end, last=position == last) <= most]


def _reach_any(problem: Problem, order: tuple[Unit, ...], hops: list[float], limit: float) -> tuple[int, ...] | None:
    came_from: list[dict[int, int]] = []
    reached: Sequence[int] = (0,)
    for position in range(len(order)):
        step: dict[int, int] = {}
        for start in reached:
            ends = _ends(problem, order, position, start, limit - hops[position])
            if isinstance(ends, range) and len(ends) > 1 and step:
                # From earlier starts all was reached from there up to the furthest end so far.
                ends = range(max(ends.start, max(step) + 1), ends.stop)
            for end in ends:
                step.setdefault(end, start)
        came_from.append(step)
        reached = sorted(step)
    return _walk_back(came_from, problem.layers)


def _walk_back(came_from: list[dict[int, int]], end: int) -> tuple[int, ...] | None:
    bounds = [end]
    for step in reversed(came_from):
        if bounds[-1] not in step:
            return None
        bounds.append(step[bounds[-1]])
    return tuple(reversed(bounds))


def _running_cost(problem: Problem, unit: Unit) -> Sequence[float]:
    if problem.objective == "score":
        return [-unit.score * layer for layer in range(problem.layers + 1)]
    return unit.fetching if _weighs(problem) else unit.running


def _weighs(problem: Problem) -> bool:
    """Return whether what is fetched is weighed against the slowest stage: within a time it then counts alone."""
    return problem.moves and problem.objective == "throughput"


def _cheapest(problem: Problem, order: tuple[Unit, ...], most_seconds: list[float]) -> tuple[int, ...] | None:
    """Return the bounds with the least sum over stages, each stage within ``most_seconds``, or ``None``.

    Dynamic programming over positions and bounds. A plain unit's cost is a difference of running sums and
    what it may hold is a window that only moves forward, so a sliding minimum makes each step linear.
    """
    layers, last = problem.layers, len(order) - 1
    best: dict[int, float] = {0: 0.0}
    came_from: list[dict[int, int]] = []
    for position, unit in enumerate(order):
        plain = unit.pin is None and (unit.seconds_by_count is None or problem.objective == "score")
        if plain and unit.seconds_by_count is None and 0 < position < last:
            room, furthest = _room(problem, order, position), layers - (last - position)
            step, came = _slide(problem, unit, best, room, most_seconds[position], furthest)
        else:
            step, came = dict[int, float](), dict[int, int]()
            running = _running_cost(problem, unit)
            by_count = None if problem.objective == "score" else unit.seconds_by_count
            weight = HARDLY if _weighs(problem) else 1.0
            for start, so_far in best.items():
                for end in _ends(problem, order, position, start, most_seconds[position]):
                    total = so_far + running[end] - running[start]
                    if by_count is not None:
                        total += weight * by_count[end - start]
                    if total < step.get(end, math.inf):
                        step[end], came[end] = total, start
        best = step
        came_from.append(came)
        if not best:
            return None
    return _walk_back(came_from, layers)


def _slide(
    problem: Problem, unit: Unit, best: dict[int, float], room: int, most_seconds: float, furthest: int
) -> tuple[dict[int, float], dict[int, int]]:
    if room < 0:
        return {}, {}
    prefix, seconds = problem.memory.prefix, unit.seconds
    running = _running_cost(problem, unit)
    most = most_seconds * (1 + ROUNDING)
    window: deque[tuple[int, float]] = deque()
    step: dict[int, float] = {}
    came: dict[int, int] = {}
    for end in range(min(best) + 1, furthest + 1):
        so_far = best.get(end - 1)
        if so_far is not None:
            offer = so_far - running[end - 1]
            while window and window[-1][1] >= offer:
                window.pop()
            window.append((end - 1, offer))
        while window and (prefix[end] - prefix[window[0][0]] > room or seconds[end] - seconds[window[0][0]] > most):
            window.popleft()
        if window:
            step[end] = window[0][1] + running[end]
            came[end] = window[0][0]
    return step, came
