"""Whether each device has room for what it is to hold, and holds what the plan says."""

import math

from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.placement import Stage

from shardbus_placer.checks.claim import Claim, Wrong


def memory(claim: Claim) -> Wrong:
    """Yield which devices hold more than they have room for, or other than the plan says."""
    for stage in claim.placed.stages:
        for key in stage.devices:
            device = claim.devices[key]
            needed, free = needed_bytes(claim, device, stage), free_bytes(claim, device)
            if free is None:
                yield f"nobody knows how much memory {key} has"
            elif needed > free:
                yield f"{key} must hold {needed:,} bytes but has {free:,}"
            if stage.memory_bytes[key] != needed:
                yield f"the plan says {key} holds {stage.memory_bytes[key]:,} bytes; it is {needed:,}"


def needed_bytes(claim: Claim, device: FleetDevice, stage: Stage) -> int:
    """Return what ``device`` must hold as one of ``stage``."""
    model, request, policy = claim.model, claim.request, claim.policy
    layers = slice(stage.start_layer, stage.end_layer)
    kv = model.kv_bytes_by_layer(request.context_tokens)
    total = sum(model.bytes_by_layer[layers]) + sum(kv[layers]) * request.concurrency
    begins, ends = stage.start_layer == 0, stage.end_layer == model.layers
    if ends:
        total += claim.head_bytes()
    if begins and not (model.tied_embedding and ends):
        total += model.embedding_bytes
    heads, of = claim.largest_share(len(stage.devices))
    share = -(-total * heads // of)
    tokens = min(request.context_tokens * request.concurrency, policy.activation_tokens)
    share += tokens * model.activation_bytes_per_token * policy.activation_buffers
    if request.runtime_overhead_bytes is None:
        return share + policy.of_backend(device.backend).runtime_overhead_bytes
    return share + request.runtime_overhead_bytes


def free_bytes(claim: Claim, device: FleetDevice) -> int | None:
    """Return what ``device`` has to give; ``None`` if nobody knows."""
    request, total = claim.request, device.memory_total_bytes
    if total is None:
        return None
    rules = claim.policy.of_backend(device.backend)
    fraction = request.headroom_fraction if request.headroom_fraction is not None else rules.headroom_fraction
    least = request.headroom_bytes if request.headroom_bytes is not None else rules.headroom_bytes
    used = device.memory_used_bytes
    if used is None:
        used = math.ceil(total * claim.policy.unknown_memory_used_fraction)
    kept = math.ceil(total * fraction)
    return total - used - device.memory_reserved_bytes - max(least, kept)
