"""What happened. An event is a fact: it is never changed and never taken back.

Each event has a permanent ``TYPE``, its name on the bus for ever, and an integer ``VERSION``. An additive
change is a new optional field; any other change is ``VERSION + 1`` and an upcaster.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shardbus_schemas.access import Grant
from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.ids import BootId, CommandId, DeploymentId, DeviceId, DeviceKey, InstanceId, ModelId, NodeId
from shardbus_schemas.model import Bytes, FrozenModel, UtcDatetime
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused, StatePosition
from shardbus_schemas.telemetry import DeviceGPUState


class Asked(FrozenModel):
    """Who sent a command, and when. The queue forgets a command once it is answered; the answer remembers."""

    source: Annotated[str, Field(max_length=300)]
    """As the command's envelope has it: ``console``; ``unknown`` for a bare message."""
    occurred_at: UtcDatetime
    """By the sender's clock; of a bare message, when the bus recorded it."""
    recorded_at: UtcDatetime
    """When ``COMMANDS`` recorded it."""
    sequence: Annotated[int, Field(ge=1)]
    """Where it was in ``COMMANDS``."""


class NodeJoined(FrozenModel):
    """An agent started on a node and will be heard at least once per heartbeat."""

    TYPE: ClassVar[str] = "NodeJoined"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    boot_id: BootId
    hostname: str | None = None
    agent_version: str | None = None
    operating_system: str | None = None
    labels: dict[str, str] = {}
    heartbeat_seconds: Annotated[float, Field(gt=0)]
    """The longest silence of a living agent; a node silent for several of these is stale."""
    device_link: LinkFigures | None = None
    """Between any two devices of this node."""
    report_seconds: Annotated[float, Field(gt=0)] | None = None
    """How often all readings are told, changed or not."""
    error_bounds: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Reading to how far what was told last may be from the agent's last sample, in the reading's own unit.

    ``memory_used_percent`` is of the device's total, ``power_limit_percent`` of its power limit; beside
    ``memory_used_bytes`` and ``power_watts`` the larger of the two holds. Flags, totals and thresholds are exact, and
    so are ``throttle_reasons`` but for ``power_cap``.
    """


class NodeLeft(FrozenModel):
    """An agent stopped and said so. Its devices are lost until it joins again."""

    TYPE: ClassVar[str] = "NodeLeft"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    boot_id: BootId
    reason: str = "stopped"


class DeviceRegistered(FrozenModel):
    """What a device is, on first sight and again when a fact changes. It replaces what was known."""

    TYPE: ClassVar[str] = "DeviceRegistered"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device: DeviceFacts


class DeviceLost(FrozenModel):
    """A device fell off its node, hangs, or was removed."""

    TYPE: ClassVar[str] = "DeviceLost"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device_id: DeviceId
    reason: str


FaultKind = Literal["xid", "ecc", "driver"]


class DeviceFaulted(FrozenModel):
    """A device's driver told of an error. The device may go on: if it cannot, ``DeviceLost`` follows."""

    TYPE: ClassVar[str] = "DeviceFaulted"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device_id: DeviceId
    kind: FaultKind
    code: Annotated[int, Field(ge=0)] | None = None
    """The driver's number: an XID."""
    message: str
    """What it means, and what to do."""
    is_critical: bool = False
    """Whether the device has to be reset, or its work is lost."""
    occurred_at: UtcDatetime


class DeviceGPUStateUpdated(FrozenModel):
    """One tick of one node: the readings that changed significantly, or all of them in a full report.

    Without any states it says no more than that the node is alive.
    """

    TYPE: ClassVar[str] = "DeviceGPUStateUpdated"
    VERSION: ClassVar[int] = 2

    node_id: NodeId
    boot_id: BootId | None = None
    tick: Annotated[int, Field(ge=0)] | None = None
    """Counts this agent's published ticks within its boot; a gap is a message lost before the bus."""
    heartbeat: bool = False
    """Whether this is a full report: a device left out of it has no reading any more."""
    states: tuple[DeviceGPUState, ...] = ()

    @model_validator(mode="after")
    def _states_are_of_this_node(self) -> Self:
        for state in self.states:
            if state.node_id != self.node_id:
                raise ValueError(f"a state of node {state.node_id!r} in a message of node {self.node_id!r}")
        return self


