"""What stays as it is: the old plan as far as its devices are still there, with its gaps closed in the simplest ways.

These are the plans that move the least, and the first ones a search looks at. The devices that are left, in their old
order, are one: cutting it again spreads what is missing over the neighbours. One unit more in the place of what is
missing, or beside any stage, are the others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.movement import Holding
from shardbus_placer.problem import Problem, Unit

MOST_IN_A_GAP = 6
"""Units that are tried in the place of one that is lost: those that cost the least with its layers."""
MOST_BESIDE = 2
"""Units that are tried beside a stage, where nothing is missing."""

Order = tuple[Unit, ...]


def standing_orders(problem: Problem, held: Mapping[DeviceKey, Holding]) -> Iterator[Order]:
    """Yield orders near the old plan, the one that is left of it first."""
    stages = _left(problem, held)
    order = tuple(unit for unit, _ in stages)
    taken = {device for unit in order for device in unit.devices}
    free = [unit for unit in problem.units if taken.isdisjoint(unit.devices)]
    if order:
        yield order
    gaps = list(_gaps(problem, stages))
    filled = order
    for place, start, end in reversed(gaps):
        ranked = _ranked(problem, order, place, free, start, end)
        for unit in ranked[:MOST_IN_A_GAP]:
            yield (*order[:place], unit, *order[place:])
        used = {device for unit in filled for device in unit.devices}
        fitting = next((unit for unit in ranked if used.isdisjoint(unit.devices)), None)
        if fitting is not None:
            filled = (*filled[:place], fitting, *filled[place:])
    if len(gaps) > 1:
        yield filled
    if not gaps:
        for place in range(len(order) + 1):
            start, end = _beside(stages, place)
            for unit in _ranked(problem, order, place, free, start, end)[:MOST_BESIDE]:
                yield (*order[:place], unit, *order[place:])


def _left(problem: Problem, held: Mapping[DeviceKey, Holding]) -> list[tuple[Unit, Holding]]:
    """Return the old stages whose devices may still take part, in their order; of broken groups each device alone."""
    units = {unit.devices: unit for unit in problem.units}
    groups: dict[Holding, list[DeviceKey]] = {}
    for device, holding in held.items():
        groups.setdefault(holding, []).append(device)
    found: list[tuple[Unit, Holding]] = []
    for holding, devices in sorted(groups.items()):
        together = tuple(sorted(devices))
        parts = [together] if together in units else [(device,) for device in together if (device,) in units]
        found += [(units[part], holding) for part in parts]
    return found


def _gaps(problem: Problem, stages: Sequence[tuple[Unit, Holding]]) -> Iterator[tuple[int, int, int]]:
    """Yield the layers that no stage holds, each range with its place in the order."""
    ranges = [(0, 0), *((holding.start, holding.end) for _, holding in stages), (problem.layers, problem.layers)]
    for place, ((_, end), (start, _)) in enumerate(pairwise(ranges)):
        if end < start:
            yield place, end, start


def _beside(stages: Sequence[tuple[Unit, Holding]], place: int) -> tuple[int, int]:
    """Return the layers of the stage behind a place, or of the last one."""
    _, holding = stages[min(place, len(stages) - 1)]
    return holding.start, holding.end


def _ranked(problem: Problem, order: Order, place: int, free: Sequence[Unit], start: int, end: int) -> list[Unit]:
    """Return the units that links allow in a place, those that cost the least with these layers first."""
    before, after = order[:place][-1:], order[place:][:1]
    fitting: list[tuple[bool, float, int]] = []
    for index, unit in enumerate(free):
        ways = [problem.hops[other.node][unit.node] for other in before]
        ways += [problem.hops[unit.node][other.node] for other in after]
        if None in ways:
            continue
        cost = unit.stage_seconds(start, end, last=end == problem.layers) + unit.moved(start, end)
        cost += math.fsum(way or 0.0 for way in ways)
        fitting.append((problem.memory.stage(start, end) > unit.room_bytes, cost, index))
    return [free[index] for _, _, index in sorted(fitting)]
