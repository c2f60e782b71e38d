"""Whether a flow of tokens keeps its promises: who hands over to whom, how much, over which links, how deep.

What holds for a stage of any plan (its memory, its devices, its time) is checked elsewhere in this folder.
"""

import math
from collections import defaultdict

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.placement import Flow, Placed, Stage

from shardbus_placer.checks.claim import CLOSE, Claim, Wrong

LEAST_SECONDS = 1e-9
"""A stage that reads nothing takes no time; it is counted as passing this quickly."""


def ranges(claim: Claim) -> Wrong:
    """Yield what is wrong with the layer ranges, and with who hands over to whom."""
    model, placed = claim.model, claim.placed
    by_name = _by_name(placed)
    if placed.hops:
        yield "a plan of flows has no single line of hops"
    for stage in placed.stages:
        if not stage.start_layer < stage.end_layer <= model.layers:
            yield f"a stage of layers {stage.start_layer} to {stage.end_layer} of {model.layers} is none"
    seen: set[tuple[DeviceKey | None, DeviceKey | None]] = set()
    for flow in placed.flows:
        pair = flow.from_device, flow.to_device
        if pair in seen:
            yield f"the flow from {pair[0]} to {pair[1]} is told twice"
        seen.add(pair)
        if pair == (None, None) or any(name is not None and name not in by_name for name in pair):
            yield f"the flow from {pair[0]} to {pair[1]} does not join stages"
            continue
        here = None if flow.from_device is None else by_name[flow.from_device]
        there = None if flow.to_device is None else by_name[flow.to_device]
        left = 0 if here is None else here.end_layer
        entered = model.layers if there is None else there.start_layer
        if left != entered:
            yield f"{pair[0]} hands over at layer {left} to {pair[1]}, which begins at layer {entered}"


def depth(claim: Claim) -> Wrong:
    """Yield whether a way is longer than the request allows."""
    request = claim.request
    deepest = max(_depths(claim.placed).values(), default=0)
    if request.max_stages is not None and deepest > request.max_stages:
        yield f"a way passes {deepest} stages, more than max_stages={request.max_stages}"


def amounts(claim: Claim) -> Wrong:
    """Yield where more flows than a stage passes or a link carries, or less leaves than enters."""
    request, placed = claim.request, claim.placed
    entered: defaultdict[DeviceKey, float] = defaultdict(float)
    left: defaultdict[DeviceKey, float] = defaultdict(float)
    for flow in placed.flows:
        if not 0 < flow.tokens_per_second < math.inf:
            yield f"the flow from {flow.from_device} to {flow.to_device} is {flow.tokens_per_second}"
        if flow.to_device is not None:
            entered[flow.to_device] += flow.tokens_per_second
        if flow.from_device is not None:
            left[flow.from_device] += flow.tokens_per_second
    for stage in placed.stages:
        name = stage.devices[0]
        rate = request.concurrency / max(LEAST_SECONDS, stage.seconds)
        if stage.tokens_per_second is None or not _same(stage.tokens_per_second, rate):
            yield f"{name} sustains {rate} tokens/s, not {stage.tokens_per_second}"
        if not _same(entered[name], left[name]):
            yield f"{entered[name]} tokens/s enter {name}, but {left[name]} leave it"
        if entered[name] <= 0:
            yield f"nothing flows through {name}"
        if entered[name] > rate * (1 + CLOSE):
            yield f"{entered[name]} tokens/s flow through {name}, which sustains {rate}"
    yield from _links(claim)


def promises(claim: Claim) -> Wrong:
    """Yield what is wrong with the objective and the predicted speeds."""
    model, request, placed = claim.model, claim.request, claim.placed
    objective, predicted = placed.objective, placed.predicted
    if objective.name != request.objective:
        yield f"the plan is for {objective.name}, but {request.objective} was asked"
    if objective.unit != "tokens/s":
        yield f"a flow is counted in tokens/s, not in {objective.unit}"
    total = sum(flow.tokens_per_second for flow in placed.flows if flow.from_device is None)
    if not _same(objective.value, total):
        yield f"the objective is {total}, not {objective.value}"
    if not _same(predicted.tokens_per_second, total):
        yield f"the rate is {total} tokens/s, not {predicted.tokens_per_second}"
    by_name = _by_name(placed)
    waited = 0.0
    for flow in placed.flows:
        if flow.to_device is not None:
            waited += flow.tokens_per_second * by_name[flow.to_device].seconds
        link = _link(claim, flow)
        if link is not None:
            size = model.activation_bytes_per_token * request.concurrency
            waited += flow.tokens_per_second * (link.latency_seconds + size / link.bandwidth_bytes_per_second)
    if total > 0 and not _same(predicted.seconds_per_token, waited / total):
        yield f"a token takes {waited / total} s in the mean, not {predicted.seconds_per_token} s"
    if objective.bound is not None:
        if objective.bound < objective.value * (1 - CLOSE):
            yield f"the objective {objective.value} is better than its bound {objective.bound}"
        if objective.gap is None or not _same(objective.value * (1 + objective.gap), objective.bound):
            yield f"from {objective.value} to {objective.bound} is no gap of {objective.gap}"
    elif objective.gap is not None:
        yield f"a gap of {objective.gap} is claimed without a bound"


def _links(claim: Claim) -> Wrong:
    """Yield which links are missing or overloaded: the devices of two nodes share one, pairs inside a node do not."""
    size = claim.model.activation_bytes_per_token
    carried: defaultdict[tuple[NodeId, NodeId], float] = defaultdict(float)
    for flow in claim.placed.flows:
        if flow.from_device is None or flow.to_device is None:
            continue
        link = _link(claim, flow)
        here, there = flow.from_device.node_id, flow.to_device.node_id
        if link is None:
            yield f"there is no link from {here} to {there}"
            continue
        if here != there:
            carried[here, there] += flow.tokens_per_second
            total = carried[here, there]
        else:
            total = flow.tokens_per_second
        if total * size > link.bandwidth_bytes_per_second * (1 + CLOSE):
            yield f"the link from {here} to {there} carries {link.bandwidth_bytes_per_second / size} tokens/s at most"


def _link(claim: Claim, flow: Flow) -> LinkFigures | None:
    if flow.from_device is None or flow.to_device is None:
        return None
    return claim.link(flow.from_device, flow.to_device)


def _by_name(placed: Placed) -> dict[DeviceKey, Stage]:
    """Return the stages by their first device, which names them."""
    return {stage.devices[0]: stage for stage in placed.stages}


def _depths(placed: Placed) -> dict[DeviceKey, int]:
    """Return for each stage how many stages the longest way up to it passes; every hand-over goes to later layers."""
    depth: dict[DeviceKey, int] = {}
    for stage in sorted(placed.stages, key=lambda stage: stage.start_layer):
        name = stage.devices[0]
        before = [flow.from_device for flow in placed.flows if flow.to_device == name]
        depth[name] = 1 + max((depth.get(device, 0) for device in before if device is not None), default=0)
    return depth


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-12)
