"""The weighted score of every device that may be used, worked out a second time."""

from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import Stage

from shardbus_placer.checks.claim import Claim
from shardbus_placer.checks.memory import free_bytes, needed_bytes
from shardbus_placer.checks.places import barred

_COOL_C = 30
"""A device this cool has all of its thermal reserve."""
_UNTOLD_THRESHOLD_C = 90.0


def scores(claim: Claim) -> dict[DeviceKey, float]:
    """Return the score of each usable device, each of its parts against the best of these."""
    usable = {
        key: device
        for key, device in claim.devices.items()
        if not any(barred(claim, key, device)) and _may_hold_something(claim, device)
    }
    nodes = {key.node_id for key in usable}
    declared = {ends: link.bandwidth_bytes_per_second for ends, link in claim.declared.items()}
    default = 0.0 if claim.fleet.default_link is None else claim.fleet.default_link.bandwidth_bytes_per_second
    reach = {
        node: sum(declared.get((node, o), default) + declared.get((o, node), default) for o in nodes if o != node)
        for node in nodes
    }
    raw: dict[DeviceKey, dict[str, float]] = {
        key: {
            "compute": claim.flops(device) or 0.0,
            "memory": max(0, free_bytes(claim, device) or 0),
            "network": reach[key.node_id] if len(nodes) > 1 else 1.0,
            "bandwidth": claim.bandwidth(device),
        }
        for key, device in usable.items()
    }
    best = {name: max(parts[name] for parts in raw.values()) for name in ("compute", "memory", "network", "bandwidth")}
    weights = claim.policy.score_weights
    whole = weights.compute + weights.memory + weights.network + weights.thermal + weights.bandwidth
    found: dict[DeviceKey, float] = {}
    for key, parts in raw.items():
        shares = {name: value / best[name] if best[name] else 0.0 for name, value in parts.items()}
        total = weights.compute * shares["compute"] + weights.memory * shares["memory"]
        total += weights.network * shares["network"] + weights.bandwidth * shares["bandwidth"]
        found[key] = (total + weights.thermal * _coolness(usable[key])) / (whole or 1.0)
    return found


def _may_hold_something(claim: Claim, device: FleetDevice) -> bool:
    """Return whether a layer fits, or a share of one where tensor groups are possible."""
    free = free_bytes(claim, device)
    if free is None:
        return False
    if claim.model.supports_tensor and claim.request.sharding != "pipeline":
        without = {"layer_bytes": 0, "embedding_bytes": 0, "head_bytes": 0, "kv_bytes_per_token_per_layer": 0}
        nothing = Claim(claim.fleet, claim.model.model_copy(update=without), claim.request, claim.policy, claim.placed)
        if needed_bytes(nothing, device, _alone(0)) < free:
            return True
    return any(needed_bytes(claim, device, _alone(layer)) <= free for layer in range(claim.model.layers))


def _alone(layer: int) -> Stage:
    return Stage(devices=(DeviceKey("a/b"),), start_layer=layer, end_layer=layer + 1, memory_bytes={}, seconds=0)


def _coolness(device: FleetDevice) -> float:
    """Return 1 at 30 degrees or less, 0 at the throttle threshold (90 where it is not told) or when unknown."""
    temperature, threshold = device.thermal_temperature_c, device.thermal_throttle_threshold_c or _UNTOLD_THRESHOLD_C
    if device.is_thermal_throttling or temperature is None:
        return 0.0
    if threshold <= _COOL_C:
        return 1.0 if temperature < threshold else 0.0
    return max(0.0, min(1.0, (threshold - temperature) / (threshold - _COOL_C)))
