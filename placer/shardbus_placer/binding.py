"""What binds a plan: its slowest stage, and what of memory, links and conditions keeps it from being better.

What is said of memory, links and conditions is tried: without the limit, the same devices in the same order (or one
more of them, for a condition) are cut again, and are better. So a better plan exists then; how much better the best
one would be is not said.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice, pairwise

from shardbus_schemas.placement import Binding
from shardbus_schemas.units import bytes_text, seconds_text

from shardbus_placer.cut import Cut, best_cut, stage_seconds
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.runner_up import inserted, percent, replaced, tries_within, unused_kinds

TOLD = 0.01
"""A limit that costs relatively less than this is not worth a word."""
TIED = 0.01
"""Stages whose times differ relatively less than this set the pace together."""
MOST_TOLD = 5
TRIAL_STEPS = 240
"""Full devices, and links, are tried until so many stages were cut."""
CONDITION_STEPS = 120
"""How many stages may be cut to find what a plan would be without a condition."""

Gain = tuple[float, Binding]


def binding_of(problem: Problem, cut: Cut, out_of_time: Callable[[], bool] = lambda: False) -> tuple[Binding, ...]:
    """Return what binds, the slowest stage first and then what costs most."""
    gains: list[Gain] = []
    for kind in (_memory, _links, _conditions):
        for gain in () if out_of_time() else kind(problem, cut):
            gains.append(gain)
            if out_of_time():
                break
    gains.sort(key=lambda gain: -gain[0])
    pace = [] if problem.objective == "score" else [_pace(problem, cut)]
    return tuple([*pace, *(binding for _, binding in gains)][:MOST_TOLD])


def is_full(problem: Problem, unit: Unit, start: int, end: int) -> bool:
    """Return whether the unit has no room for the layer before ``start`` nor for the one from ``end``."""
    longer = [(start - 1, end)] * (start > 0) + [(start, end + 1)] * (end < problem.layers)
    return bool(longer) and all(problem.memory.stage(*layers) > unit.room_bytes for layers in longer)


def name_of(unit: Unit) -> str:
    """Return a unit's devices for a person."""
    return unit.devices[0] if len(unit.devices) == 1 else f"the group {'+'.join(unit.devices)}"


def _pace(problem: Problem, cut: Cut) -> Binding:
    """Return the stage, or the hop, that takes most of what is minimised."""
    order, hops = cut.order, problem.hop_after(cut.order)
    seconds = stage_seconds(order, cut.bounds)
    together = [stage + hop for stage, hop in zip(seconds, hops, strict=True)]
    latency = problem.objective == "latency"
    most = [max(stage, hop) for stage, hop in zip(seconds, hops, strict=True)] if latency else together
    where = max(range(len(order)), key=lambda i: most[i])
    unit, by_hop = order[where], hops[where] > seconds[where]
    layers = (
        f"{seconds_text(seconds[where])} for {cut.bounds[where + 1] - cut.bounds[where]} of {problem.layers} layers"
    )
    hop = f"{seconds_text(hops[where])} for the hop to {order[where + 1].devices[0]}" if hops[where] else ""
    if len(order) == 1:
        why = f"all is on {name_of(unit)}, which takes {layers}"
    elif latency:
        waited = math.fsum(together)
        share = percent(most[where] / waited) if waited else "all"
        why = f"{name_of(unit)} takes {hop if by_hop else layers}, {share} of the {seconds_text(waited)} for a token"
    else:
        said = (hop, layers) if by_hop else (layers, hop)
        tied = sum(1 for time in together if time >= together[where] * (1 - TIED)) - 1
        also = f"; {tied} more within {percent(TIED)} of that" if tied else ""
        why = f"the slowest stage: {name_of(unit)} takes {' and '.join(text for text in said if text)}{also}"
    there = order[where + 1].devices[0] if by_hop else None
    return Binding(kind="link" if by_hop else "stage", device=unit.devices[0], to_device=there, why=why)


def _memory(problem: Problem, cut: Cut) -> Iterator[Gain]:
    """Yield the full devices whose plan would be better with more room, each alone."""
    full = [
        i for i, unit in enumerate(cut.order) if unit.pin is None and is_full(problem, unit, *cut.bounds[i : i + 2])
    ]

    def merit(index: int) -> float:
        return -cut.order[index].score if problem.objective == "score" else cut.order[index].seconds[-1]

    prefix = problem.memory.prefix
    step = max(1, *(end - start for start, end in pairwise(prefix)))
    for i in sorted(full, key=merit)[: tries_within(TRIAL_STEPS, problem, cut)]:
        start, end = cut.bounds[i : i + 2]
        held = problem.memory.stage(start, end)
        if _with_room(problem, cut, i, held + prefix[-1] + problem.memory.embedding + problem.memory.head) is None:
            continue
        more = 1
        while (better := _with_room(problem, cut, i, held + more * step)) is None:
            more *= 2
        unit, layers = cut.order[i], better.bounds[i + 1] - better.bounds[i]
        first, in_all = unit.devices[0], " in all" * (len(unit.devices) > 1)
        short = problem.memory.stage(better.bounds[i], better.bounds[i + 1]) - unit.room_bytes
        why = (
            f"the memory of {name_of(unit)} is full with {end - start} layers: {bytes_text(short, round_up=True)} more"
            f"{in_all} would hold {layers}, and {_change(problem, cut, better)}"
        )
        yield _gain(cut, better), Binding(kind="memory", device=first, why=why)


