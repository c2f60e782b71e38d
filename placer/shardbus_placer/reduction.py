"""Leaving out units that no plan as good as the known one can use."""

from dataclasses import replace

from shardbus_placer.problem import Problem, Unit

SLACK = 1e-7
"""Relative slack: a plan exactly as good must not fall out."""


def without_the_useless(problem: Problem, known: float | None) -> Problem:
    """Return the problem with only those units that a plan costing at most ``known`` may use.

    For ``throughput``: a unit that cannot even take one layer and its quickest hop in that time is left out.

    For ``latency`` with equal layers: were all layers spread over the fastest units that have room, and a stage on
    this unit besides, the least that must move to it and the least hops already cost too much: then it is left out.
    """
    if problem.moves:
        return _without_the_remote(problem, known)
    if known is not None and problem.objective == "throughput":
        kept = [unit for unit in problem.units if unit.pin is not None or _in_time(problem, unit, known * (1 + SLACK))]
        return replace(problem, units=tuple(kept)) if len(kept) < len(problem.units) else problem
    plain = all(unit.seconds_by_count is None for unit in problem.units)
    if known is None or problem.objective != "latency" or not problem.even or not plain:
        return problem
    limit = known * (1 + SLACK)
    order = sorted(range(len(problem.units)), key=lambda i: problem.units[i].seconds[1])
    most = [problem.most_layers(unit) for unit in problem.units]
    left, total, marginal = problem.layers, 0.0, 0.0
    for i in order:
        count = min(left, most[i])
        total += count * problem.units[i].seconds[1]
        left -= count
        if count:
            marginal = problem.units[i].seconds[1]
        if left == 0:
            break
    if left:
        return problem
    stages, held = 0, 0
    for layers in sorted(most, reverse=True):
        stages, held = stages + 1, held + layers
        if held >= problem.layers:
            break
    hop = min((seconds for seconds in problem.least_hops if seconds is not None), default=0.0)
    head = min(unit.head_seconds for unit in problem.units)
    kept: list[Unit] = []
    for i, unit in enumerate(problem.units):
        more = max(0.0, unit.seconds[1] - marginal)
        hops = (max(stages, 1 if most[i] >= problem.layers else 2) - 1) * hop
        if unit.pin is not None or (total + more + head + hops) * (1 - SLACK) <= limit:
            kept.append(unit)
    return replace(problem, units=tuple(kept)) if len(kept) < len(problem.units) else problem


def _without_the_remote(problem: Problem, known: float | None) -> Problem:
    """Return the problem with only those units that may hold a layer although moving has a price.

    Were every layer where it costs the least, but for the one that costs least more on this unit, and the head and the
    least hop of two stages besides, unless it holds all: if that is more than ``known`` it is left out.
    """
    if known is None:
        return problem
    limit, latency = known * (1 + SLACK), problem.objective == "latency"
    least = problem.least_by_layer if latency else problem.least_moved_by_layer
    total = sum(least) + problem.least_moved_ends
    if latency:
        total += min(unit.head_seconds for unit in problem.units)
    hop = min((seconds for seconds in problem.least_hops if seconds is not None), default=0.0)
    kept: list[Unit] = []
    for unit in problem.units:
        table = unit.running if latency or unit.moving is None else unit.moving.layers
        more = min(table[layer + 1] - table[layer] - least[layer] for layer in problem.layer_kinds[0])
        alone = problem.memory.stage(0, problem.layers) <= unit.room_bytes
        further = hop * (not alone) if latency else problem.quickest_layer(unit)
        if unit.pin is not None or (total + more + further) * (1 - SLACK) <= limit:
            kept.append(unit)
    return replace(problem, units=tuple(kept)) if len(kept) < len(problem.units) else problem


def _in_time(problem: Problem, unit: Unit, seconds: float) -> bool:
    hop = problem.least_hops[unit.node]
    return problem.quickest_layer(unit) + min(unit.head_seconds, unit.head_seconds if hop is None else hop) <= seconds
