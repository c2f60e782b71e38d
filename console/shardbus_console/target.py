"""What a person calls a node or device: ``attic``, ``attic/GPU-1``, or with the device's label ``attic/cuda:0``."""

from typing import TYPE_CHECKING

from shardbus_infra.settings import CommonSettings
from shardbus_schemas.ids import DeviceId, DeviceKey, NodeId, target_name

from shardbus_console.exits import CommandError

if TYPE_CHECKING:
    from shardbus_eventstore.state import FleetState


def target_named(text: str, settings: CommonSettings) -> tuple[NodeId, DeviceId | None]:
    """Return the node, and the device if ``text`` names one; labels are looked up on the live fleet."""
    node, slash, device = text.partition("/")
    if not node or (slash and not device) or "/" in device:
        raise CommandError(f"{text!r} names neither a node (attic) nor a device (attic/cuda:0); see `shardbus devices`")
    if not slash:
        return NodeId(node), None
    from shardbus_console.known import read_live_state

    return NodeId(node), device_named(read_live_state(settings), text)


def device_named(state: "FleetState", text: str) -> DeviceId:
    """Return the device's id; a label that only one device of its node has will do. Else what was given."""
    key = DeviceKey(text)
    if key in state.devices:
        return key.device_id
    labelled = [
        record.facts.device_id
        for record in state.devices.values()
        if record.node_id == key.node_id and record.facts.label == key.device_id
    ]
    if len(labelled) > 1:
        raise CommandError(f"{len(labelled)} devices of {key.node_id} are called {key.device_id}: name one by its id")
    return labelled[0] if labelled else key.device_id  # who is unknown, the placer says


def targets_named(texts: list[str] | None, settings: CommonSettings) -> tuple[str, ...]:
    """Return the names of nodes and devices as the placer knows them."""
    return tuple(target_name(*target_named(text, settings)) for text in texts or ())
