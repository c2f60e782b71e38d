"""What stays as it is: the old plan as far as its devices are still there, with its gaps closed in the simplest ways.

These are the plans that move the least, and the first ones a search looks at: the old cut with one unit in the place
of what is missing, as it stands; then orders, to be cut again. The devices that are left, in their old order, are one:
what is missing is spread over the neighbours. One unit more in the place of what is missing, or beside any stage, are
the others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.cut import Cut, cost_of, stage_seconds
from shardbus_placer.greedy import Search
from shardbus_placer.movement import Holding
from shardbus_placer.problem import Problem, Unit

MOST_RANKED = 6
"""Units that are tried in one place: those that cost the least there."""
MOST_BESIDE = 2
"""The same beside a stage, where nothing is missing."""
MOST_RELIEVED = 8
"""Slow stages beside which a unit is tried."""
MOST_STAGES_CUT = 200
"""Stages of orders that are cut again at most, in all: of a long plan few orders are."""

Order = tuple[Unit, ...]


@dataclass(frozen=True)
class Standing:
    """Plans and orders near an old plan."""

    cuts: tuple[Cut, ...]
    """As they stand, the cheapest first."""
    orders: tuple[Order, ...]
    """To be cut, the nearest first."""


NOTHING_STANDS = Standing((), ())


def standing(problem: Problem, held: Mapping[DeviceKey, Holding]) -> Standing:
    """Return what is near the old plan: what is left of it comes first."""
    stages = _left(problem, held)
    if not stages:
        return NOTHING_STANDS
    order, gaps = tuple(unit for unit, _ in stages), _gaps(problem, stages)
    taken = {device for unit in order for device in unit.devices}
    free = [unit for unit in problem.units if taken.isdisjoint(unit.devices)]
    cuts: list[Cut] = []
    if not gaps:
        cuts += _as_it_stands(problem, stages, [])
    orders = [order]
    if len(gaps) == 1:
        ((place, start, end),) = gaps
        for unit in _ranked(problem, order, place, free, start, end)[:MOST_RANKED]:
            cuts += _as_it_stands(problem, stages, [(place, unit, start, end)])
            orders.append((*order[:place], unit, *order[place:]))
    elif gaps:
        fillings = list(_filled(problem, order, gaps, free))
        cuts += _as_it_stands(problem, stages, fillings)
        orders.append(_inserted(order, fillings))
    else:
        for place in range(len(order) + 1):
            _, holding = stages[min(place, len(stages) - 1)]
            ranked = _ranked(problem, order, place, free, holding.start, holding.end)
            orders += [(*order[:place], unit, *order[place:]) for unit in ranked[:MOST_BESIDE]]
    most = max(2, MOST_STAGES_CUT // max(1, len(order)))
    return Standing(tuple(sorted(cuts, key=lambda cut: cut.cost)), tuple(orders[:most]))


def relieve(state: Search) -> None:
    """Put units that are free beside the stages that set the pace, as long as the plan gets better and may be tried."""
    better = state.best is not None
    while better and not state.exhausted:
        assert state.best is not None  # only set, never unset
        better = any(state.offer(order) for order in _reliefs(state.problem, state.best) if not state.exhausted)


def _reliefs(problem: Problem, cut: Cut) -> Iterator[Order]:
    """Yield the order with one more unit beside a stage, the slowest stages first, or without a stage that is there."""
    order = cut.order
    taken = {device for unit in order for device in unit.devices}
    free = [unit for unit in problem.units if taken.isdisjoint(unit.devices)]
    times = [a + b for a, b in zip(stage_seconds(order, cut.bounds), problem.hop_after(order), strict=True)]
    for at in sorted(range(len(order)), key=lambda at: -times[at])[:MOST_RELIEVED]:
        start = cut.bounds[at]
        for place in (at, at + 1):
            for unit in _ranked(problem, order, place, free, start, start + 1)[:MOST_BESIDE]:
                yield (*order[:place], unit, *order[place:])
        for unit in _ranked(problem, order, at, free, start, cut.bounds[at + 1])[:MOST_BESIDE]:
            yield (*order[:at], unit, *order[at + 1 :])


_Filling = tuple[int, Unit, int, int]
"""Before which stage a unit is put, and the layers it is to hold."""


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


def _gaps(problem: Problem, stages: Sequence[tuple[Unit, Holding]]) -> list[tuple[int, int, int]]:
    """Return the layers that no stage holds, each range with its place in the order."""
    ranges = [(0, 0), *((holding.start, holding.end) for _, holding in stages), (problem.layers, problem.layers)]
    places = enumerate(pairwise(ranges))
    return [(place, end, start) for place, ((_, end), (start, _)) in places if end < start]


def _filled(
    problem: Problem, order: Order, gaps: Sequence[tuple[int, int, int]], free: list[Unit]
) -> Iterator[_Filling]:
    """Yield the unit for each gap that costs the least there, each device once."""
    left = list(free)
    for place, start, end in gaps:
        for unit in _ranked(problem, order, place, left, start, end)[:1]:
            yield place, unit, start, end
            left = [other for other in left if set(other.devices).isdisjoint(unit.devices)]


def _inserted(order: Order, fillings: Sequence[_Filling]) -> Order:
    found = list(order)
    for place, unit, _, _ in reversed(fillings):
        found.insert(place, unit)
    return tuple(found)


def _as_it_stands(problem: Problem, stages: Sequence[tuple[Unit, Holding]], fillings: Sequence[_Filling]) -> list[Cut]:
    """Return the plan in which every stage holds what it held and the gaps are filled, if that is one."""
    parts = [(unit, holding.start, holding.end) for unit, holding in stages]
    for place, unit, start, end in reversed(fillings):
        parts.insert(place, (unit, start, end))
    order = tuple(unit for unit, _, _ in parts)
    bounds = tuple(accumulate((end - start for _, start, end in parts), initial=0))
    whole = all(start == at and start < end for (_, start, end), at in zip(parts, bounds, strict=False))
    if not parts or not whole or bounds[-1] != problem.layers or not problem.admits(order):
        return []
    fits = all(
        unit.pin in (None, end - start) and problem.memory.stage(start, end) <= unit.room_bytes
        for unit, start, end in parts
    )
    return [Cut(order, bounds, cost_of(problem, order, bounds))] if fits else []


def _ranked(problem: Problem, order: Order, place: int, free: Sequence[Unit], start: int, end: int) -> list[Unit]:
    """Return the units that links allow in a place: those with room for these layers, that cost least with them."""
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