def _with_room(problem: Problem, cut: Cut, index: int, room: int) -> Cut | None:
    roomy = replace(cut.order[index], room_bytes=room)
    return _better(problem, cut, (*cut.order[:index], roomy, *cut.order[index + 1 :]))


def _links(problem: Problem, cut: Cut) -> Iterator[Gain]:
    """Yield the links that the plan would be better without waiting for, each alone."""
    if problem.objective == "score":
        return
    hops = problem.hop_after(cut.order)
    used: dict[tuple[int, int], int] = {}
    for i, (a, b) in enumerate(pairwise(cut.order)):
        used.setdefault((a.node, b.node), i)
    slow = sorted(used.items(), key=lambda way: -hops[way[1]])
    for (a, b), i in slow[: tries_within(TRIAL_STEPS, problem, cut)]:
        if hops[i] < TOLD * cut.cost:
            break
        rows = [list(row) for row in problem.hops]
        rows[a][b] = 0.0
        better = _better(replace(problem, hops=tuple(map(tuple, rows))), cut, cut.order)
        if better is None:
            continue
        here, there = cut.order[i].devices[0], cut.order[i + 1].devices[0]
        between = (
            f"between devices of {problem.nodes[a]}" if a == b else f"from {problem.nodes[a]} to {problem.nodes[b]}"
        )
        why = f"each hop {between} takes {seconds_text(hops[i])}: were it instant, {_change(problem, cut, better)}"
        yield _gain(cut, better), Binding(kind="link", device=here, to_device=there, why=why)


def _conditions(problem: Problem, cut: Cut) -> Iterator[Gain]:
    """Yield the request's limits, and pins, without which one change of the plan makes it better."""
    devices = sum(len(unit.devices) for unit in cut.order)
    nodes = len({node for unit in cut.order for node in unit.nodes})
    for name, reached in (("max_devices", devices), ("max_stages", len(cut.order)), ("max_nodes", nodes)):
        if getattr(problem, name) == reached:
            relaxed = replace(problem, **{name: len(problem.units) + problem.layers + reached})
            yield from _without(relaxed, cut, f"{name}={reached}", _longer(relaxed, cut))
    if problem.min_nodes == nodes > 1:
        fewer = (cut.order[:i] + cut.order[i + 1 :] for i in range(len(cut.order)))
        yield from _without(replace(problem, min_nodes=1), cut, f"min_nodes={nodes}", fewer)
    for i, unit in enumerate(cut.order):
        if unit.pin is not None:
            free = (*cut.order[:i], replace(unit, pin=None), *cut.order[i + 1 :])
            yield from _without(problem, cut, f"the pin of {unit.pin} layers on {name_of(unit)}", [free])


def _longer(problem: Problem, cut: Cut) -> Iterator[tuple[Unit, ...]]:
    """Yield orders with one unit more, or one in place of another."""
    for unit in unused_kinds(problem, cut.order):
        if all(set(other.devices).isdisjoint(unit.devices) for other in cut.order):
            yield from inserted(problem, cut.order, unit)
            yield from replaced(problem, cut.order, unit)


def _without(relaxed: Problem, cut: Cut, condition: str, orders: Iterable[tuple[Unit, ...]]) -> Iterator[Gain]:
    """Yield what the best of the first few orders gains without a condition, if anything."""
    found: Cut | None = None
    for order in islice(orders, max(1, tries_within(CONDITION_STEPS, relaxed, cut))):
        if relaxed.admits(order):
            found = best_cut(relaxed, order, found.cost if found else _worth_telling(cut), fine=False) or found
    if found is not None:
        why = f"{condition} binds: without it, {_change(relaxed, cut, found)}"
        yield _gain(cut, found), Binding(kind="condition", why=why)


def _better(problem: Problem, cut: Cut, order: tuple[Unit, ...]) -> Cut | None:
    return best_cut(problem, order, _worth_telling(cut), fine=False)


def _worth_telling(cut: Cut) -> float:
    return cut.cost - TOLD * abs(cut.cost)


def _gain(cut: Cut, better: Cut) -> float:
    return cut.cost - better.cost


def _change(problem: Problem, cut: Cut, better: Cut) -> str:
    if problem.objective == "score":
        return f"the score would be {-better.cost:.4g} or more instead of {-cut.cost:.4g}"
    what = "the slowest stage" if problem.objective == "throughput" else "a token"
    times = f"{seconds_text(better.cost)} or less instead of {seconds_text(cut.cost)}"
    return f"{what} would take {times}{problem.counted_in}"
