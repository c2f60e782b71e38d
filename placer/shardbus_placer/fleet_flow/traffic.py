"""Where the tokens go: the maximal flow through units that hold layers, over the links that join them.

A unit hands over to any unit that begins at the layer where it ends, if a link leads there. A link between two nodes
carries what all their devices send over it; inside a node every pair of devices has its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardbus_schemas.model_profile import ModelProfile

from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.links import Links
from shardbus_placer.maximum_flow import Network
from shardbus_placer.problem import Problem

SOURCE, SINK = 0, 1
TOO_LITTLE = 1e-9
"""A share of the whole flow that is not worth a line of its own."""

NO_WAY = 1e-11
"""A share of the fastest unit's rate that is taken for a rounding error."""

Capacities = dict[tuple[int, int], float]
"""Tokens per second by pair of nodes, for links that exist; a node with itself is any pair of its devices."""


@dataclass(frozen=True)
class Held:
    """The layers that one unit holds, and which pipeline it was chosen for."""

    index: int
    start: int
    end: int
    pipeline: int


@dataclass(frozen=True)
class Traffic:
    """A maximal flow. Units are named by their index; ``None`` is where requests enter or leave."""

    held: tuple[Held, ...]
    """Those that pass anything, by start, end and index."""
    flows: Mapping[tuple[int | None, int | None], float]
    value: float
    depth: int
    """How many units the longest way passes."""

    @property
    def passed(self) -> dict[int, float]:
        """What each unit passes."""
        found: dict[int, float] = {}
        for (_, unit), amount in self.flows.items():
            if unit is not None:
                found[unit] = found.get(unit, 0.0) + amount
        return found


def capacities(problem: Problem, links: Links, model: ModelProfile) -> Capacities:
    """Return what every link carries, in tokens per second."""
    size = model.activation_bytes_per_token

    def tokens(bandwidth: float) -> float:
        return bandwidth / size if size else math.inf

    found = {
        (a, b): tokens(link.bandwidth_bytes_per_second)
        for a, here in enumerate(problem.nodes)
        for b, there in enumerate(problem.nodes)
        if a != b and (link := links.between.get((here, there))) is not None
    }
    inside = {(a, a): tokens(links.inside[node].bandwidth_bytes_per_second) for a, node in enumerate(problem.nodes)}
    return found | inside


def traffic(rates: Rates, capacity: Capacities, held: Sequence[Held], max_stages: int) -> Traffic:
    """Return the maximal flow through these units; no way passes more than ``max_stages`` of them.

    Pipelines that share a layer boundary also hand over to each other, unless that makes a way too long.
    """
    found = _shared(rates, capacity, held, apart=False)
    if found.depth > max_stages:
        found = _shared(rates, capacity, held, apart=True)
    return found


def _shared(rates: Rates, capacity: Capacities, held: Sequence[Held], *, apart: bool) -> Traffic:
    """Return a flow that overloads no link.

    A link that several layer boundaries use together beyond its capacity is dealt out among them by what they used;
    then it cannot be overloaded any more, so this ends.
    """
    shares: dict[tuple[int, int], dict[int, float]] = {}
    while True:
        found, used = _once(rates, capacity, held, shares, apart=apart)
        over = False
        for link, by_layer in used.items():
            total = sum(by_layer.values())
            if link not in shares and total > capacity[link] * (1 + TOO_LITTLE):
                over = True
                shares[link] = {layer: capacity[link] * amount / total for layer, amount in by_layer.items()}
        if not over:
            return found


