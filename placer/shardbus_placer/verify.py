"""Whether a plan keeps every promise, worked out again from the raw inputs.

Nothing here calls the planner's capacity or cost code: memory, coverage, links, conditions, times and the
objective are computed a second time, from the fleet, the model, the request and the policy's figures. An error
in the planner is then seen here, and not on a GPU.
"""

import math
from collections.abc import Iterator
from itertools import permutations

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.dtypes import computes_in
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Stage

from shardbus_placer import verify_flow
from shardbus_placer.policy import Policy

CLOSE = 1e-6
"""Relative difference that two ways of adding the same floats may have."""


def verify(
    fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed
) -> tuple[str, ...]:
    """Return everything that is wrong with the plan, one sentence each; empty means it holds."""
    checks = (_known, _coverage, _memory, _places, _conditions, _tensor, _links, _stage_times, _times, _prefill)
    if request.objective == "fleet_throughput":
        flow = (verify_flow.ranges, _conditions, verify_flow.amounts, verify_flow.promises)
        checks = (_known, _memory, _places, _tensor, _stage_times, *flow)
    for check in checks:
        wrong = tuple(check(fleet, model, request, policy, placed))
        if wrong:  # later checks rely on what earlier ones made sure of
            return wrong
    return ()


Check = Iterator[str]


