"""Whether stages, hops, a token and a prompt take as long as the plan says, and the objective follows from that."""

from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.placement import Stage

from shardbus_placer.checks.claim import CLOSE, Claim, Wrong, same
from shardbus_placer.checks.score import scores


def hops(claim: Claim) -> Wrong:
    """Yield which stages are not joined by a link, or by one that takes another time."""
    placed = claim.placed
    pairs = list(zip(placed.stages, placed.stages[1:], strict=False))
    if len(placed.hops) != len(pairs):
        yield f"{len(placed.hops)} hops do not join {len(placed.stages)} stages"
        return
    for (before, after), hop in zip(pairs, placed.hops, strict=True):
        if hop.from_device not in before.devices or hop.to_device not in after.devices:
            yield f"the hop from {hop.from_device} to {hop.to_device} does not join consecutive stages"
            continue
        link = claim.link(hop.from_device, hop.to_device)
        if link is None:
            yield f"there is no link from {hop.from_device.node_id} to {hop.to_device.node_id}"
            continue
        size = claim.model.activation_bytes_per_token * claim.request.concurrency
        seconds = link.latency_seconds + size / link.bandwidth_bytes_per_second
        if not same(hop.seconds, seconds):
            yield f"the hop to {hop.to_device} takes {seconds} s, not {hop.seconds} s"


def stage_times(claim: Claim) -> Wrong:
    """Yield which stages take another time for a token."""
    for stage in claim.placed.stages:
        seconds = max(_stage_seconds(claim, claim.devices[key], stage) for key in stage.devices)
        if not same(stage.seconds, seconds):
            yield f"the stage on {stage.devices[0]} takes {seconds} s, not {stage.seconds} s"


def objective(claim: Claim) -> Wrong:
    """Yield what is wrong with the time of a token, the objective and its bound."""
    placed, objective = claim.placed, claim.placed.objective
    between = [*(hop.seconds for hop in placed.hops), 0.0]
    stages = [stage.seconds for stage in placed.stages]
    waited = sum(stages) + sum(between)
    if not same(placed.predicted.seconds_per_token, waited):
        yield f"a token takes {waited} s, not {placed.predicted.seconds_per_token} s"
    if objective.name != claim.request.objective:
        yield f"the plan is for {objective.name}, but {claim.request.objective} was asked"
        return
    if objective.name == "throughput":
        value = max(stage + hop for stage, hop in zip(stages, between, strict=True))
    elif objective.name == "latency":
        value = waited
    else:
        of = scores(claim)
        value = sum(
            stage.layers * sum(of[key] for key in stage.devices) / len(stage.devices) for stage in placed.stages
        )
    if placed.movement is not None and placed.movement.horizon_tokens is not None:
        value += placed.movement.moved_seconds / placed.movement.horizon_tokens
    if not same(objective.value, value):
        yield f"the objective is {value}, not {objective.value}"
    if objective.bound is not None:
        better = objective.bound - objective.value if objective.name == "score" else objective.value - objective.bound
        if better < -CLOSE * abs(objective.value):
            yield f"the objective {objective.value} is better than its bound {objective.bound}"


def _stage_seconds(claim: Claim, device: FleetDevice, stage: Stage) -> float:
    model, request = claim.model, claim.request
    speed, bandwidth = claim.speed(device), claim.bandwidth(device)
    kv = model.kv_bytes_by_layer(request.context_tokens)
    weights_of, read_of = model.bytes_by_layer, model.active_bytes_by_layer
    measured = next((one for one in device.measured if one.model_id == model.model_id), None)
    seconds = 0.0
    for layer in range(stage.start_layer, stage.end_layer):
        held, active = weights_of[layer], read_of[layer]
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
        seconds += claim.head_bytes() / bandwidth
    size = len(stage.devices)
    heads, of = claim.largest_share(size)
    seconds *= heads / of
    if size > 1:
        latency, rate = claim.slowest_link(stage.devices)
        piece = model.activation_bytes_per_token * request.concurrency / size
        seconds += 2 * stage.layers * 2 * (size - 1) * (latency + piece / rate)
    return seconds


def prefill(claim: Claim) -> Wrong:
    """Yield what is wrong with the times for a prompt of the asked context, all stages and hops one after another."""
    placed, predicted, prompt = claim.placed, claim.placed.predicted, claim.request.context_tokens
    whole = 0.0
    for stage in placed.stages:
        seconds = _prefill_seconds(claim, stage, prompt)
        if seconds is None:
            if stage.prefill_seconds is not None or predicted.prefill_seconds is not None:
                yield f"nobody knows how long the stage on {stage.devices[0]} takes for a prompt"
            return
        whole += seconds
        if stage.prefill_seconds is None or not same(stage.prefill_seconds, seconds):
            yield f"the stage on {stage.devices[0]} takes {seconds} s for a prompt, not {stage.prefill_seconds} s"
    crossing = prompt * claim.model.activation_bytes_per_token
    for hop in placed.hops:
        link = claim.link(hop.from_device, hop.to_device)
        seconds = 0.0 if link is None else link.latency_seconds + crossing / link.bandwidth_bytes_per_second
        whole += seconds
        if hop.prefill_seconds is None or not same(hop.prefill_seconds, seconds):
            yield f"the hop to {hop.to_device} takes {seconds} s for a prompt, not {hop.prefill_seconds} s"
    if predicted.prefill_seconds is None or not same(predicted.prefill_seconds, whole):
        yield f"a prompt takes {whole} s, not {predicted.prefill_seconds} s"


def _prefill_seconds(claim: Claim, stage: Stage, prompt: int) -> float | None:
    """Return how long ``stage`` takes for a prompt; ``None`` if nobody knows."""
    model, seconds = claim.model, 0.0
    flops_of, weights_of, read_of = model.flops_by_layer, model.bytes_by_layer, model.active_bytes_by_layer
    if prompt == 0 or flops_of is None:
        return None
    for key in stage.devices:
        device = claim.devices[key]
        peak, bandwidth = claim.flops(device), claim.bandwidth(device)
        if peak is None:
            return None
        operations = read = 0.0
        for layer in range(stage.start_layer, stage.end_layer):
            operations += flops_of[layer] * prompt
            read += min(weights_of[layer], read_of[layer] * prompt)
        head = claim.head_bytes() * (stage.end_layer == model.layers)
        seconds = max(seconds, max(operations / peak, read / bandwidth) + head / bandwidth)
    size = len(stage.devices)
    heads, of = claim.largest_share(size)
    seconds *= heads / of
    if size > 1:
        latency, rate = claim.slowest_link(stage.devices)
        piece = prompt * model.activation_bytes_per_token / size
        seconds += 4 * stage.layers * (size - 1) * (latency + piece / rate)
    return seconds
