"""The planner's view of a state: registered devices with their readings, their status, and what is promised on them."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.fleet import DeviceStatus, Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.ids import DeviceKey, InstanceId, NodeId

from shardbus_eventstore.reservations import claims_of
from shardbus_eventstore.state import (
    CordonRecord,
    DeviceRecord,
    DeviceStateRecord,
    FleetState,
    NodeHeard,
    NodeRecord,
)

HEARTBEATS_UNTIL_STALE = 3
"""How many heartbeats may be missed: one is a hiccup, three are silence."""


@dataclass(slots=True)
class Remembered:
    """What earlier fleets were made of: of who looks again and again, only what changed is made anew."""

    devices: dict[DeviceKey, tuple[DeviceRecord, DeviceStateRecord | None, tuple[object, ...], FleetDevice]] = field(
        default_factory=dict[DeviceKey, tuple[DeviceRecord, DeviceStateRecord | None, tuple[object, ...], FleetDevice]]
    )


def fleet_of(
    state: FleetState,
    now: datetime,
    *,
    without: Collection[InstanceId] = (),
    at_home: Collection[DeviceKey] = (),
    listening_since: datetime | None = None,
    remembered: Remembered | None = None,
) -> Fleet:
    """Return the fleet as of ``now``: every node that ever joined, its registered devices, and the links between them.

    Readings of a device that was never registered are left out, and so is a device of a node that never joined.
    ``memory_reserved_bytes`` is what placed instances were promised and readings do not show in use yet (see
    ``reservations``). Instances in ``without`` are taken away: neither their promises nor the memory that is known to
    be theirs count. A device ``at_home`` is not shown as cordoned unless it is drained: who is there already may stay.
    Who has ``listening_since`` a moment only takes no device for stale that was silent for too long before it.
    """
    known = Remembered() if remembered is None else remembered
    devices_by_node: dict[NodeId, list[FleetDevice]] = defaultdict(list)
    claims = claims_of(state)
    for key in sorted(state.devices):
        device = state.devices[key]
        node = state.nodes.get(device.node_id)
        if node is not None:
            reading = state.device_states.get(key)
            status = status_of(node, device, state.node_heard.get(device.node_id), reading, now)
            if status == "stale" and listening_since is not None and listening_since >= _oldest_word(node, now):
                status = "ok"
            cordon = cordon_of(state, key) if status == "ok" and state.cordons else None
            if cordon is not None and (cordon.drain or key not in at_home):
                status = "cordoned"
            mine = claims.get(key, ())
            reserved = sum(claim.reserved for claim in mine if claim.instance_id not in without)
            freed = sum(claim.used for claim in mine if claim.instance_id in without)
            devices_by_node[device.node_id].append(_shown(known, key, device, reading, status, reserved, freed))
    # Not validated anew, for this is asked for several times a second: names are keys of maps, so none is there twice.
    return Fleet.model_construct(
        None,
        nodes=tuple(
            FleetNode.model_construct(
                None,
                node_id=node_id,
                labels=node.joined.labels,
                devices=tuple(devices_by_node[node_id]),
                device_link=node.joined.device_link,
            )
            for node_id, node in sorted(state.nodes.items())
        ),
        links=tuple(
            _link(from_node, to_node, link.measured.bandwidth_bytes_per_second, link.measured.latency_seconds)
            for (from_node, to_node), link in sorted(state.links.items())
            if from_node in state.nodes and to_node in state.nodes
        ),
        telemetry_sequence=state.positions.get(TELEMETRY, 0),
        fleet_sequence=state.positions.get(FLEET, 0),
    )


@lru_cache(maxsize=65_536)
def _link(from_node: NodeId, to_node: NodeId, bandwidth: float, latency: float) -> FleetLink:
    return FleetLink.model_validate(
        {"from": from_node, "to": to_node, "bandwidth_bytes_per_second": bandwidth, "latency_seconds": latency}
    )


def cordon_of(state: FleetState, key: DeviceKey) -> CordonRecord | None:
    """Return the cordon that holds for a device, its own or its node's; of two, the one that drains."""
    own, node = (state.cordons.get(name) for name in (key, key.node_id))
    held = [cordon for cordon in (own, node) if cordon is not None and cordon.lifted_at is None]
    return max(held, key=lambda cordon: cordon.drain, default=None)


def status_of(
    node: NodeRecord, device: DeviceRecord, heard: NodeHeard | None, reading: DeviceStateRecord | None, now: datetime
) -> DeviceStatus:
    """Return how far a device can be relied on.

    A device is stale when its node was silent for three heartbeats, or when it was left out of its node's last
    full report (which tells of every device) and has been silent for as long. Before the first reading its
    registration counts as its word. A node that only gives pulses is alive, and its devices read what they last did.
    """
    if device.lost_at is not None or node.left_at is not None:
        return "lost"
    oldest = _oldest_word(node, now)
    if reading is None or heard is None:
        return "stale" if device.registered_at < oldest else "ok"
    left_out = heard.heartbeat_sequence > reading.sequence
    last_word = reading.recorded_at if left_out else heard.recorded_at
    return "stale" if last_word < oldest else "ok"


_LONGEST_SECONDS = 86400.0 * 365
"""Keeps an absurd heartbeat within what a date can hold."""


def _oldest_word(node: NodeRecord, now: datetime) -> datetime:
    """Return the moment at which a device must have been heard last not to be stale."""
    return now - timedelta(seconds=min(HEARTBEATS_UNTIL_STALE * node.joined.heartbeat_seconds, _LONGEST_SECONDS))


def _shown(
    known: Remembered,
    key: DeviceKey,
    device: DeviceRecord,
    reading: DeviceStateRecord | None,
    status: DeviceStatus,
    reserved: int,
    freed: int,
) -> FleetDevice:
    """Return the device as it is shown, the same object as the last time if nothing changed."""
    seen = (status, reserved, freed)
    last = known.devices.get(key)
    if last is not None and last[0] is device and last[1] is reading and last[2] == seen:
        return last[3]
    shown = _device(device, reading, status, reserved, freed)
    known.devices[key] = (device, reading, seen, shown)
    return shown


def _device(
    device: DeviceRecord, record: DeviceStateRecord | None, status: DeviceStatus, reserved: int, freed: int
) -> FleetDevice:
    facts = dict(device.facts)
    if record is None:
        return FleetDevice(**facts, memory_reserved_bytes=reserved, status=status)
    reading = record.reading
    if device.facts.memory_total_bytes is None:
        facts["memory_total_bytes"] = reading.memory_total_bytes
    used = reading.memory_used_bytes
    return FleetDevice(
        **facts,
        memory_used_bytes=None if used is None else used - freed,
        memory_reserved_bytes=reserved,
        compute_utilization_percent=reading.compute_utilization_percent,
        thermal_temperature_c=reading.thermal_temperature_c,
        thermal_throttle_threshold_c=reading.thermal_throttle_threshold_c,
        is_thermal_throttling=reading.is_thermal_throttling,
        throttle_reasons=reading.throttle_reasons,
        power_watts=reading.power_watts,
        health=reading.health,
        battery_percent=reading.battery_percent,
        is_plugged_in=reading.is_plugged_in,
        last_update=reading.last_update,
        status=status,
    )
