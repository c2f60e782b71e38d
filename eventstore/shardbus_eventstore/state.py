"""What the streams say: the state that folding them gives, and its records.

``TELEMETRY``, ``FLEET`` and ``DEAD`` touch disjoint parts of the state, so a pair (or triple) of sequences names a
state exactly, in whatever order the streams were read. Published states never change: a fold copies what it writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import (
    CommandRejected,
    DeadLettered,
    DeadLetterRetried,
    DeviceFaulted,
    GPUBandwidthMeasured,
    InstanceDeleted,
    InstancePlaced,
    InstanceReplaced,
    ModelRegistered,
    NodeJoined,
    PlacementPreviewed,
    PlacementRejected,
)
from shardbus_schemas.ids import BootId, CommandId, DeviceKey, EventId, InstanceId, ModelId, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest
from shardbus_schemas.telemetry import DeviceGPUState

InstanceStatus = Literal["placed", "lost", "deleted"]
"""Only a ``placed`` instance holds its memory."""

DecisionEvent = (
    InstancePlaced
    | InstanceReplaced
    | InstanceDeleted
    | PlacementRejected
    | PlacementPreviewed
    | CommandRejected
    | ModelRegistered
)
"""What answers a command."""

LinkKey = tuple[NodeId, NodeId]
"""From node, to node."""

DeadLetterKey = tuple[str, int, datetime, str]
"""The buried message's stream, sequence and time of recording, and who buried it: buried twice it is one."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that joined at least once."""

    joined: NodeJoined
    joined_at: datetime
    """When the stream recorded it."""
    sequence: int
    """The last message that changed this record."""
    left_at: datetime | None = None
    left_reason: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """What a device is, and whether it is still there."""

    node_id: NodeId
    facts: DeviceFacts
    registered_at: datetime
    sequence: int
    lost_at: datetime | None = None
    lost_reason: str | None = None
    faults: int = 0
    """How many errors its driver told of, ever."""
    last_fault: DeviceFaulted | None = None

    @property
    def key(self) -> DeviceKey:
        """The device's fleet-wide name."""
        return DeviceKey.of(self.node_id, self.facts.device_id)


@dataclass(frozen=True, slots=True)
class DeviceStateRecord:
    """A device's last readings. The device may never have been registered; then nobody sees it (``fleet_of``)."""

    reading: DeviceGPUState
    sequence: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class NodeHeard:
    """When a node was last heard, and how much of what it said was lost or came twice."""

    node_id: NodeId
    sequence: int
    recorded_at: datetime
    boot_id: BootId | None = None
    tick: int | None = None
    """The last tick of this boot."""
    heartbeat_sequence: int = 0
    """The last full report, with all devices of the node; 0 is none yet."""
    missed_ticks: int = 0
    """Ticks that the agent counted and the stream never got."""
    repeated_ticks: int = 0
    """Messages dropped because a tick of the same boot, as new or newer, came before."""


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """The latest measurement of a directed path."""

    measured: GPUBandwidthMeasured
    sequence: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A registered model profile."""

    profile: ModelProfile
    sequence: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A model that was placed, with its plan now."""

    instance_id: InstanceId
    command_id: CommandId
    model: ModelProfile
    request: PlacementRequest
    plan: Placed
    status: InstanceStatus
    created_at: datetime
    created_sequence: int
    updated_at: datetime
    updated_sequence: int
    reason: str | None = None
    """Why it was replaced, lost or deleted last."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The first answer to a command; a command that comes again is answered by it already."""

    command_id: CommandId
    event: DecisionEvent
    sequence: int
    recorded_at: datetime
    event_id: EventId
    correlation_id: EventId | None = None

    @property
    def outcome(self) -> str:
        """The permanent name of the answer's type."""
        return self.event.TYPE

    @property
    def instance_id(self) -> InstanceId | None:
        """The instance that the answer is about, if it is about one."""
        match self.event:
            case InstancePlaced() | InstanceReplaced() | InstanceDeleted():
                return self.event.instance_id
            case PlacementRejected() | PlacementPreviewed() | CommandRejected() | ModelRegistered():
                return None


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A message that nobody could read."""

    letter: DeadLettered
    sequence: int
    """Of the letter in ``DEAD``, when it was buried first."""
    recorded_at: datetime

    @property
    def key(self) -> DeadLetterKey:
        """What makes two letters the same."""
        return (self.letter.stream, self.letter.sequence, self.letter.recorded_at, self.letter.seen_by)


@dataclass(frozen=True, slots=True)
class RetriedLetter:
    """A dead letter that could be read later."""

    retried: DeadLetterRetried
    sequence: int
    """Of that word in ``DEAD``, when it was said first."""
    recorded_at: datetime

    @property
    def key(self) -> DeadLetterKey:
        """The letter's key."""
        return (self.retried.stream, self.retried.sequence, self.retried.recorded_at, self.retried.seen_by)


