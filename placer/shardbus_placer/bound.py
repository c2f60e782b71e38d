"""Bounds by counting, for whatever plan: no solver is asked, and they are there at once."""

import math
from collections.abc import Sequence

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.problem import Problem, Unit

NARROW = 1e-11
"""Relative width at which the search stops."""
ROUNDING = 1e-12
"""Relative slack where a quotient of floats is rounded down: the bound must never be too high."""


def counted_bound(problem: Problem, known: float) -> float | None:
    """Return a cost that no plan can go below, or ``None`` if counting says nothing; ``known`` is some plan's cost."""
    if problem.objective == "throughput":
        moved = problem.least_moved
        return (slowest_stage_bound(problem.unmoved if moved else problem, known) + moved) or None
    most = [_Counter(problem, unit).most for unit in problem.units]
    if problem.objective == "score":
        return -_filled(problem, most, [unit.score for unit in problem.units], highest=True)
    if any(unit.seconds_by_count is not None for unit in problem.units) and not problem.moves:
        return None
    seconds = problem.least_seconds
    if problem.even:
        seconds = _filled(problem, most, [unit.seconds[1] for unit in problem.units], highest=False)
    head = min(unit.head_seconds for unit in problem.units)
    return (seconds + head + problem.least_moved_ends) * (1 - ROUNDING)


def _filled(problem: Problem, most: list[int], each: list[float], *, highest: bool) -> float:
    """Return the total where every layer goes to the best unit with room, whatever else is asked."""
    left, total = problem.layers, 0.0
    for index in sorted(range(len(each)), key=lambda index: -each[index] if highest else each[index]):
        count = min(left, most[index])
        total += count * each[index]
        left -= count
    return total


def slowest_stage_bound(problem: Problem, known: float) -> float:
    """Return seconds below which no plan's slowest stage and hop can be; ``known`` is the cost of some plan.

    Within a time, no unit takes more layers than fit its memory and that time less its least hop; the last
    stage alone has no hop. Where all this comes to fewer layers than the model has, no plan is that fast.
    A device that is in several units, alone and in tensor groups, has its part of at most one of them: of each unit's
    layers its devices are given equal parts, and of its parts a device counts the largest. Only identical layers are
    counted so; else the bound is 0.
    """
    if not problem.even:
        return 0.0
    counts = [_Counter(problem, unit) for unit in problem.units]
    stages = min(problem.max_stages, problem.max_devices, problem.layers)
    grouped = any(len(unit.devices) > 1 for unit in problem.units)
    low, high = 0.0, known
    while high - low > NARROW * high:
        middle = (low + high) / 2
        if _layers_within(counts, stages, middle, grouped=grouped) < problem.layers:
            low = middle
        else:
            high = middle
    return low


class _Counter:
    """How many layers a unit takes within a time, wherever they lie."""

    def __init__(self, problem: Problem, unit: Unit) -> None:
        self.devices = unit.devices
        self.hop = problem.least_hops[unit.node]
        self.by_count = unit.seconds_by_count
        self.each = unit.seconds[-1] / problem.layers
        fitting = problem.most_layers(unit)
        self.most = fitting if unit.pin is None else min(fitting, unit.pin)

    def within(self, seconds: float) -> int:
        if seconds < 0:
            return 0
        if self.by_count is not None:
            return max((n for n in range(self.most + 1) if self.by_count[n] <= seconds * (1 + ROUNDING)), default=0)
        if seconds >= self.each * self.most:
            return self.most
        return min(self.most, int(seconds / self.each * (1 + ROUNDING)))


def _layers_within(counters: Sequence[_Counter], stages: int, seconds: float, *, grouped: bool) -> int:
    counts: list[int] = []
    gain = 0
    for counter in counters:
        as_last = counter.within(seconds)
        count = 0 if counter.hop is None or as_last == 0 else counter.within(seconds - counter.hop)
        counts.append(count)
        gain = max(gain, as_last - count)
    most = _most_together(counters, counts) if grouped else sum(counts)
    if stages < len(counts):
        counts = sorted(counts, reverse=True)[:stages]
    return min(sum(counts), most) + gain


def _most_together(counters: Sequence[_Counter], counts: Sequence[int]) -> int:
    """Return how many layers units that share devices take together at most."""
    parts: dict[DeviceKey, float] = {}
    for counter, count in zip(counters, counts, strict=True):
        for device in counter.devices:
            parts[device] = max(parts.get(device, 0.0), count / len(counter.devices))
    return int(math.fsum(parts.values()) * (1 + ROUNDING) + ROUNDING)
