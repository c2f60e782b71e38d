"""What the streams say: the state that folding them gives, and its records.

``TELEMETRY``, ``FLEET`` and ``DEAD`` touch disjoint parts of the state, so a pair (or triple) of sequences names a
state exactly, in whatever order the streams were read. Published states never change: a fold copies what it writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from shardbus_schemas.access import Grant
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import (
    Answer,
    ChangeCause,
    DeadLettered,
    DeadLetterRetried,
    DeviceFaulted,
    GPUBandwidthMeasured,
    InstanceDeleted,
    InstancePending,
    InstancePlaced,
    InstanceReplaced,
    NodeJoined,
    ShardReported,
)
from shardbus_schemas.ids import (
    BootId,
    CommandId,
    DeploymentId,
    DeviceId,
    DeviceKey,
    EventId,
    InstanceId,
    ModelId,
    NodeId,
    target_name,
)
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused
from shardbus_schemas.telemetry import DeviceGPUState

InstanceStatus = Literal["placed", "pending", "lost", "deleted"]
"""Only a ``placed`` instance holds its memory. Pending and lost ones are wanted, and wait for a place."""

DecisionEvent = Answer
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
class Baseline:
    """What was in use on a device when an instance was promised memory there."""

    used_bytes: int
    decided_at: datetime
    """When the stream recorded the decision."""


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The last that a runtime said of an instance's shard on one device."""

    report: ShardReported
    sequence: int
    recorded_at: datetime
    since: datetime
    """When it entered this state."""
    began_at: datetime
    """When it was told of first, by the node's clock; anew after it was stopped."""
    failures: int = 0
    """How often it failed on this device."""
    failed_at: datetime | None = None
    """When it failed last, as the stream recorded it."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A model that is wanted, with its plan now."""

    instance_id: InstanceId
    command_id: CommandId
    model: ModelProfile
    request: PlacementRequest
    plan: Placed | None
    """Of a pending instance the one before; ``None`` if it never had one."""
    status: InstanceStatus
    created_at: datetime
    created_sequence: int
    updated_at: datetime
    """When it was placed, moved, lost or deleted last."""
    updated_sequence: int
    sequence: int
    """The last message that changed this record: also what a runtime said."""
    reason: str | None = None
    """Why it was moved, lost or deleted last, or why it is pending."""
    cause: ChangeCause | None = None
    refusal: Refused | None = None
    """Of a pending one: why it had no place when that was looked at last."""
    gave_way_to: InstanceId | None = None
    deployment_id: DeploymentId | None = None
    grant: Grant | None = None
    baselines: Mapping[DeviceKey, Baseline] = field(default_factory=dict[DeviceKey, Baseline])
    """By each of the plan's devices for which it is known."""
    displaced_at: tuple[datetime, ...] = ()
    """When it was taken off its devices against its will, the last few times."""
    shards: Mapping[DeviceKey, ShardRecord] = field(default_factory=dict[DeviceKey, ShardRecord])
    """What runtimes said, by device, also of devices that are not in the plan any more."""

    @property
    def is_wanted(self) -> bool:
        """Whether it was not deleted."""
        return self.status != "deleted"

    @property
    def promised(self) -> Mapping[DeviceKey, int]:
        """The bytes promised to it, by device: none unless it is placed."""
        return self.plan.memory_by_device if self.status == "placed" and self.plan is not None else {}


@dataclass(frozen=True, slots=True)
class CordonRecord:
    """A node or device that takes nothing new, or took nothing new before."""

    node_id: NodeId
    device_id: DeviceId | None
    drain: bool
    """Whether what is there has to leave."""
    reason: str | None
    at: datetime
    sequence: int
    lifted_at: datetime | None = None

    @property
    def key(self) -> str:
        """The node's or the device's name."""
        return target_name(self.node_id, self.device_id)


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """How many replicas of a model are wanted."""

    deployment_id: DeploymentId
    replicas: int
    model: ModelProfile
    request: PlacementRequest
    spread_by: str | None
    grant: Grant | None
    command_id: CommandId
    """Of the last command that changed it."""
    created_at: datetime
    updated_at: datetime
    sequence: int


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
            case InstancePlaced() | InstanceReplaced() | InstancePending() | InstanceDeleted():
                return self.event.instance_id
            case _:
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
    cordons: Mapping[str, CordonRecord] = field(default_factory=dict[str, CordonRecord])
    """By the name of the node or device."""
    deployments: Mapping[DeploymentId, DeploymentRecord] = field(default_factory=dict[DeploymentId, DeploymentRecord])
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

    Left out are deleted instances and lifted cordons (to the fold and to the placer one is like one that never was),
    dead letters, and what is only counted. Folding goes on from it as from ``state``: the living parts of both stay
    equal.
    """
    return FleetState(
        device_states=state.device_states,
        node_heard=state.node_heard,
        links=state.links,
        nodes=state.nodes,
        devices=state.devices,
        models=state.models,
        instances=wanted_instances(state),
        cordons=active_cordons(state),
        deployments=state.deployments,
        decisions=state.decisions,
        positions={stream: at for stream, at in state.positions.items() if stream in ("TELEMETRY", "FLEET")},
    )


def wanted_instances(state: FleetState) -> dict[InstanceId, InstanceRecord]:
    """Return the instances that were not deleted."""
    return {name: record for name, record in state.instances.items() if record.is_wanted}


def active_cordons(state: FleetState) -> dict[str, CordonRecord]:
    """Return the cordons that were not lifted."""
    return {name: record for name, record in state.cordons.items() if record.lifted_at is None}


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
