"""What takes nothing new, as rows for people."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shardbus_console.output import print_table

if TYPE_CHECKING:
    from shardbus_eventstore.cordoned import CordonedDevice
    from shardbus_schemas.ids import DeviceKey


def print_cordons(cordoned: "Mapping[DeviceKey, CordonedDevice]") -> None:
    """Print a row for each node or device that was cordoned, if any is."""
    print_table("take nothing new", cordon_rows(cordoned))


def cordon_rows(cordoned: "Mapping[DeviceKey, CordonedDevice]") -> list[dict[str, object]]:
    """Return a row for each cordon; a node that drains is drained once all its devices are."""
    by_target: dict[str, list[CordonedDevice]] = {}
    for device in cordoned.values():
        by_target.setdefault(device.target, []).append(device)
    return [
        {
            "target": target,
            "standing": "draining" if any(each.standing == "draining" for each in devices) else devices[0].standing,
            "since": f"{devices[0].since:%Y-%m-%d %H:%M:%S}",
            "reason": devices[0].reason or "",
        }
        for target, devices in sorted(by_target.items())
    ]