class GPUBandwidthMeasured(LinkFigures):
    """A directed path between two nodes was measured."""

    TYPE: ClassVar[str] = "GPUBandwidthMeasured"
    VERSION: ClassVar[int] = 1

    from_node: NodeId = Field(alias="from")
    to_node: NodeId = Field(alias="to")
    method: str = "unknown"
    """``probe``: measured by sending; ``passive``: what the interfaces can at best, and a measured latency."""
    samples: Annotated[int, Field(ge=1)] | None = None
    """How many measurements these figures are made of."""
    spread: Annotated[float, Field(ge=0)] | None = None
    """(best - worst) / best of the bandwidths measured."""
    interface: str | None = None
    """The sender's network interface."""
    at_least: bool = False
    """Whether the path may carry more: the sender could not saturate it."""
    measured_at: UtcDatetime

    @model_validator(mode="after")
    def _has_two_ends(self) -> Self:
        if self.from_node == self.to_node:
            raise ValueError(f"a link from node {self.from_node!r} to itself")
        return self


class ModelRegistered(FrozenModel):
    """A model profile became known, or replaced the one of the same id."""

    TYPE: ClassVar[str] = "ModelRegistered"
    VERSION: ClassVar[int] = 1

    profile: ModelProfile
    command_id: CommandId | None = None
    asked: Asked | None = None
    """Who sent the command; ``None`` in events from before this was noted, or if no command was sent."""


class InstancePlaced(FrozenModel):
    """A model was placed: which device holds which layers, why, and from which state that was decided."""

    TYPE: ClassVar[str] = "InstancePlaced"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    command_id: CommandId
    model: ModelProfile
    request: PlacementRequest
    plan: Placed
    position: StatePosition
    used_before: dict[DeviceKey, Bytes] = {}
    """Memory that others used on the plan's devices when this was decided: a rise above it is this instance's."""
    gave_way: tuple[InstanceId, ...] = ()
    """Instances of a lower priority that were taken off their devices for it; their own events came just before."""
    barred: tuple[str, ...] = ()
    """Nodes and devices that it might not use besides what its request says: what it had to leave, where it failed,
    where its other replicas are."""
    deployment_id: DeploymentId | None = None
    """Whose replica it is."""
    grant: Grant | None = None
    """What the access token that came with the command permits."""
    asked: Asked | None = None
    """Who sent the command; ``None`` in events from before this was noted, or if no command was sent."""


ChangeCause = Literal[
    "device_lost",
    "drained",
    "throttling",
    "memory_taken",
    "shard_failed",
    "preempted",
    "capacity",
    "moved",
    "rebalanced",
    "scaled",
    "no_room",
    "overcommitted",
]
"""Why a placer moved an instance, or took it from its devices.

``capacity``: it was pending and there is room now. ``moved``, ``rebalanced``, ``scaled``: a command asked for it.
``no_room``: it was asked for, and does not fit. ``overcommitted``: its devices were promised more than they have.
"""


class InstanceReplaced(FrozenModel):
    """An instance got a new plan in place of its old one, or its first one if it was pending."""

    TYPE: ClassVar[str] = "InstanceReplaced"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    command_id: CommandId | None = None
    plan: Placed
    reason: str
    """One sentence for a person, with names and numbers."""
    position: StatePosition
    cause: ChangeCause | None = None
    """``None`` in events from before this was kept."""
    used_before: dict[DeviceKey, Bytes] = {}
    """Memory that others used on the plan's devices when this was decided: a rise above it is this instance's."""
    gave_way: tuple[InstanceId, ...] = ()
    """Instances of a lower priority that were taken off their devices for it; their own events came just before."""
    barred: tuple[str, ...] = ()
    """Nodes and devices that it might not use besides what its request says: what it had to leave, where it failed,
    where its other replicas are."""
    asked: Asked | None = None
    """Who sent the command; ``None`` in events from before this was noted, or if no command was sent."""