def _known(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    del request, policy
    if placed.model_id != model.model_id:
        yield f"the plan is for {placed.model_id}, not {model.model_id}"
    devices = {key for key, _, _ in fleet.devices()}
    seen: set[DeviceKey] = set()
    for stage in placed.stages:
        for device in stage.devices:
            if device not in devices:
                yield f"{device} is not in the fleet"
            if device in seen:
                yield f"{device} is used twice"
            seen.add(device)
        if not stage.devices:
            yield f"the stage of layers {stage.start_layer} to {stage.end_layer} has no device"
        if set(stage.memory_bytes) != set(stage.devices):
            yield f"the stage of layers {stage.start_layer} to {stage.end_layer} does not say each device's memory"


def _coverage(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    del fleet, request, policy
    at = 0
    for stage in placed.stages:
        if stage.start_layer != at:
            yield f"a stage begins at layer {stage.start_layer}, but the one before ends at {at}"
        if stage.end_layer <= stage.start_layer:
            yield f"a stage of layers {stage.start_layer} to {stage.end_layer} holds nothing"
        at = stage.end_layer
    if at != model.layers:
        yield f"the stages end at layer {at} of {model.layers}"


def _memory(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    by_key = {key: device for key, _, device in fleet.devices()}
    for stage in placed.stages:
        for key in stage.devices:
            device = by_key[key]
            needed, free = _needed(model, request, policy, device, stage), _free(request, policy, device)
            if free is None:
                yield f"nobody knows how much memory {key} has"
            elif needed > free:
                yield f"{key} must hold {needed:,} bytes but has {free:,}"
            if stage.memory_bytes[key] != needed:
                yield f"the plan says {key} holds {stage.memory_bytes[key]:,} bytes; it is {needed:,}"


def _needed(model: ModelProfile, request: PlacementRequest, policy: Policy, device: FleetDevice, stage: Stage) -> int:
    kv = model.kv_bytes_by_layer(request.context_tokens)
    total = 0
    for layer in range(stage.start_layer, stage.end_layer):
        total += model.bytes_by_layer[layer] + kv[layer] * request.concurrency
    begins, ends = stage.start_layer == 0, stage.end_layer == model.layers
    tied = max(model.head_bytes, model.embedding_bytes)
    if model.tied_embedding and ends:
        total += tied
    elif ends:
        total += model.head_bytes
    if begins and not (model.tied_embedding and ends):
        total += model.embedding_bytes
    heads, of = _largest_share(model, len(stage.devices))
    share = -(-total * heads // of)
    tokens = request.context_tokens * request.concurrency
    tokens = min(tokens, policy.activation_tokens)
    share += tokens * model.activation_bytes_per_token * policy.activation_buffers
    if request.runtime_overhead_bytes is None:
        return share + policy.of_backend(device.backend).runtime_overhead_bytes
    return share + request.runtime_overhead_bytes


def _largest_share(model: ModelProfile, devices: int) -> tuple[int, int]:
    """Return how many parts of how many the device with most of a layer holds: equal ones, or whole KV heads."""
    heads = model.num_key_value_heads
    if heads is None or heads % devices == 0 or not model.supports_uneven_tensor:
        return 1, devices
    return math.ceil(heads / devices), heads


def _free(request: PlacementRequest, policy: Policy, device: FleetDevice) -> int | None:
    total = device.memory_total_bytes
    if total is None:
        return None
    rules = policy.of_backend(device.backend)
    fraction = request.headroom_fraction if request.headroom_fraction is not None else rules.headroom_fraction
    least = request.headroom_bytes if request.headroom_bytes is not None else rules.headroom_bytes
    used = device.memory_used_bytes
    if used is None:
        used = math.ceil(total * policy.unknown_memory_used_fraction)
    kept = math.ceil(total * fraction)
    return total - used - device.memory_reserved_bytes - max(least, kept)


def _places(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    by_key = {key: device for key, _, device in fleet.devices()}
    for stage in placed.stages:
        for key in stage.devices:
            yield from _barred(key, by_key[key], model, request, policy)
            if by_key[key].backend == "cpu" and any(
                other.unified_memory and other.backend != "cpu" and other.status not in policy.barred_statuses
                for name, other in by_key.items()
                if name.node_id == key.node_id
            ):
                yield f"{key} has the memory of another device of its node"


def _barred(
    key: DeviceKey, device: FleetDevice, model: ModelProfile, request: PlacementRequest, policy: Policy
) -> Check:
    """Yield why the device may not be used at all."""
    if device.status in policy.barred_statuses:
        yield f"{key} is {device.status}"
    if request.include and key not in request.include and key.node_id not in request.include:
        yield f"{key} is not included"
    if key in request.exclude or key.node_id in request.exclude:
        yield f"{key} is excluded"
    if model.backends is not None and device.backend is not None and device.backend not in model.backends:
        yield f"{key} runs {device.backend}, which the model does not"
    if not computes_in(device.dtypes, model.dtype):
        yield f"{key} does not compute in {model.dtype}"
    battery = device.battery_percent
    if device.is_plugged_in is False and battery is not None and battery < policy.minimum_battery_percent:
        yield f"{key} is on battery at {battery:.0f} %"


def _conditions(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    del fleet, model, policy
    devices = [key for stage in placed.stages for key in stage.devices]
    nodes = {key.node_id for key in devices}
    if len(nodes) < request.min_nodes:
        yield f"{len(nodes)} nodes are fewer than min_nodes={request.min_nodes}"
    if request.max_nodes is not None and len(nodes) > request.max_nodes:
        yield f"{len(nodes)} nodes are more than max_nodes={request.max_nodes}"
    if request.max_devices is not None and len(devices) > request.max_devices:
        yield f"{len(devices)} devices are more than max_devices={request.max_devices}"
    yield from (verify_flow.depth if request.objective == "fleet_throughput" else _depth)(request, placed)
    held = {key: stage.layers for stage in placed.stages for key in stage.devices}
    for name, count in request.pin.items():
        if held.get(DeviceKey(name)) != count:
            yield f"{name} is pinned to {count} layers but holds {held.get(DeviceKey(name), 0)}"


def _depth(request: PlacementRequest, placed: Placed) -> Check:
    if request.max_stages is not None and len(placed.stages) > request.max_stages:
        yield f"{len(placed.stages)} stages are more than max_stages={request.max_stages}"


def _tensor(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    by_key = {key: device for key, _, device in fleet.devices()}
    declared: dict[tuple[str, str], FleetLink] = {(link.from_node, link.to_node): link for link in fleet.links}
    for stage in placed.stages:
        size = len(stage.devices)
        if size == 1:
            if request.sharding == "tensor":
                yield f"{stage.devices[0]} is alone in a stage of a tensor placement"
            continue
        if request.sharding == "pipeline" or not model.supports_tensor:
            yield f"{size} devices share a stage, which was not asked for or is not supported"
        heads = model.num_key_value_heads
        if not (model.supports_uneven_tensor and heads is not None and size <= heads):
            for what in ("num_attention_heads", "num_key_value_heads", "hidden_size"):
                value: int | None = getattr(model, what)
                if value is None or value % size:
                    yield f"{what} {value} cannot be split over {size} devices"
        here = {key.node_id for key in stage.devices}
        least = policy.tensor_link
        if any(
            least is None
            or (link := _link(fleet, policy, declared, a, b)) is None
            or link.bandwidth_bytes_per_second < least.bandwidth_bytes_per_second
            or link.latency_seconds > least.latency_seconds
            for a, b in permutations(stage.devices, 2)
            if a.node_id != b.node_id
        ):
            yield f"the tensor group {', '.join(stage.devices)} spans nodes whose links are too slow for it"
        if len({sum(key.node_id == node for key in stage.devices) for node in here}) > 1:
            yield f"the tensor group {', '.join(stage.devices)} has more devices on one node than on another"
        kinds = {(d.name, d.backend, d.memory_total_bytes) for d in (by_key[key] for key in stage.devices)}
        if len(kinds) > 1:
            yield f"the tensor group {', '.join(stage.devices)} mixes kinds of devices"


def _link(
    fleet: Fleet, policy: Policy, declared: dict[tuple[str, str], FleetLink], a: DeviceKey, b: DeviceKey
) -> LinkFigures | None:
    if a.node_id == b.node_id:
        return _node(fleet, a).device_link or policy.device_link
    return declared.get((a.node_id, b.node_id), fleet.default_link)


def _node(fleet: Fleet, key: DeviceKey) -> FleetNode:
    return next(node for node in fleet.nodes if node.node_id == key.node_id)


def _links(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    declared: dict[tuple[str, str], FleetLink] = {(link.from_node, link.to_node): link for link in fleet.links}
    pairs = list(zip(placed.stages, placed.stages[1:], strict=False))
    if len(placed.hops) != len(pairs):
        yield f"{len(placed.hops)} hops do not join {len(placed.stages)} stages"
        return
    for (before, after), hop in zip(pairs, placed.hops, strict=True):
        if hop.from_device not in before.devices or hop.to_device not in after.devices:
            yield f"the hop from {hop.from_device} to {hop.to_device} does not join consecutive stages"
            continue
        link = _link(fleet, policy, declared, hop.from_device, hop.to_device)
        if link is None:
            yield f"there is no link from {hop.from_device.node_id} to {hop.to_device.node_id}"
            continue
        size = model.activation_bytes_per_token * request.concurrency
        seconds = link.latency_seconds + size / link.bandwidth_bytes_per_second
        if not _same(hop.seconds, seconds):
            yield f"the hop to {hop.to_device} takes {seconds} s, not {hop.seconds} s"


def _stage_times(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    by_key = {key: device for key, _, device in fleet.devices()}
    known = [d.memory_bandwidth_bytes_per_second for d in by_key.values()]
    slowest = min((speed for speed in known if speed is not None), default=math.inf)
    for stage in placed.stages:
        seconds = max(
            _stage_seconds(fleet, model, request, policy, by_key[key], slowest, stage) for key in stage.devices
        )
        if not _same(stage.seconds, seconds):
            yield f"the stage on {stage.devices[0]} takes {seconds} s, not {stage.seconds} s"


def _times(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    hops = [*(hop.seconds for hop in placed.hops), 0.0]
    stages = [stage.seconds for stage in placed.stages]
    waited = sum(stages) + sum(hops)
    if not _same(placed.predicted.seconds_per_token, waited):
        yield f"a token takes {waited} s, not {placed.predicted.seconds_per_token} s"
    objective = placed.objective
    if objective.name != request.objective:
        yield f"the plan is for {objective.name}, but {request.objective} was asked"
        return
    if objective.name == "throughput":
        value = max(stage + hop for stage, hop in zip(stages, hops, strict=True))
    elif objective.name == "latency":
        value = waited
    else:
        scores = _scores(fleet, model, request, policy)
        value = sum(
            stage.layers * sum(scores[key] for key in stage.devices) / len(stage.devices) for stage in placed.stages
        )
    if not _same(objective.value, value):
        yield f"the objective is {value}, not {objective.value}"
    if objective.bound is not None:
        better = objective.bound - objective.value if objective.name == "score" else objective.value - objective.bound
        if better < -CLOSE * abs(objective.value):
            yield f"the objective {objective.value} is better than its bound {objective.bound}"


def _stage_seconds(
    fleet: Fleet,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    device: FleetDevice,
    slowest: float,
    stage: Stage,
) -> float:
    speed = _speed(device, policy)
    bandwidth = _peak(device, policy, slowest) * policy.of_backend(device.backend).bandwidth_efficiency * speed
    kv = model.kv_bytes_by_layer(request.context_tokens)
    measured = next((one for one in device.measured if one.model_id == model.model_id), None)
    seconds = 0.0
    for layer in range(stage.start_layer, stage.end_layer):
        held, active = model.bytes_by_layer[layer], model.active_bytes_by_layer[layer]
        weights = held if active >= held else min(held, active * request.concurrency)
        if measured is not None and measured.seconds_per_layer is not None:
            alone = min(held, active)
            more = weights - alone + kv[layer] * (request.concurrency - 1)
            seconds += measured.seconds_per_layer / speed + more / bandwidth
        else:
            seconds += (weights + kv[layer] * request.concurrency) / bandwidth
    if measured is not None and measured.tokens_per_second_by_layers:
        rates = measured.tokens_per_second_by_layers[: model.layers]
        if stage.layers <= len(rates):
            seconds = request.concurrency / rates[stage.layers - 1] / speed
        else:
            seconds = request.concurrency / rates[-1] / speed / len(rates) * stage.layers
    if stage.end_layer == model.layers:
        tied = max(model.head_bytes, model.embedding_bytes)
        seconds += (tied if model.tied_embedding else model.head_bytes) / bandwidth
    size = len(stage.devices)
    heads, of = _largest_share(model, size)
    seconds *= heads / of
    if size > 1:
        declared: dict[tuple[str, str], FleetLink] = {(link.from_node, link.to_node): link for link in fleet.links}
        ways = [_link(fleet, policy, declared, a, b) for a, b in permutations(stage.devices, 2)]
        slowest_latency = max(link.latency_seconds for link in ways if link is not None)
        least_bandwidth = min(link.bandwidth_bytes_per_second for link in ways if link is not None)
        piece = model.activation_bytes_per_token * request.concurrency / size
        step = slowest_latency + piece / least_bandwidth
        seconds += 2 * stage.layers * 2 * (size - 1) * step
    return seconds


def _prefill(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, placed: Placed) -> Check:
    """Yield what is wrong with the times for a prompt of the asked context, all stages and hops one after another."""
    prompt, whole = request.context_tokens, 0.0
    by_key = {key: device for key, _, device in fleet.devices()}
    declared: dict[tuple[str, str], FleetLink] = {(link.from_node, link.to_node): link for link in fleet.links}
    crossing = prompt * model.activation_bytes_per_token
    for stage in placed.stages:
        group = [by_key[key] for key in stage.devices]
        peaks = [_flops(device, model, policy) for device in group]
        if prompt == 0 or model.flops_by_layer is None or None in peaks:
            if stage.prefill_seconds is not None or placed.predicted.prefill_seconds is not None:
                yield f"nobody knows how long the stage on {stage.devices[0]} takes for a prompt"
            return
        known = [d.memory_bandwidth_bytes_per_second for d in by_key.values() if d.memory_bandwidth_bytes_per_second]
        slowest, seconds = min(known, default=math.inf), 0.0
        for device, peak in zip(group, peaks, strict=True):
            bandwidth = _peak(device, policy, slowest) * _speed(device, policy)
            bandwidth *= policy.of_backend(device.backend).bandwidth_efficiency
            operations = read = 0.0
            for layer in range(stage.start_layer, stage.end_layer):
                operations += model.flops_by_layer[layer] * prompt
                read += min(model.bytes_by_layer[layer], model.active_bytes_by_layer[layer] * prompt)
            head = max(model.head_bytes, model.embedding_bytes) if model.tied_embedding else model.head_bytes
            head *= stage.end_layer == model.layers
            seconds = max(seconds, max(operations / (peak or 1.0), read / bandwidth) + head / bandwidth)
        heads, of = _largest_share(model, len(group))
        seconds *= heads / of
        if len(group) > 1:
            ways = [_link(fleet, policy, declared, a, b) for a, b in permutations(stage.devices, 2)]
            latency = max(link.latency_seconds for link in ways if link is not None)
            rate = min(link.bandwidth_bytes_per_second for link in ways if link is not None)
            seconds += 4 * stage.layers * (len(group) - 1) * (latency + crossing / len(group) / rate)
        whole += seconds
        if stage.prefill_seconds is None or not _same(stage.prefill_seconds, seconds):
            yield f"the stage on {stage.devices[0]} takes {seconds} s for a prompt, not {stage.prefill_seconds} s"
    for hop in placed.hops:
        link = _link(fleet, policy, declared, hop.from_device, hop.to_device)
        seconds = 0.0 if link is None else link.latency_seconds + crossing / link.bandwidth_bytes_per_second
        whole += seconds
        if hop.prefill_seconds is None or not _same(hop.prefill_seconds, seconds):
            yield f"the hop to {hop.to_device} takes {seconds} s for a prompt, not {hop.prefill_seconds} s"
    if placed.predicted.prefill_seconds is None or not _same(placed.predicted.prefill_seconds, whole):
        yield f"a prompt takes {whole} s, not {placed.predicted.prefill_seconds} s"


def _flops(device: FleetDevice, model: ModelProfile, policy: Policy) -> float | None:
    names = [model.dtype, "float16", "bfloat16", "float32"]
    peak = next((device.peak_flops[name] for name in names if name in device.peak_flops), None)
    return (
        None if peak is None else peak * policy.of_backend(device.backend).compute_efficiency * _speed(device, policy)
    )


def _speed(device: FleetDevice, policy: Policy) -> float:
    """Return the share of its speed that the device has to give."""
    speed = 1.0
    hot, threshold = device.thermal_temperature_c, device.thermal_throttle_threshold_c
    throttling = device.is_thermal_throttling
    if throttling is None and hot is not None and threshold is not None:
        throttling = hot >= threshold
    if throttling:
        speed *= policy.throttling_speed
    if device.is_plugged_in is False:
        speed *= policy.on_battery_speed
    return speed * (1 - policy.utilization_weight * (device.compute_utilization_percent or 0) / 100)


def _peak(device: FleetDevice, policy: Policy, slowest: float) -> float:
    """Return the memory bandwidth; an unknown one is the policy's, and no faster than the slowest known."""
    known = device.memory_bandwidth_bytes_per_second
    return known or min(policy.of_backend(device.backend).unknown_bandwidth_bytes_per_second, slowest)


def _scores(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> dict[DeviceKey, float]:
    """Return the weighted score of every device that may be used, each part against the best of these."""
    usable = {
        key: device
        for key, _, device in fleet.devices()
        if not any(_barred(key, device, model, request, policy)) and _may_hold_something(device, model, request, policy)
    }
    known = [d.memory_bandwidth_bytes_per_second for _, _, d in fleet.devices()]
    slowest = min((speed for speed in known if speed is not None), default=math.inf)
    nodes = {key.node_id for key in usable}
    declared = {(link.from_node, link.to_node): link.bandwidth_bytes_per_second for link in fleet.links}
    default = 0.0 if fleet.default_link is None else fleet.default_link.bandwidth_bytes_per_second
    reach = {
        node: sum(declared.get((node, o), default) + declared.get((o, node), default) for o in nodes if o != node)
        for node in nodes
    }
    raw: dict[DeviceKey, dict[str, float]] = {}
    for key, device in usable.items():
        speed, rules = _speed(device, policy), policy.of_backend(device.backend)
        raw[key] = {
            "compute": _flops(device, model, policy) or 0.0,
            "memory": max(0, _free(request, policy, device) or 0),
            "network": reach[key.node_id] if len(nodes) > 1 else 1.0,
            "bandwidth": _peak(device, policy, slowest) * rules.bandwidth_efficiency * speed,
        }
    best = {name: max(parts[name] for parts in raw.values()) for name in ("compute", "memory", "network", "bandwidth")}
    weights = policy.score_weights
    whole = weights.compute + weights.memory + weights.network + weights.thermal + weights.bandwidth
    found: dict[DeviceKey, float] = {}
    for key, parts in raw.items():
        shares = {name: value / best[name] if best[name] else 0.0 for name, value in parts.items()}
        total = weights.compute * shares["compute"] + weights.memory * shares["memory"]
        total += weights.network * shares["network"] + weights.bandwidth * shares["bandwidth"]
        found[key] = (total + weights.thermal * _coolness(usable[key])) / (whole or 1.0)
    return found


def _may_hold_something(device: FleetDevice, model: ModelProfile, request: PlacementRequest, policy: Policy) -> bool:
    """Return whether a layer fits, or a share of one where tensor groups are possible."""
    free = _free(request, policy, device)
    if free is None:
        return False
    if model.supports_tensor and request.sharding != "pipeline":
        nothing = model.model_copy(update={"layer_bytes": 0, "embedding_bytes": 0, "head_bytes": 0})
        nothing = nothing.model_copy(update={"kv_bytes_per_token_per_layer": 0})
        alone = Stage(devices=(DeviceKey("a/b"),), start_layer=0, end_layer=1, memory_bytes={}, seconds=0)
        if _needed(nothing, request, policy, device, alone) < free:
            return True
    for layer in range(model.layers):
        alone = Stage(devices=(DeviceKey("a/b"),), start_layer=layer, end_layer=layer + 1, memory_bytes={}, seconds=0)
        if _needed(model, request, policy, device, alone) <= free:
            return True
    return False


def _coolness(device: FleetDevice) -> float:
    """Return 1 at 30 degrees or less, 0 at the throttle threshold (90 where it is not told) or when unknown."""
    temperature, threshold = device.thermal_temperature_c, device.thermal_throttle_threshold_c or 90.0
    if device.is_thermal_throttling or temperature is None:
        return 0.0
    if threshold <= 30:  # noqa: PLR2004 - see above
        return 1.0 if temperature < threshold else 0.0
    return max(0.0, min(1.0, (threshold - temperature) / (threshold - 30)))


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-15)
