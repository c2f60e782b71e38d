"""From one snapshot to what a person reads of the node. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.node_report import NodeReport, ReportedBackend, ReportedDevice, ReportedInterface, ReportedLink
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.agent import Identity
from shardbus_agents.collector import Snapshot

_NO_REASON = "no backend says why"
_READINGS = (
    "memory_used_bytes",
    "memory_total_bytes",
    "compute_utilization_percent",
    "thermal_temperature_c",
    "thermal_throttle_threshold_c",
    "is_thermal_throttling",
    "throttle_reasons",
    "power_watts",
    "health",
    "battery_percent",
    "is_plugged_in",
)
"""Readings of one moment; the means and peaks of a period need a period."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One backend after the look: which devices it told of, or why it is not there."""

    name: str
    absence: str | None = None
    devices: tuple[DeviceFacts, ...] = field(default=())


def node_report(
    identity: Identity,
    snapshot: Snapshot,
    asked: Sequence[Asked],
    *,
    taken_at: datetime,
    seconds: float,
    python: str | None = None,
    interfaces: Sequence[ReportedInterface] = (),
) -> NodeReport:
    """Return the report. A device with a problem is in it with the problem, and with what was known of it."""
    described = {device.device_id: device for backend in asked for device in reversed(backend.devices)}
    described |= snapshot.devices
    known = [*snapshot.devices, *(device_id for device_id in snapshot.problems if device_id not in snapshot.devices)]
    devices = tuple(_device(device_id, described, snapshot) for device_id in known)
    return NodeReport(
        node_id=identity.node_id,
        hostname=identity.hostname,
        operating_system=identity.operating_system,
        python=python,
        agent_version=identity.agent_version,
        labels=dict(identity.labels),
        taken_at=taken_at,
        seconds=round(seconds, 3),
        devices=devices,
        links=tuple(
            ReportedLink(from_device=device.facts.device_id, to=peer)
            for device in devices
            for peer in device.facts.peers
        ),
        interfaces=tuple(interfaces),
        faults=tuple(f"{fault.device_id}: {fault.message}" for fault in snapshot.faults),
        backends=tuple(
            ReportedBackend(
                name=backend.name,
                is_available=backend.absence is None,
                reason=backend.absence,
                devices=tuple(device.device_id for device in backend.devices),
            )
            for backend in asked
        ),
    )


def _device(device_id: DeviceId, described: Mapping[DeviceId, DeviceFacts], snapshot: Snapshot) -> ReportedDevice:
    state = snapshot.states.get(device_id)
    return ReportedDevice(
        facts=described.get(device_id) or DeviceFacts(device_id=device_id),
        state=state,
        unknown={} if state is None else _unknown(state, snapshot.unknown.get(device_id, {})),
        gauges=dict(snapshot.gauges.get(device_id, {})),
        problem=snapshot.problems.get(device_id),
    )


def _unknown(state: DeviceGPUState, why: Mapping[str, str]) -> dict[str, str]:
    """Return the reason for every reading that is not known: that nobody gives one is said too."""
    missing = [name for name in _READINGS if getattr(state, name) is None]
    battery = why.get("battery_percent") or "no battery that any backend knows of"
    default = {"battery_percent": battery, "is_plugged_in": battery}
    return {name: why.get(name) or default.get(name, _NO_REASON) for name in missing}
