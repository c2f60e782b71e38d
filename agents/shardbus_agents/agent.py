"""What a node's agent says, and when: pure, with the time and the samples as arguments.

A node joins, its devices are registered, their readings are told when they matter, a device that is gone is said
to be lost, and at the end the node leaves. Ids are made from the boot and a count, so that saying the same thing
again after a lost acknowledgement is recognised as the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shardbus_schemas import subjects
from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    Event,
    GPUBandwidthMeasured,
    NodeJoined,
    NodeLeft,
)
from shardbus_schemas.fleet import FleetLink
from shardbus_schemas.ids import BootId, DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.change_detection import Thresholds, heartbeat_is_due, significant
from shardbus_agents.collector import Snapshot

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
    links: tuple[FleetLink, ...] = ()
    """Paths from this node that are declared, not measured: a simulated fleet's."""

    @property
    def source(self) -> str:
        """Who speaks, as the envelope says it."""
        return f"agent/{self.node_id}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are looked at and told, and how far they may move in between."""

    sample_interval_seconds: float = 2
    heartbeat_seconds: float = 10
    link_interval_seconds: float = 300
    thresholds: Thresholds = field(default_factory=Thresholds)


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
        self._published: dict[DeviceId, DeviceGPUState] = {}
        self._heartbeat_at: float | None = None
        self._links_at: float | None = None
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
            device_link=identity.device_link,
        )
        return self.announce(joined, at)

    def observe(self, snapshot: Snapshot, at: datetime, uptime_seconds: float) -> tuple[Announcement, ...]:
        """Return what ``snapshot`` brings to tell; ``uptime_seconds`` is of a clock that nobody sets."""
        said = [
            *self._arrivals(snapshot, at),
            *self._faults(snapshot, at),
            *self._departures(snapshot, at),  # after the fault that may be the reason
            *self._readings(snapshot, at, uptime_seconds),
            *self._link_figures(at, uptime_seconds),
        ]
        return tuple(said)

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
            self._published.pop(device_id, None)
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

    def _readings(self, snapshot: Snapshot, at: datetime, uptime_seconds: float) -> Iterator[Announcement]:
        states = [state for device_id, state in snapshot.states.items() if device_id in self._registered]
        heartbeat = heartbeat_is_due(
            None if self._heartbeat_at is None else uptime_seconds - self._heartbeat_at,
            heartbeat_seconds=self._pace.heartbeat_seconds,
            sample_interval_seconds=self._pace.sample_interval_seconds,
        )
        told: Sequence[DeviceGPUState] = states
        if heartbeat:
            self._heartbeat_at = uptime_seconds
        else:
            told = significant(self._published, states, self._pace.thresholds)
            if not told:
                return
        self._published.update({state.device_id: state for state in told})
        updated = DeviceGPUStateUpdated(
            node_id=self.identity.node_id,
            boot_id=self.identity.boot_id,
            tick=self._ticks,
            heartbeat=heartbeat,
            states=tuple(told),
        )
        yield Announcement(updated, f"{self._name}/{self._ticks}", at)
        self._ticks += 1

    def _link_figures(self, at: datetime, uptime_seconds: float) -> Iterator[Announcement]:
        if self._links_at is not None and uptime_seconds - self._links_at < self._pace.link_interval_seconds:
            return
        self._links_at = uptime_seconds
        for link in self.identity.links:
            measured = GPUBandwidthMeasured.model_validate(
                {**link.model_dump(by_alias=True), "method": "simulated", "measured_at": at}
            )
            yield self.announce(measured, at)

    @property
    def _name(self) -> str:
        # The boot makes it unique; the node's name is for people, and must not make the id too long.
        node = subjects.encode_token(self.identity.node_id)[:_LONGEST_NODE_IN_ID]
        return f"{node}/{self.identity.boot_id}"
