"""Every flow there is for a tiny fleet: all choices of layer ranges, and the maximal flow through each by networkx.

Built on the formulas of ``brute_force.py``, which are written apart from the planner's. Devices stand alone (no tensor
groups). Where devices of one node share a link at several layer boundaries, the link is counted for each boundary
apart, so the best found here may be a little more than any real plan; with one device per node it is exact.
"""

import math
from collections.abc import Iterator
from itertools import combinations

import networkx as nx
from shardbus_placer.policy import Policy
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest
from support.brute_force import BruteForce

Range = tuple[int, int]
Choice = dict[DeviceKey, Range]


class FlowBruteForce:
    def __init__(self, fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> None:
        self.model, self.request = model, request
        self.plain = BruteForce(fleet, model, request, policy)
        self.usable = [key for key in self.plain.devices if self.plain._usable(key)]
        ranges = list(combinations(range(model.layers + 1), 2))
        self.rates: dict[tuple[DeviceKey, Range], float] = {
            (key, (start, end)): request.concurrency / max(1e-9, self.plain.seconds((key,), start, end))
            for key in self.usable
            for start, end in ranges
            if self.plain.needed(key, start, end, 1) <= self.plain.free(key)
        }

    def best(self) -> float:
        """The largest flow of all plans, 0 if there is none."""
        found = 0.0
        for choice in self._choices(self.usable, {}):
            if self._least_over_layers(choice) > found:
                found = max(found, self.flow(choice))
        return found

    def _choices(self, keys: list[DeviceKey], chosen: Choice) -> Iterator[Choice]:
        if not keys:
            request = self.request
            nodes = {key.split("/")[0] for key in chosen}
            if len(nodes) < request.min_nodes or len(nodes) > (request.max_nodes or math.inf):
                return
            if len(chosen) <= (request.max_devices or math.inf):
                yield chosen
            return
        key, *others = keys
        yield from self._choices(others, chosen)
        for device, range_ in self.rates:
            if device == key:
                yield from self._choices(others, chosen | {key: range_})

    def _least_over_layers(self, choice: Choice) -> float:
        """No more flows than the devices of any layer pass together."""
        return min(
            sum(self.rates[key, range_] for key, range_ in choice.items() if range_[0] <= layer < range_[1])
            for layer in range(self.model.layers)
        )

    def flow(self, choice: Choice) -> float:
        """The largest flow through these devices; all of them must pass something, and no way be too deep."""
        steps = [
            (a, b)
            for a, (_, end) in choice.items()
            for b, (start, _) in choice.items()
            if end == start and self.plain._link(a, b) is not None
        ]
        best = 0.0
        for count in range(len(steps), -1, -1):
            for kept in combinations(steps, count):
                if self._depth(choice, kept) <= (self.request.max_stages or math.inf):
                    best = max(best, self._flow(choice, kept))
            if best and self.request.max_stages is None:
                break  # leaving hand-overs out gains nothing
        return best

    def _depth(self, choice: Choice, steps: tuple[tuple[DeviceKey, DeviceKey], ...]) -> int:
        depth: dict[DeviceKey, int] = {}
        for key in sorted(choice, key=lambda key: choice[key]):
            depth[key] = 1 + max((depth[a] for a, b in steps if b == key), default=0)
        return max(depth.values(), default=0)

    def _flow(self, choice: Choice, steps: tuple[tuple[DeviceKey, DeviceKey], ...]) -> float:
        graph = nx.DiGraph()
        graph.add_nodes_from(["source", "sink"])
        for key, range_ in choice.items():
            graph.add_edge((key, "in"), (key, "out"), capacity=self.rates[key, range_])
            if range_[0] == 0:
                graph.add_edge("source", (key, "in"))
            if range_[1] == self.model.layers:
                graph.add_edge((key, "out"), "sink")
        for a, b in steps:
            add_step(graph, self.model, self.plain._link(a, b), a, b, choice[a][1])
        return float(nx.maximum_flow_value(graph, "source", "sink"))


def add_step(graph: object, model: ModelProfile, link: object, a: DeviceKey, b: DeviceKey, layer: int) -> None:
    """Let ``a`` hand over to ``b``: over the link that their nodes share, or over one of their own inside a node."""
    assert isinstance(graph, nx.DiGraph)
    bandwidth: float = getattr(link, "bandwidth_bytes_per_second")  # noqa: B009 - any link
    size = model.activation_bytes_per_token
    limit = {"capacity": bandwidth / size} if size else {}
    here, there = a.split("/")[0], b.split("/")[0]
    if here == there:
        graph.add_edge((a, "out"), (b, "in"), **limit)
        return
    wire = (here, there, layer)
    graph.add_edge((a, "out"), (wire, "in"))
    graph.add_edge((wire, "in"), (wire, "out"), **limit)
    graph.add_edge((wire, "out"), (b, "in"))


def flow_of_plan(fleet: Fleet, model: ModelProfile, placed: Placed, policy: Policy) -> float:
    """The largest flow through a plan's own stages, at the rates it claims, by networkx."""
    plain = BruteForce(fleet, model, PlacementRequest(model=model), policy)
    graph = nx.DiGraph()
    graph.add_nodes_from(["source", "sink"])
    for stage in placed.stages:
        name = stage.devices[0]
        graph.add_edge((name, "in"), (name, "out"), capacity=stage.tokens_per_second)
        if stage.start_layer == 0:
            graph.add_edge("source", (name, "in"))
        if stage.end_layer == model.layers:
            graph.add_edge((name, "out"), "sink")
        for after in placed.stages:
            link = plain._link(name, after.devices[0]) if after.start_layer == stage.end_layer else None
            if link is not None:
                add_step(graph, model, link, name, after.devices[0], stage.end_layer)
    return float(nx.maximum_flow_value(graph, "source", "sink"))
