"""How others would spread one model over a whole fleet, restated from their documentation, and the flow it gives.

What is compared is the choice of layers for each device. The rates are ours in all cases, and the flow through each
choice is the maximal one (networkx), over as many stages as it likes.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import networkx as nx
from shardbus_placer.candidates import survey
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.traffic import Capacities, capacities
from shardbus_placer.links import links_of
from shardbus_placer.policy import Policy
from shardbus_placer.problem import device_scores, formulate
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

Choice = dict[int, tuple[int, int]]
"""Device (by its place in ``Ground.rates``) to the layers that it holds."""


@dataclass(frozen=True)
class Ground:
    """What all of them choose on: single devices, their rates, and the capacities of links."""

    rates: Rates
    capacity: Capacities

    @property
    def layers(self) -> int:
        return self.rates.layers

    @property
    def devices(self) -> list[int]:
        return [index for index in range(len(self.rates.problem.units)) if self.most(index)]

    def most(self, index: int) -> int:
        """The most layers that a device may hold wherever they lie."""
        return min(self.rates.longest[self.rates.kind[index]][place] for place in (0, 1, 2))


def ground(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> Ground:
    request = request.model_copy(update={"sharding": "pipeline"})
    surveyed, links = survey(fleet, model, request, policy), links_of(fleet, policy)
    problem = formulate(surveyed, links, model, request, device_scores(surveyed, links, policy))
    return Ground(Rates(problem, request.concurrency), capacities(problem, links, model))


def petals(on: Ground, seed: int = 0) -> Choice:
    """Servers join one after another; each fills its memory where the layers' throughputs are lowest."""
    joining = on.devices
    random.Random(seed).shuffle(joining)
    through = [0.0] * on.layers
    choice: Choice = {}
    for index in joining:
        most = on.most(index)
        start = min(range(on.layers - most + 1), key=lambda start: sorted(through[start : start + most]))
        choice[index] = start, start + most
        for layer in range(start, start + most):
            through[layer] += on.rates.rate(index, start, start + most)
    return choice


def swarm(on: Ground) -> Choice:
    """Equal stages, as few as let the smallest device hold one; each device joins the stage that is slowest yet."""
    stages = math.ceil(on.layers / min(on.most(index) for index in on.devices))
    bounds = [round(stage * on.layers / stages) for stage in range(stages + 1)]
    through = [0.0] * stages
    choice: Choice = {}
    for index in sorted(on.devices, key=lambda index: -on.rates.work(index)):
        stage = min(range(stages), key=lambda stage: through[stage])
        held = bounds[stage], bounds[stage + 1]
        if passes := on.rates.rate(index, *held):
            choice[index] = held
            through[stage] += passes
    return choice


def separate(on: Ground) -> Choice:
    """Every kind of device by itself: pipelines of as few equal stages as hold the model, as many as there are."""
    kinds: dict[str, list[int]] = {}
    for index in on.devices:
        unit = on.rates.problem.units[index]
        kinds.setdefault(f"{unit.seconds[-1]:.12g}", []).append(index)
    choice: Choice = {}
    for members in kinds.values():
        stages = math.ceil(on.layers / min(on.most(index) for index in members))
        bounds = [round(stage * on.layers / stages) for stage in range(stages + 1)]
        for number in range(len(members) // stages * stages):
            stage = number % stages
            choice[members[number]] = bounds[stage], bounds[stage + 1]
    return choice


BASELINES: dict[str, Callable[[Ground], Choice]] = {"petals": petals, "swarm": swarm, "separate": separate}


def flow_and_depth(on: Ground, choice: Choice) -> tuple[float, int]:
    """The maximal flow through a choice, and how many devices the longest way passes."""
    graph = nx.DiGraph()
    graph.add_nodes_from(["source", "sink"])
    for index, (start, end) in choice.items():
        graph.add_edge((index, "in"), (index, "out"), capacity=on.rates.rate(index, start, end))
        if start == 0:
            graph.add_edge("source", (index, "in"))
        if end == on.layers:
            graph.add_edge((index, "out"), "sink")
    units = on.rates.problem.units
    for a, (_, end) in choice.items():
        for b, (start, _) in choice.items():
            room = on.capacity.get((units[a].node, units[b].node))
            if end == start and room is not None:
                limit = {} if room == math.inf else {"capacity": room}
                graph.add_edge((a, "out"), (b, "in"), **limit)
    value, flows = nx.maximum_flow(graph, "source", "sink")
    if not value:
        return 0.0, 0
    depth: dict[int, int] = {}
    for b in sorted(choice, key=lambda index: choice[index]):
        before = [depth[a] for a in depth if flows[a, "out"].get((b, "in"), 0.0) > value * 1e-9]
        depth[b] = 1 + max(before, default=0)
    return float(value), max(depth.values())
