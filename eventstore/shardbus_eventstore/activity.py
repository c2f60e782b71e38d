"""The fleet at work, for whoever watches it: how old each figure is, what runs where, what went wrong."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from shardbus_schemas.events import DeviceFaulted
from shardbus_schemas.fleet import FleetDevice, FleetNode
from shardbus_schemas.ids import DeviceKey, InstanceId, NodeId
from shardbus_schemas.model import FrozenModel

from shardbus_eventstore.cordoned import CordonedDevice, cordoned_devices
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.state import FleetState

Utilization = tuple[float | None, float | None]
"""Mean and peak of a full report, in percent."""


class DeviceActivity(FrozenModel):
    """A device with what is told of it over time, and what runs there."""

    key: DeviceKey
    device: FleetDevice

    registered_at: datetime
    told_at: datetime | None
    """When the stream recorded its last readings; a living agent tells them again only when they move."""
    utilization_mean_percent: float | None
    """Of the last full report."""
    utilization_peak_percent: float | None
    """Likewise."""
    lost_at: datetime | None
    lost_reason: str | None
    faults: int
    """Errors that its driver told of, ever."""
    last_fault: DeviceFaulted | None
    instances: tuple[InstanceId, ...]
    """Placed ones that hold memory on it."""
    cordon: CordonedDevice | None = None
    """If it takes nothing new."""


class NodeActivity(FrozenModel):
    """A node that joined at least once."""

    node_id: NodeId
    joined_at: datetime
    heartbeat_seconds: float
    heard_at: datetime | None
    missed_ticks: int
    """Ticks that its agent counted and the stream never got."""
    left_at: datetime | None
    left_reason: str | None
    devices: tuple[DeviceActivity, ...]


class Activity(FrozenModel):
    """The fleet at work, as of one moment of the read model."""

    at: datetime
    """By the clock of Postgres, which every age is measured with."""
    telemetry_sequence: int
    fleet_sequence: int
    nodes: tuple[NodeActivity, ...]


def activity_of(state: FleetState, at: datetime, utilization: Mapping[DeviceKey, Utilization]) -> Activity:
    """Return the fleet at work as of ``at``: every node that ever joined, with its devices.

    ``utilization`` is of each device's last full report: the readings in between do not carry it.
    """
    fleet = fleet_of(state, at)
    running, cordoned = _instances_by_device(state), cordoned_devices(state)
    return Activity(
        at=at,
        telemetry_sequence=fleet.telemetry_sequence or 0,
        fleet_sequence=fleet.fleet_sequence or 0,
        nodes=tuple(
            _node_activity(
                state,
                node,
                tuple(
                    _device_activity(state, node.node_id, device, utilization, running, cordoned)
                    for device in node.devices
                ),
            )
            for node in fleet.nodes
        ),
    )


def _instances_by_device(state: FleetState) -> dict[DeviceKey, list[InstanceId]]:
    running: dict[DeviceKey, list[InstanceId]] = {}
    for name, instance in sorted(state.instances.items()):
        for key in instance.promised:
            running.setdefault(key, []).append(name)
    return running


def _node_activity(state: FleetState, node: FleetNode, devices: tuple[DeviceActivity, ...]) -> NodeActivity:
    record, heard = state.nodes[node.node_id], state.node_heard.get(node.node_id)
    return NodeActivity(
        node_id=node.node_id,
        joined_at=record.joined_at,
        heartbeat_seconds=record.joined.heartbeat_seconds,
        heard_at=None if heard is None else heard.recorded_at,
        missed_ticks=0 if heard is None else heard.missed_ticks,
        left_at=record.left_at,
        left_reason=record.left_reason,
        devices=devices,
    )


def _device_activity(
    state: FleetState,
    node_id: NodeId,
    device: FleetDevice,
    utilization: Mapping[DeviceKey, Utilization],
    running: Mapping[DeviceKey, Sequence[InstanceId]],
    cordoned: Mapping[DeviceKey, CordonedDevice],
) -> DeviceActivity:
    key = DeviceKey.of(node_id, device.device_id)
    record, reading = state.devices[key], state.device_states.get(key)
    mean, peak = utilization.get(key, (None, None))
    return DeviceActivity(
        key=key,
        device=device,
        registered_at=record.registered_at,
        told_at=None if reading is None else reading.recorded_at,
        utilization_mean_percent=mean,
        utilization_peak_percent=peak,
        lost_at=record.lost_at,
        lost_reason=record.lost_reason,
        faults=record.faults,
        last_fault=record.last_fault,
        instances=tuple(running.get(key, ())),
        cordon=cordoned.get(key),
    )
