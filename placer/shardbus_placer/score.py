"""A device's weighted score: five parts between 0 and 1, each relative to the best of this fleet.

An unknown reading scores 0 in its part: what nobody knows must never look good.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.ids import DeviceKey, NodeId

from shardbus_placer.candidates import Candidate
from shardbus_placer.policy import Policy

COOL_CELSIUS = 30.0
"""A device this cool, or cooler, has all of its thermal reserve."""
USUAL_THRESHOLD_CELSIUS = 90.0
"""Where a device that does not say begins to throttle."""


@dataclass(frozen=True)
class Score:
    """A device's score and its parts."""

    total: float
    parts: dict[str, float]


def scores(
    candidates: Sequence[Candidate], bandwidth_between: Mapping[tuple[NodeId, NodeId], float], policy: Policy
) -> dict[DeviceKey, Score]:
    """Return each candidate's score; ``bandwidth_between`` holds the links that exist, in bytes per second."""
    nodes = sorted({candidate.node for candidate in candidates})
    here = set(nodes)
    reach = dict.fromkeys(nodes, 0.0)
    for (a, b), speed in bandwidth_between.items():
        if a in here and b in here:
            reach[a] += speed
            reach[b] += speed
    best_reach = max(reach.values(), default=0.0)
    flops = [candidate.flops or 0.0 for candidate in candidates]
    room = [float(candidate.usable_bytes) for candidate in candidates]
    bandwidth = [candidate.bandwidth for candidate in candidates]
    most_flops, most_room, most_bandwidth = (max(figures, default=0.0) for figures in (flops, room, bandwidth))
    weights = policy.score_weights.model_dump()
    weight_sum = sum(weights.values()) or 1.0
    found: dict[DeviceKey, Score] = {}
    for index, candidate in enumerate(candidates):
        parts = {
            "compute": _share(flops[index], most_flops),
            "memory": _share(room[index], most_room),
            "network": 1.0 if len(nodes) == 1 else _share(reach[candidate.node], best_reach),
            "thermal": thermal_part(candidate.device),
            "bandwidth": _share(bandwidth[index], most_bandwidth),
        }
        total = sum(weights[name] * part for name, part in parts.items()) / weight_sum
        found[candidate.key] = Score(min(1.0, total), parts)
    return found


def thermal_part(device: FleetDevice) -> float:
    """Return how far the device is from throttling: 1 when cool, 0 at its threshold or when nobody knows."""
    if device.is_thermal_throttling or device.thermal_temperature_c is None:
        return 0.0
    threshold = device.thermal_throttle_threshold_c or USUAL_THRESHOLD_CELSIUS
    if threshold <= COOL_CELSIUS:
        return float(device.thermal_temperature_c < threshold)
    return min(1.0, max(0.0, (threshold - device.thermal_temperature_c) / (threshold - COOL_CELSIUS)))


def _share(value: float, best: float) -> float:
    return value / best if best > 0 else 0.0
