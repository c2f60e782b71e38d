"""Whether the stages are of this model and this fleet, and are what was asked for."""

from itertools import permutations

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import Stage

from shardbus_placer.checks import flow
from shardbus_placer.checks.claim import Claim, Wrong


def members(claim: Claim) -> Wrong:
    """Yield what is wrong with who takes part."""
    placed = claim.placed
    if placed.model_id != claim.model.model_id:
        yield f"the plan is for {placed.model_id}, not {claim.model.model_id}"
    seen: set[DeviceKey] = set()
    for stage in placed.stages:
        for device in stage.devices:
            if device not in claim.devices:
                yield f"{device} is not in the fleet"
            if device in seen:
                yield f"{device} is used twice"
            seen.add(device)
        if not stage.devices:
            yield f"the stage of layers {stage.start_layer} to {stage.end_layer} has no device"
        if set(stage.memory_bytes) != set(stage.devices):
            yield f"the stage of layers {stage.start_layer} to {stage.end_layer} does not say each device's memory"


def coverage(claim: Claim) -> Wrong:
    """Yield where the stages do not hold every layer once, in order."""
    at = 0
    for stage in claim.placed.stages:
        if stage.start_layer != at:
            yield f"a stage begins at layer {stage.start_layer}, but the one before ends at {at}"
        if stage.end_layer <= stage.start_layer:
            yield f"a stage of layers {stage.start_layer} to {stage.end_layer} holds nothing"
        at = stage.end_layer
    if at != claim.model.layers:
        yield f"the stages end at layer {at} of {claim.model.layers}"


def conditions(claim: Claim) -> Wrong:
    """Yield which of the request's conditions are not kept."""
    request, placed = claim.request, claim.placed
    devices = [key for stage in placed.stages for key in stage.devices]
    nodes = {key.node_id for key in devices}
    if len(nodes) < request.min_nodes:
        yield f"{len(nodes)} nodes are fewer than min_nodes={request.min_nodes}"
    if request.max_nodes is not None and len(nodes) > request.max_nodes:
        yield f"{len(nodes)} nodes are more than max_nodes={request.max_nodes}"
    if request.max_devices is not None and len(devices) > request.max_devices:
        yield f"{len(devices)} devices are more than max_devices={request.max_devices}"
    if request.objective == "fleet_throughput":
        yield from flow.depth(claim)
    elif request.max_stages is not None and len(placed.stages) > request.max_stages:
        yield f"{len(placed.stages)} stages are more than max_stages={request.max_stages}"
    held = {key: stage.layers for stage in placed.stages for key in stage.devices}
    for name, count in request.pin.items():
        if held.get(DeviceKey(name)) != count:
            yield f"{name} is pinned to {count} layers but holds {held.get(DeviceKey(name), 0)}"


def tensor_groups(claim: Claim) -> Wrong:
    """Yield which stages may not be shared by their devices, and which must be."""
    for stage in claim.placed.stages:
        if len(stage.devices) != 1:
            yield from _group(claim, stage)
        elif claim.request.sharding == "tensor":
            yield f"{stage.devices[0]} is alone in a stage of a tensor placement"


def _group(claim: Claim, stage: Stage) -> Wrong:
    model, least, size = claim.model, claim.policy.tensor_link, len(stage.devices)
    group = f"the tensor group {', '.join(stage.devices)}"
    if claim.request.sharding == "pipeline" or not model.supports_tensor:
        yield f"{size} devices share a stage, which was not asked for or is not supported"
    heads = model.num_key_value_heads
    if not (model.supports_uneven_tensor and heads is not None and size <= heads):
        for what in ("num_attention_heads", "num_key_value_heads", "hidden_size"):
            value: int | None = getattr(model, what)
            if value is None or value % size:
                yield f"{what} {value} cannot be split over {size} devices"
    if any(
        least is None
        or (link := claim.link(a, b)) is None
        or link.bandwidth_bytes_per_second < least.bandwidth_bytes_per_second
        or link.latency_seconds > least.latency_seconds
        for a, b in permutations(stage.devices, 2)
        if a.node_id != b.node_id
    ):
        yield f"{group} spans nodes whose links are too slow for it"
    here = {key.node_id for key in stage.devices}
    if len({sum(key.node_id == node for key in stage.devices) for node in here}) > 1:
        yield f"{group} has more devices on one node than on another"
    kinds = {(d.name, d.backend, d.memory_total_bytes) for d in (claim.devices[key] for key in stage.devices)}
    if len(kinds) > 1:
        yield f"{group} mixes kinds of devices"
