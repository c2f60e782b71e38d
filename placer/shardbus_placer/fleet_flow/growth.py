"""Units that join others side by side: so that more gets through, or so that enough nodes take part."""

from collections.abc import Sequence

from shardbus_placer.fleet_flow.choice import nodes_of
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.spending import Spending
from shardbus_placer.fleet_flow.traffic import Capacities, Held, Traffic, traffic
from shardbus_placer.problem import Problem

LITTLE = 1e-6


def grown(
    problem: Problem, rates: Rates, capacity: Capacities, begun: Traffic, units: Sequence[int], spending: Spending
) -> Traffic:
    """Return the flow with further units beside those that hold layers, each kept if more gets through."""
    best, depth = begun, min(problem.max_stages, problem.layers)
    for index in units:
        for start, end, pipeline in sorted({(one.start, one.end, one.pipeline) for one in best.held}):
            if not spending.trial():
                return best
            held = [*best.held, Held(index, start, end, pipeline)]
            if rates.rate(index, start, end) and fits(problem, held):
                found = traffic(rates, capacity, held, depth)
                if found.value > best.value * (1 + LITTLE):
                    best = found
                    break
    return best


def spread(
    problem: Problem, rates: Rates, capacity: Capacities, begun: Traffic, units: Sequence[int], spending: Spending
) -> Traffic:
    """Return a flow that is no smaller and passes ``min_nodes`` nodes, if joining units can make it so."""
    best, depth = begun, min(problem.max_stages, problem.layers)
    for index in units:
        for start, end, pipeline in sorted({(one.start, one.end, one.pipeline) for one in best.held}):
            if len(nodes_in(problem, best)) >= problem.min_nodes or not spending.trial():
                return best
            # Those that come first get tokens first.
            held = [Held(index, start, end, pipeline), *best.held]
            if rates.rate(index, start, end) and fits(problem, held):
                found = traffic(rates, capacity, held, depth)
                more = len(nodes_in(problem, found)) > len(nodes_in(problem, best))
                if more and found.value >= best.value * (1 - LITTLE):
                    best = found
                    break
    return best


def nodes_in(problem: Problem, through: Traffic) -> set[str]:
    """Return the nodes that take part."""
    return {node for one in through.held for node in nodes_of(problem, one.index)}


def fits(problem: Problem, held: Sequence[Held]) -> bool:
    """Return whether these units may be used together."""
    devices = [device for one in held for device in problem.units[one.index].devices]
    nodes = {node for one in held for node in nodes_of(problem, one.index)}
    return len(devices) == len(set(devices)) <= problem.max_devices and len(nodes) <= problem.max_nodes