def _once(
    rates: Rates,
    capacity: Capacities,
    held: Sequence[Held],
    shares: Mapping[tuple[int, int], Mapping[int, float]],
    *,
    apart: bool,
) -> tuple[Traffic, dict[tuple[int, int], dict[int, float]]]:
    """Return a maximal flow, and what each link between nodes carries by layer boundary."""
    units = rates.problem.units
    network = Network(2 + 2 * len(held))
    edges: list[tuple[int | None, int | None, int]] = []
    """From unit, to unit (positions in ``held``), edge; for links between nodes the edges into and out of them."""
    passes = [rates.rate(unit.index, unit.start, unit.end) for unit in held]
    for at, unit in enumerate(held):
        network.edge(2 + 2 * at, 3 + 2 * at, passes[at])
        if unit.start == 0:
            edges.append((None, at, network.edge(SOURCE, 2 + 2 * at, math.inf)))
        if unit.end == rates.layers:
            edges.append((at, None, network.edge(3 + 2 * at, SINK, math.inf)))
    wires: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
    for at, unit in enumerate(held):
        for then, after in enumerate(held):
            if after.start != unit.end or (apart and after.pipeline != unit.pipeline):
                continue
            a, b = units[unit.index].node, units[after.index].node
            if (a, b) not in capacity:
                continue
            if a == b:
                edges.append((at, then, network.edge(3 + 2 * at, 2 + 2 * then, capacity[a, b])))
            else:
                wires.setdefault((a, b, unit.end, unit.pipeline if apart else 0), []).append((at, then))
    crossed: list[tuple[tuple[int, int], int, list[tuple[int, int]], list[tuple[int, int]]]] = []
    alone: list[tuple[tuple[int, int], int, int]] = []
    for (a, b, layer, _), pairs in wires.items():
        room = shares[a, b].get(layer, 0.0) if (a, b) in shares else capacity[a, b]
        if len(pairs) == 1:
            at, then = pairs[0]
            edges.append((at, then, network.edge(3 + 2 * at, 2 + 2 * then, room)))
            alone.append(((a, b), layer, edges[-1][2]))
            continue
        begin, end = network.vertex(), network.vertex()
        network.edge(begin, end, room)
        into = [(at, network.edge(3 + 2 * at, begin, math.inf)) for at in dict.fromkeys(at for at, _ in pairs)]
        out = [(then, network.edge(end, 2 + 2 * then, math.inf)) for then in dict.fromkeys(then for _, then in pairs)]
        crossed.append(((a, b), layer, into, out))
    value = network.maximise(SOURCE, SINK, NO_WAY * max(passes))
    flows: dict[tuple[int | None, int | None], float] = {}
    for at, then, edge in edges:
        flows[at, then] = network.flow(edge)
    used: dict[tuple[int, int], dict[int, float]] = {}
    for link, layer, edge in alone:
        used.setdefault(link, {})[layer] = used.get(link, {}).get(layer, 0.0) + network.flow(edge)
    for link, layer, into, out in crossed:
        by_layer = used.setdefault(link, {})
        by_layer[layer] = by_layer.get(layer, 0.0) + sum(network.flow(edge) for _, edge in into)
        for at, then, amount in _dealt([(at, network.flow(edge)) for at, edge in into], out, network):
            flows[at, then] = flows.get((at, then), 0.0) + amount
    return _traffic(held, flows, value), used


def _dealt(
    into: Sequence[tuple[int, float]], out: Sequence[tuple[int, int]], network: Network
) -> Iterator[tuple[int, int, float]]:
    """Return who hands how much to whom over one link: in turn, so that there are few pairs."""
    wanted = [[then, network.flow(edge)] for then, edge in out]
    for at, given in into:
        left = given
        for one in wanted:
            amount = min(left, one[1])
            if amount > 0:
                one[1] -= amount
                left -= amount
                yield at, int(one[0]), amount


def _traffic(held: Sequence[Held], flows: Mapping[tuple[int | None, int | None], float], value: float) -> Traffic:
    """Return the flow with units by their index, without those that pass nothing."""
    kept = {pair: amount for pair, amount in flows.items() if amount > TOO_LITTLE * value}
    depth = [0] * len(held)
    for at in sorted(range(len(held)), key=lambda at: held[at].start):
        before = [depth[a] for a, b in kept if b == at and a is not None]
        depth[at] = 1 + max(before, default=0)
    used = sorted({at for pair in kept for at in pair if at is not None}, key=lambda at: _order(held[at]))
    named = {
        (None if a is None else held[a].index, None if b is None else held[b].index): amount
        for (a, b), amount in sorted(
            kept.items(), key=lambda one: [_order(held[at]) if at is not None else () for at in one[0]]
        )
    }
    return Traffic(tuple(held[at] for at in used), named, value, max((depth[at] for at in used), default=0))


def _order(unit: Held) -> tuple[int, int, int]:
    return unit.start, unit.end, unit.index
