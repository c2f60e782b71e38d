"""What the cordons of a state mean for each of its devices."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import FrozenModel

from shardbus_eventstore.fleet_view import cordon_of
from shardbus_eventstore.state import FleetState

Standing = Literal["cordoned", "draining", "drained"]
"""Takes nothing new; likewise, and what is there has to leave; likewise, and it has left."""


class CordonedDevice(FrozenModel):
    """How a device that takes nothing new stands, why, and since when."""

    standing: Standing
    target: str
    """The node or device that was cordoned."""
    reason: str | None
    since: datetime


def cordoned_devices(state: FleetState) -> Mapping[DeviceKey, CordonedDevice]:
    """Return every device that takes nothing new, by name."""
    held = {key for instance in state.instances.values() for key in instance.promised}
    found: dict[DeviceKey, CordonedDevice] = {}
    for key in sorted(state.devices):
        cordon = cordon_of(state, key)
        if cordon is not None:
            standing: Standing = "cordoned" if not cordon.drain else "draining" if key in held else "drained"
            found[key] = CordonedDevice(standing=standing, target=cordon.key, reason=cordon.reason, since=cordon.at)
    return found