@dataclass(frozen=True, slots=True)
class FleetState:
    """Everything the streams said, as of ``positions``. The maps are never changed once published."""

    # From TELEMETRY.
    device_states: Mapping[DeviceKey, DeviceStateRecord] = field(default_factory=dict[DeviceKey, DeviceStateRecord])
    node_heard: Mapping[NodeId, NodeHeard] = field(default_factory=dict[NodeId, NodeHeard])
    links: Mapping[LinkKey, LinkRecord] = field(default_factory=dict[LinkKey, LinkRecord])
    # From FLEET.
    nodes: Mapping[NodeId, NodeRecord] = field(default_factory=dict[NodeId, NodeRecord])
    devices: Mapping[DeviceKey, DeviceRecord] = field(default_factory=dict[DeviceKey, DeviceRecord])
    models: Mapping[ModelId, ModelRecord] = field(default_factory=dict[ModelId, ModelRecord])
    instances: Mapping[InstanceId, InstanceRecord] = field(default_factory=dict[InstanceId, InstanceRecord])
    decisions: Mapping[CommandId, int] = field(default_factory=dict[CommandId, int])
    """Command to where its first answer is in ``FLEET``: no more, since there is an entry for every command ever."""
    # From DEAD.
    dead_letters: Mapping[DeadLetterKey, DeadLetterRecord] = field(
        default_factory=dict[DeadLetterKey, DeadLetterRecord]
    )
    retried_letters: Mapping[DeadLetterKey, RetriedLetter] = field(default_factory=dict[DeadLetterKey, RetriedLetter])
    # Each stream touches its own entry.
    positions: Mapping[str, int] = field(default_factory=dict[str, int])
    """Stream to the last sequence folded."""
    ignored: Mapping[str, int] = field(default_factory=dict[str, int])
    """Stream to how many of its messages changed nothing: repeated, or about something unknown."""


def living_part(state: FleetState) -> FleetState:
    """Return what any later fold of ``TELEMETRY`` and ``FLEET``, and any later decision, depends on; no more.

    Left out are deleted instances (to the fold and to the placer one is like one that never was), dead letters, and
    what is only counted. Folding goes on from it as from ``state``: the living parts of both stay equal.
    """
    return FleetState(
        device_states=state.device_states,
        node_heard=state.node_heard,
        links=state.links,
        nodes=state.nodes,
        devices=state.devices,
        models=state.models,
        instances={name: record for name, record in state.instances.items() if record.status != "deleted"},
        decisions=state.decisions,
        positions={stream: at for stream, at in state.positions.items() if stream in ("TELEMETRY", "FLEET")},
    )


def without_telemetry(state: FleetState) -> FleetState:
    """Return ``state`` as if nothing of ``TELEMETRY`` had been folded yet."""
    return replace(
        state,
        device_states={},
        node_heard={},
        links={},
        positions={stream: at for stream, at in state.positions.items() if stream != "TELEMETRY"},
        ignored={stream: count for stream, count in state.ignored.items() if stream != "TELEMETRY"},
    )
