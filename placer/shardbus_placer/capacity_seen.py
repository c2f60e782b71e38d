"""What room a fleet had when an instance found no place in it, so that it need not look again before there is more."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey, NodeId

from shardbus_placer.policy import Policy

_NOTABLE_SHARE = 0.01
"""Of a device's memory, or a link's rate: less is the noise of readings."""


@dataclass(frozen=True, slots=True)
class CapacitySeen:
    """Bytes to be had by device that may be used, and the links between nodes."""

    free: Mapping[DeviceKey, int]
    """What is free, and what would give way."""
    notable: Mapping[DeviceKey, int]
    speeds: Mapping[tuple[NodeId, NodeId], float]
    """Bytes per second."""


def capacity_seen(
    fleet: Fleet, barred: Collection[str], giving_way: Mapping[DeviceKey, int], policy: Policy
) -> CapacitySeen:
    """Return the room of the devices that take something and are not barred.

    ``giving_way`` is what others of a lower priority were promised.
    """
    usable = {
        key: device
        for key, _, device in fleet.devices()
        if device.status == "ok"
        and key not in barred
        and key.node_id not in barred
        and not (device.is_plugged_in is False and (device.battery_percent or 0) < policy.minimum_battery_percent)
    }
    return CapacitySeen(
        free={
            key: (device.memory_total_bytes or 0)
            - (device.memory_used_bytes or 0)
            - device.memory_reserved_bytes
            + giving_way.get(key, 0)
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
    return any(speed > before.speeds.get(pair, 0.0) * (1 + _NOTABLE_SHARE) for pair, speed in after.speeds.items())
