"""What a node's agent says, and when: pure, with the time and the samples as arguments.

A node joins, its devices are registered, their readings are told when they matter, a device that is gone is said
to be lost, and at the end the node leaves. Ids are made from the boot and a count, so that saying the same thing
again after a lost acknowledgement is recognised as the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from shardbus_schemas import subjects
from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    Event,
    NodeJoined,
    NodeLeft,
)
from shardbus_schemas.ids import BootId, DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.collector import Snapshot
from shardbus_agents.readings import Pace, Readings

_LONGEST_NODE_IN_ID = 120


@dataclass(frozen=True, slots=True)
class Identity:
    """Which node this is, in which life of its agent."""

    node_id: NodeId
    boot_id: BootId
    """Never used before: it makes the ids of all events unique."""
    hostname: str | None = None
    agent_version: str | None = None
    operating_system: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    device_link: LinkFigures | None = None

    @property
    def source(self) -> str:
        """Who speaks, as the envelope says it."""
        return f"agent/{self.node_id}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event with the id and the time that it keeps however often it has to be sent."""

    message: Event
    event_id: str
    occurred_at: datetime


class Agent:
    """One node's voice. It remembers what it has said; everything else is given to it."""

    def __init__(self, identity: Identity, pace: Pace) -> None:
        self.identity: Identity = identity
        self._pace = pace
        self._registered: dict[DeviceId, DeviceFacts] = {}
        self._lost: set[DeviceId] = set()
        self._readings = Readings(pace)
        self._told_at: float | None = None
        self._ticks = 0
        self._events = 0

    def join(self, at: datetime) -> Announcement:
        """Return the word that this node is here."""
        identity = self.identity
        joined = NodeJoined(
            node_id=identity.node_id,
            boot_id=identity.boot_id,
            hostname=identity.hostname,
            agent_version=identity.agent_version,
            operating_system=identity.operating_system,
            labels=dict(identity.labels),
            heartbeat_seconds=self._pace.heartbeat_seconds,
            report_seconds=self._pace.report_seconds,
            error_bounds=self._pace.thresholds.error_bounds,
            device_link=identity.device_link,
        )
        return self.announce(joined, at)

    def observe(self, snapshot: Snapshot, at: datetime, uptime_seconds: float) -> tuple[Announcement, ...]:
        """Return what ``snapshot`` brings to tell; ``uptime_seconds`` is of a clock that nobody sets."""
        said = [
            *self._arrivals(snapshot, at),
            *self._faults(snapshot, at),
            *self._departures(snapshot, at),  # after the fault that may be the reason
            *self._updates(snapshot, at, uptime_seconds),
        ]
        return tuple(said)

    def owe_reading(self, device_id: DeviceId, since: datetime) -> None:
        """Tell the device's first reading of ``since`` or later, however little it moved."""
        if device_id in self._registered:
            self._readings.owe(device_id, since)

    def seconds_to_pulse(self, uptime_seconds: float) -> float:
        """Return how long there may still be silence."""
        since = uptime_seconds if self._told_at is None else self._told_at
        return max(0.0, since + self._pace.heartbeat_seconds - uptime_seconds)

    def pulse(self, at: datetime, uptime_seconds: float) -> Announcement | None:
        """Return the word that this node is alive, if it was silent for as long as it may be.

        Not before its first report: until then the readings that the bus has may be an earlier life's.
        """
        if self._told_at is None or self.seconds_to_pulse(uptime_seconds) > 0:
            return None
        return self._update((), at, uptime_seconds)

    def leave(self, at: datetime, reason: str = "stopped") -> Announcement:
        """Return the word that this node goes."""
        left = NodeLeft(node_id=self.identity.node_id, boot_id=self.identity.boot_id, reason=reason)
        return self.announce(left, at)

    def announce(self, message: Event, at: datetime) -> Announcement:
        """Return ``message`` with an id of its own: how the rest of the agent says what it found out."""
        self._events += 1
        return Announcement(message, f"{self._name}/event-{self._events}", at)

    def _departures(self, snapshot: Snapshot, at: datetime) -> Iterator[Announcement]:
        missing = [device_id for device_id in self._registered if device_id not in snapshot.devices]
        gone = dict.fromkeys(missing, "it is not there any more")
        for device_id, reason in {**gone, **snapshot.problems}.items():
            self._registered.pop(device_id, None)
            self._readings.forget(device_id)
            if device_id not in self._lost:
                self._lost.add(device_id)
                lost = DeviceLost(node_id=self.identity.node_id, device_id=device_id, reason=reason)
                yield self.announce(lost, at)

    def _arrivals(self, snapshot: Snapshot, at: datetime) -> Iterator[Announcement]:
        for device_id, facts in snapshot.devices.items():
            if self._registered.get(device_id) != facts:
                self._registered[device_id] = facts
                self._lost.discard(device_id)
                yield self.announce(DeviceRegistered(node_id=self.identity.node_id, device=facts), at)

    def _faults(self, snapshot: Snapshot, at: datetime) -> Iterator[Announcement]:
        for fault in snapshot.faults:
            faulted = DeviceFaulted(
                node_id=self.identity.node_id,
                device_id=fault.device_id,
                kind=fault.kind,
                code=fault.code,
                message=fault.message,
                is_critical=fault.is_critical,
                occurred_at=fault.occurred_at,
            )
            yield self.announce(faulted, at)

    def _updates(self, snapshot: Snapshot, at: datetime, uptime_seconds: float) -> Iterator[Announcement]:
        samples = [state for device_id, state in snapshot.states.items() if device_id in self._registered]
        told = self._readings.take(samples, self._registered, at, uptime_seconds)
        if told is not None:
            yield self._update(told.states, at, uptime_seconds, is_full_report=told.is_full_report)

    def _update(
        self, states: tuple[DeviceGPUState, ...], at: datetime, uptime_seconds: float, *, is_full_report: bool = False
    ) -> Announcement:
        updated = DeviceGPUStateUpdated(
            node_id=self.identity.node_id,
            boot_id=self.identity.boot_id,
            tick=self._ticks,
            heartbeat=is_full_report,
            states=states,
        )
        self._told_at = uptime_seconds
        self._ticks += 1
        return Announcement(updated, f"{self._name}/{updated.tick}", at)

    @property
    def _name(self) -> str:
        # The boot makes it unique; the node's name is for people, and must not make the id too long.
        node = subjects.encode_token(self.identity.node_id)[:_LONGEST_NODE_IN_ID]
        return f"{node}/{self.identity.boot_id}"