class InstancePending(FrozenModel):
    """An instance is wanted and has no place: it holds no memory, and is placed when there is room."""

    TYPE: ClassVar[str] = "InstancePending"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    command_id: CommandId | None = None
    reason: str
    """One sentence for a person, with names and numbers."""
    cause: ChangeCause
    result: Refused
    """Why there is no place for it now."""
    position: StatePosition
    barred: tuple[str, ...] = ()
    """Nodes and devices that it might not use besides what its request says: what it had to leave, where it failed,
    where its other replicas are."""
    gave_way_to: InstanceId | None = None
    """The instance of a higher priority that has its memory now."""
    model: ModelProfile | None = None
    """With ``request``: of an instance that is new. ``None``: it was there before."""
    request: PlacementRequest | None = None
    deployment_id: DeploymentId | None = None
    grant: Grant | None = None
    asked: Asked | None = None
    """Who sent the command; ``None`` if no command was sent."""


class InstanceDeleted(FrozenModel):
    """An instance is no longer wanted; its memory is free."""

    TYPE: ClassVar[str] = "InstanceDeleted"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    command_id: CommandId | None = None
    reason: str | None = None
    asked: Asked | None = None
    """Who sent the command; ``None`` in events from before this was noted, or if no command was sent."""


class InstanceLost(FrozenModel):
    """An instance cannot run any more, because devices it needs are gone."""

    TYPE: ClassVar[str] = "InstanceLost"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    devices: tuple[DeviceKey, ...]
    reason: str


class PlacementRejected(FrozenModel):
    """A model could not be placed: what is missing where, and what would make it fit."""

    TYPE: ClassVar[str] = "PlacementRejected"
    VERSION: ClassVar[int] = 1

    command_id: CommandId
    model_id: ModelId
    request: PlacementRequest
    result: Refused
    position: StatePosition
    model: ModelProfile | None = None
    """What was planned; ``None`` if no such model is known, or in what was written before this was kept."""
    asked: Asked | None = None
    """Who sent the command; ``None`` in events from before this was noted, or if no command was sent."""


class PlacementPreviewed(FrozenModel):
    """The answer to a dry run: what would be placed. Nothing is reserved."""

    TYPE: ClassVar[str] = "PlacementPreviewed"
    VERSION: ClassVar[int] = 1

    command_id: CommandId
    request: PlacementRequest
    plan: Placed
    position: StatePosition
    model: ModelProfile | None = None
    """What was planned; ``None`` in what was written before this was kept."""
    asked: Asked | None = None
    """Who sent the command; ``None`` in events from before this was noted, or if no command was sent."""


class Cordoned(FrozenModel):
    """Nothing new goes to a node or device; under a drain, what is there moves away."""

    TYPE: ClassVar[str] = "Cordoned"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device_id: DeviceId | None = None
    """``None``: the whole node."""
    drain: bool = False
    reason: str | None = None
    command_id: CommandId | None = None
    asked: Asked | None = None


class Uncordoned(FrozenModel):
    """A node or device takes instances again. A whole node: all cordons of its devices are gone too."""

    TYPE: ClassVar[str] = "Uncordoned"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device_id: DeviceId | None = None
    reason: str | None = None
    command_id: CommandId | None = None
    asked: Asked | None = None


class DeploymentScaled(FrozenModel):
    """So many replicas of a model are wanted from now on. Their own events follow."""

    TYPE: ClassVar[str] = "DeploymentScaled"
    VERSION: ClassVar[int] = 1

    deployment_id: DeploymentId
    replicas: Annotated[int, Field(ge=0)]
    model: ModelProfile
    request: PlacementRequest
    """For each replica."""
    spread_by: str | None = None
    """The label that names a node's failure domain; ``None``: each node is one."""
    grant: Grant | None = None
    reason: str | None = None
    command_id: CommandId
    asked: Asked | None = None


