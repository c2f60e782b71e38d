"""What room a fleet had when an instance found no place in it, so that it need not look again before there is more."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey, NodeId

_NOTABLE_SHARE = 0.01
"""Of a device's memory: less is the noise of readings."""


@dataclass(frozen=True, slots=True)
class CapacitySeen:
    """Free bytes by device that may be used, and the links between nodes."""

    free: Mapping[DeviceKey, int]
    notable: Mapping[DeviceKey, int]
    speeds: Mapping[tuple[NodeId, NodeId], float]
    """Bytes per second."""


def capacity_seen(fleet: Fleet, barred: Collection[str]) -> CapacitySeen:
    """Return the room of the devices that take something and are not barred."""
    usable = {
        key: device
        for key, _, device in fleet.devices()
        if device.status == "ok" and key not in barred and key.node_id not in barred
    }
    return CapacitySeen(
        free={
            key: (device.memory_total_bytes or 0) - (device.memory_used_bytes or 0) - device.memory_reserved_bytes
            for key, device in usable.items()
        },
        notable={key: int(_NOTABLE_SHARE * (device.memory_total_bytes or 0)) for key, device in usable.items()},
        speeds={(link.from_node, link.to_node): link.bandwidth_bytes_per_second for link in fleet.links},
    )


def has_grown(before: CapacitySeen, after: CapacitySeen) -> bool:
    """Return whether something may fit now that did not before."""
    if any(
        key not in before.free or count > before.free[key] + after.notable[key] for key, count in after.free.items()
    ):
        return True
    return any(speed > before.speeds.get(pair, 0.0) for pair, speed in after.speeds.items())
