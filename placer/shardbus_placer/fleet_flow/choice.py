"""Which units may be used together: out of those that share devices, and as many as the request allows."""

from collections.abc import Sequence

from shardbus_placer.fleet_flow.grouping import in_line
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.teams import first_course
from shardbus_placer.problem import Problem


def best_choice(problem: Problem, rates: Rates, bound: float, depth: int) -> list[int]:
    """Return the choice of units, out of those that share devices, whose first pipeline is best."""
    choices = _choices(problem, rates)
    if len(choices) == 1:
        return choices[0]

    def rate(units: Sequence[int]) -> float:
        course = first_course(rates, in_line(rates, units), bound, depth)
        return 0.0 if course is None else course.rate

    return max(choices, key=rate)


def _choices(problem: Problem, rates: Rates) -> list[list[int]]:
    """Return choices of units that share no device: the smallest ones, and groups of each size with what is left."""
    sizes = sorted({len(unit.devices) for unit in problem.units})
    found: list[list[int]] = []
    for preferred in sizes:
        taken: set[str] = set()
        chosen: list[int] = []
        order = sorted(
            (index for index in range(len(problem.units)) if rates.most(index)),
            key=lambda index: (
                len(problem.units[index].devices) != preferred,
                len(problem.units[index].devices),
                index,
            ),
        )
        for index in order:
            if taken.isdisjoint(problem.units[index].devices):
                taken.update(problem.units[index].devices)
                chosen.append(index)
        found.append(_within_limits(problem, rates, chosen))
    return found


def _within_limits(problem: Problem, rates: Rates, units: Sequence[int]) -> list[int]:
    """Return as many of the units as ``max_devices`` and ``max_nodes`` allow, those that do most.

    One of each of the first ``min_nodes`` nodes is among them, where that is possible at all.
    """
    order = sorted(units, key=lambda index: (-rates.work(index), index))
    by_node: dict[str, float] = {}
    for index in order:
        for node in nodes_of(problem, index):
            by_node[node] = by_node.get(node, 0.0) + rates.work(index)
    ranked = sorted(by_node, key=lambda node: (-by_node[node], node))[: problem.max_nodes]
    nodes, wanted = set(ranked), set(ranked[: problem.min_nodes])
    firsts: list[int] = []
    for index in order:
        if problem.min_nodes > 1 and not wanted.isdisjoint(nodes_of(problem, index)):
            wanted -= nodes_of(problem, index)
            firsts.append(index)
    order = [*firsts, *(index for index in order if index not in firsts)]
    kept: list[int] = []
    devices = 0
    for index in order:
        size = len(problem.units[index].devices)
        if nodes_of(problem, index) <= nodes and devices + size <= problem.max_devices:
            kept.append(index)
            devices += size
    return sorted(kept)


def nodes_of(problem: Problem, index: int) -> set[str]:
    """Return the nodes that a unit has devices of."""
    return {device.node_id for device in problem.units[index].devices}
