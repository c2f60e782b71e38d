"""A fleet as the events that its agents would publish, and the state that folding them gives."""

from collections.abc import Iterator
from datetime import datetime

from shardbus_eventstore.intake import take
from shardbus_eventstore.state import FleetState
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState
from support.histories import START, stored

NOW: datetime = START


def state_of(fleet: Fleet) -> FleetState:
    """Return the state after every node joined and told all; ``fleet_of`` of it, at ``NOW``, is ``fleet``.

    But for its default link: nobody publishes one, and no state holds it.
    """
    state = FleetState()
    for batch in (list(_lifecycle(fleet)), list(_telemetry(fleet))):
        messages = [stored(message, sequence, seconds=0) for sequence, message in enumerate(batch, 1)]
        state = take(state, messages).state
    return state


def _lifecycle(fleet: Fleet) -> Iterator[FrozenModel]:
    for node in fleet.nodes:
        yield events.NodeJoined(
            node_id=node.node_id, boot_id="b", heartbeat_seconds=10, labels=node.labels, device_link=node.device_link
        )
        for device in node.devices:
            facts = {name: getattr(device, name) for name in DeviceFacts.model_fields}
            yield events.DeviceRegistered(node_id=node.node_id, device=DeviceFacts(**facts))


def _telemetry(fleet: Fleet) -> Iterator[FrozenModel]:
    for node in fleet.nodes:
        states = tuple(_reading(node.node_id, device) for device in node.devices)
        yield events.DeviceGPUStateUpdated(node_id=node.node_id, boot_id="b", tick=0, heartbeat=True, states=states)
    for link in fleet.links:
        yield events.GPUBandwidthMeasured.model_validate(
            {**link.model_dump(by_alias=True), "method": "test", "measured_at": START}
        )


def _reading(node_id: NodeId, device: FleetDevice) -> DeviceGPUState:
    shared = set(DeviceGPUState.model_fields) & set(FleetDevice.model_fields) - {"last_update"}
    readings = {name: getattr(device, name) for name in shared}
    return DeviceGPUState(**readings, node_id=node_id, last_update=START)