class FleetRebalanced(FrozenModel):
    """All instances were planned anew, and these were moved; their own events came just before."""

    TYPE: ClassVar[str] = "FleetRebalanced"
    VERSION: ClassVar[int] = 1

    moved: dict[InstanceId, float]
    """Each with its gain: how much better its objective is, relative to before."""
    threshold: float
    """What a gain had to exceed."""
    position: StatePosition
    command_id: CommandId
    asked: Asked | None = None


ShardState = Literal["loading", "ready", "failed", "stopped"]


class ShardReported(FrozenModel):
    """What a runtime says of the shard that it runs, told by the agent of its node."""

    TYPE: ClassVar[str] = "ShardReported"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    node_id: NodeId
    device_id: DeviceId
    state: ShardState
    start_layer: Annotated[int, Field(ge=0)] | None = None
    end_layer: Annotated[int, Field(ge=1)] | None = None
    """One past the last layer. ``None``: the runtime does not say."""
    memory_used_bytes: Bytes | None = None
    """What the runtime takes on the device for this shard, now."""
    message: str | None = None
    """What went wrong, or how far it is."""
    occurred_at: UtcDatetime
    """By the node's clock, as its readings' ``last_update`` are."""


CommandRejectionCode = Literal[
    "unknown_instance",
    "unsupported_command",
    "expired",
    "unknown_target",
    "unknown_model",
    "nothing_to_do",
    "no_place",
    "conflict",
    "access_required",
    "access_invalid",
    "access_expired",
    "access_denied",
    "quota_exceeded",
]


class CommandRejected(FrozenModel):
    """A command other than a placement could not be carried out."""

    TYPE: ClassVar[str] = "CommandRejected"
    VERSION: ClassVar[int] = 1

    command_id: CommandId
    command_type: str
    code: CommandRejectionCode
    message: str
    result: Refused | None = None
    """Why there is no plan, where one was looked for."""
    asked: Asked | None = None
    """Who sent the command; ``None`` in events from before this was noted, or if no command was sent."""


class DeadLettered(FrozenModel):
    """A message that could not be understood: where it was, why, and its original bytes in base64."""

    TYPE: ClassVar[str] = "DeadLettered"
    VERSION: ClassVar[int] = 1

    stream: Annotated[str, Field(min_length=1)]
    sequence: Annotated[int, Field(ge=1)]
    subject: str
    code: str
    reason: str
    recorded_at: UtcDatetime
    headers: dict[str, str] = {}
    payload_base64: str
    seen_by: str
    """The consumer that gave up on it."""


class DeadLetterRetried(FrozenModel):
    """A dead letter was read after all, and its message is where it belongs: nobody needs to try it again."""

    TYPE: ClassVar[str] = "DeadLetterRetried"
    VERSION: ClassVar[int] = 1

    stream: Annotated[str, Field(min_length=1)]
    """With the next three what names the letter: where its message was, when it came, and who gave up on it."""
    sequence: Annotated[int, Field(ge=1)]
    recorded_at: UtcDatetime
    seen_by: str
    outcome: Literal["folded", "published"]
    """Folded in its place by a rebuild of the read model, or published again."""
    published_sequence: Annotated[int, Field(ge=1)] | None = None
    """Where the message is now, if it was published again."""


TelemetryEvent = DeviceGPUStateUpdated | GPUBandwidthMeasured
FleetEvent = (
    NodeJoined
    | NodeLeft
    | DeviceRegistered
    | DeviceLost
    | DeviceFaulted
    | ModelRegistered
    | InstancePlaced
    | InstanceReplaced
    | InstanceDeleted
    | InstanceLost
    | InstancePending
    | PlacementRejected
    | PlacementPreviewed
    | CommandRejected
    | Cordoned
    | Uncordoned
    | DeploymentScaled
    | FleetRebalanced
    | ShardReported
)
Event = TelemetryEvent | FleetEvent
Answer = (
    InstancePlaced
    | InstanceReplaced
    | InstancePending
    | InstanceDeleted
    | PlacementRejected
    | PlacementPreviewed
    | CommandRejected
    | ModelRegistered
    | Cordoned
    | Uncordoned
    | DeploymentScaled
    | FleetRebalanced
)
"""What a placer answers a command with."""
