"""What no plan can exceed: the capped bound, sharpened by depth, and what links prove.

Give every layer a weight (and the head one), all together 1. Each token passes each layer once, so if a plan's flow
is F and unit u passes f_u tokens per second with layers of weight w_u, then sum_u f_u w_u = F. No unit passes more
than its rate T_u, nor more than F. So F <= sum_u max (w min(T_u, F)) over what u may hold: the **capped bound** is the
largest F for which this holds. It is valid for all plans, any number of pipelines, and leaves links aside.

With at most D stages on every route, sum_u f_u <= D F besides. Priced with any p >= 0 this gives
F <= sum_u max ((w - p) min(T_u, F)) + p D F; the best p is searched for, each gives a bound that holds.

**Links**: cut the nodes into clusters. A token either stays in one cluster, and then its flow is bounded by that
cluster's own capped bound, or crosses a link between two, whose capacities add up.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.problem import Problem

SLACK = 1e-9
"""Relative: a bound that is a sum of floats must never be too low."""
BISECTIONS = 30
SECTIONS = 8
ROUNDS = 3
"""How finely the rate and the price of depth are searched for, and how often in turn."""
GOLDEN = (5**0.5 - 1) / 2
MOST_CLUSTERINGS = 6

Choices = tuple[tuple[float, float], ...]
"""Weight and rate of what a unit may hold, those that are worse in both left out; rates rise."""
Brings = tuple[tuple[int, int], ...]
"""Kind and number of devices of each unit that a device may be part of."""


@dataclass(frozen=True)
class _Priced:
    """The choices of one kind at one price of depth, ready to be asked about a rate."""

    rates: list[float]
    values: list[float]
    """The most of ``(weight - price) * rate`` up to here."""
    weights: list[float]

    def at(self, rate: float) -> float:
        index = bisect_left(self.rates, rate)
        below = self.values[index - 1] if index else 0.0
        return max(below, self.weights[index] * rate) if index < len(self.rates) else below


class Certificate:
    """The bounds of one problem."""

    def __init__(self, rates: Rates, capacity: Mapping[tuple[int, int], float]) -> None:
        """Begin with the capacities of all links that exist, in tokens per second, by pair of nodes."""
        self.rates, self.problem, self.capacity = rates, rates.problem, capacity
        weights, head = _weights(self.problem)
        self._choices = [
            _choices(rates, index, weights, head)
            for index in (rates.problem.units.index(unit) for unit in rates.representatives)
        ]
        part: dict[str, list[tuple[int, int]]] = {}
        for index, unit in enumerate(self.problem.units):
            for device in unit.devices:
                part.setdefault(device, []).append((rates.kind[index], len(unit.devices)))
        node_of = {device: node for node, device in _devices(self.problem)}
        self._brings: list[Counter[Brings]] = [Counter() for _ in self.problem.nodes]
        for device, units in part.items():
            self._brings[node_of[device]][tuple(sorted(set(units)))] += 1
        self._priced: dict[float, list[_Priced]] = {}

    def bound(self, max_stages: int) -> float:
        """Return what no plan of at most so many stages on any route can exceed."""
        everywhere = range(len(self.problem.nodes))
        best = self.within(everywhere, max_stages)
        for clusters in self.clusterings():
            among = {node: number for number, cluster in enumerate(clusters) for node in cluster}
            crossing = sum(value for (a, b), value in self.capacity.items() if among[a] != among[b])
            if crossing < best:
                best = min(best, crossing + sum(self.within(cluster, max_stages) for cluster in clusters))
        return best * (1 + SLACK)

    def clusterings(self) -> list[list[list[int]]]:
        """Return ways to cut the nodes into two clusters or more: along all links below some capacity.

        Nodes that a tensor group spans stay together: what it passes is not counted on a link.
        """
        count = len(self.problem.nodes)
        together = {pair for unit in self.problem.units for pair in pairwise(unit.nodes)}
        pairs = {(min(a, b), max(a, b)): 0.0 for a, b in self.capacity if a != b}
        for (a, b), value in self.capacity.items():
            if a != b:
                pairs[min(a, b), max(a, b)] = max(pairs[min(a, b), max(a, b)], value)
        steps = sorted({value for value in pairs.values() if value < math.inf})
        found: list[list[list[int]]] = []
        for least in [*steps[:: max(1, len(steps) // MOST_CLUSTERINGS)], math.inf]:
            clusters = components(count, [*together, *(pair for pair, value in pairs.items() if value >= least)])
            if len(clusters) > 1 and clusters not in found:
                found.append(clusters)
        return found

    def within(self, nodes: Sequence[int], max_stages: int) -> float:
        """Return what no plan on these nodes can exceed, links left aside."""
        if self._most_layers(nodes) < self.problem.layers:
            return 0.0
        brings = [self._brings[node] for node in nodes]
        problem = self.problem
        if problem.max_nodes >= len(brings) and problem.max_devices >= sum(counter.total() for counter in brings):
            brings = [sum(brings, Counter[Brings]())]  # all may be used, wherever they are
        start = self._brought(brings, 0.0, math.inf)
        best = self._rate_at(brings, 0.0, 0, start)
        depth = min(max_stages, self.problem.layers)
        if depth >= sum(counter.total() for counter in brings):
            return best  # no route can be that long anyway
        for _ in range(ROUNDS):
            price = self._best_price(brings, best, depth)
            if self._brought(brings, price, best) >= best * (1 - price * depth):
                break
            best = self._rate_at(brings, price, depth, best)
        return best

    def _best_price(self, brings: Sequence[Counter[Brings]], rate: float, depth: int) -> float:
        """Return the price of depth under which ``rate`` is hardest to reach, by golden sections."""

        def spare(price: float) -> float:
            return self._brought(brings, price, rate) + rate * price * depth

        low, high = 0.0, 1.0 / depth
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_a, at_b = spare(a), spare(b)
        for _ in range(SECTIONS):
            if at_a <= at_b:
                high, b, at_b = b, a, at_a
                a = high - GOLDEN * (high - low)
                at_a = spare(a)
            else:
                low, a, at_a = a, b, at_b
                b = low + GOLDEN * (high - low)
                at_b = spare(b)
        return a if at_a <= at_b else b

    def _rate_at(self, brings: Sequence[Counter[Brings]], price: float, depth: int, high: float) -> float:
        """Return the largest rate up to ``high`` that what all devices bring at this price allows."""
        low, left = 0.0, 1 - price * depth
        for _ in range(BISECTIONS):
            rate = (low + high) / 2
            # Where a device alone holds the model, both sides are equal but for rounding.
            if self._brought(brings, price, rate) * (1 + SLACK) >= rate * left:
                low = rate
            else:
                high = rate
        return high

    def _brought(self, brings: Sequence[Counter[Brings]], price: float, rate: float) -> float:
        """Return what all devices bring, or the best of them that ``max_devices`` and ``max_nodes`` allow."""
        priced = self._priced.get(price)
        if priced is None:
            priced = self._priced[price] = [_price(choices, price) for choices in self._choices]
        distinct = {bring for counter in brings for bring in counter}
        return self._all(brings, {bring: self._share(priced, bring, rate) for bring in distinct})

    def _all(self, brings: Sequence[Counter[Brings]], share: Mapping[Brings, float]) -> float:
        if len(brings) == 1 and brings[0].total() <= self.problem.max_devices:
            return sum(count * share[bring] for bring, count in brings[0].items())
        problem = self.problem
        inside = [_best((share[bring] for bring in c.elements()), problem.max_devices) for c in brings]
        devices = _best((share[bring] for counter in brings for bring in counter.elements()), problem.max_devices)
        return min(devices, _best(inside, problem.max_nodes))

    @staticmethod
    def _share(priced: Sequence[_Priced], bring: Brings, rate: float) -> float:
        """Return the most that a device adds, as itself or as one of a group."""
        return max(0.0, *(priced[kind].at(rate) / size for kind, size in bring))

    def _most_layers(self, nodes: Sequence[int]) -> float:
        most = [self.problem.most_layers(unit) for unit in self.rates.representatives]
        return sum(
            count * max(most[kind] / size for kind, size in bring)
            for node in nodes
            for bring, count in self._brings[node].items()
        )


def components(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the connected parts of a graph of ``count`` nodes, each sorted, by their first node."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in pairs:
        parent[root(b)] = root(a)
    found: dict[int, list[int]] = {}
    for node in range(count):
        found.setdefault(root(node), []).append(node)
    return list(found.values())


def _best(values: Iterable[float], count: int) -> float:
    return sum(sorted(values, reverse=True)[:count])


def _devices(problem: Problem) -> Iterable[tuple[int, str]]:
    index = {node: position for position, node in enumerate(problem.nodes)}
    return {(index[device.node_id], device) for unit in problem.units for device in unit.devices}


def _weights(problem: Problem) -> tuple[tuple[float, ...], float]:
    """Return running sums of the layers' weights, and the head's: their share of the time on some unit."""
    unit = next((unit for unit in problem.units if unit.seconds_by_count is None), None)
    if unit is None or unit.seconds[-1] <= 0:
        return tuple(layer / problem.layers for layer in range(problem.layers + 1)), 0.0
    whole = unit.seconds[-1] + unit.head_seconds
    return tuple(seconds / whole for seconds in unit.seconds), unit.head_seconds / whole


def _choices(rates: Rates, index: int, weights: Sequence[float], head: float) -> Choices:
    layers, found = rates.layers, list[tuple[float, float]]()
    for count in range(1, layers + 1):
        starts = {0, 1, layers - count} if rates.problem.even else range(layers - count + 1)
        for start in starts:
            end = start + count
            if end <= layers and (rate := rates.rate(index, start, end)):
                found.append((weights[end] - weights[start] + head * (end == layers), rate))
    kept: list[tuple[float, float]] = []
    fastest = 0.0
    for weight, rate in sorted(found, reverse=True):
        if rate > fastest:
            kept.append((weight, rate))
            fastest = rate
    return tuple(kept)


def _price(choices: Choices, price: float) -> _Priced:
    values = [max(0.0, (weight - price) * rate) for weight, rate in choices]
    return _Priced(
        [rate for _, rate in choices],
        list(accumulate(values, max)),
        [max(0.0, weight - price) for weight, _ in choices],
    )
