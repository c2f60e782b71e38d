"""The life of an instance as it is told: what befell it, in order, and what that comes to."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field
from shardbus_schemas import events
from shardbus_schemas.ids import DeploymentId, DeviceKey, InstanceId, ModelId
from shardbus_schemas.model import Bytes, FrozenModel, Seconds
from shardbus_schemas.placement import Movement, Priority, Refusal

from shardbus_eventstore.state import InstanceStatus


class Because(FrozenModel):
    """What led directly to something."""

    event_id: str
    type: str
    text: str
    source: str
    """Of a command: who sent it."""
    stream: str
    """``COMMANDS``: it was a command, which the queue has forgotten since; else ``FLEET``."""
    sequence: int
    recorded_at: datetime
    seconds_before: Seconds


class Held(FrozenModel):
    """A plan, as far as a life tells of it."""

    layout: str
    """Which devices hold which layers."""
    devices: tuple[DeviceKey, ...]
    memory_bytes: Bytes
    """Promised on all devices together."""
    tokens_per_second: Annotated[float, Field(ge=0)]
    """Predicted."""
    movement: Movement | None = None


class _Moment(FrozenModel):
    sequence: int
    """In ``FLEET``."""
    recorded_at: datetime
    source: str
    """Who said it."""
    because: Because | None = None
    causation_id: str | None = None
    """Of what led to it, found or not."""


class Settled(_Moment):
    """It got its devices, or other ones."""

    kind: Literal["placed", "moved"]
    """``moved``: it had a place until then."""
    plan: Held
    left: str | None = None
    """The layout before, of one that moved, or was placed again."""
    layers_moved: Annotated[int, Field(ge=0)] | None = None
    """How many layers lie elsewhere than before."""
    reason: str | None = None
    cause: events.ChangeCause | None = None
    placed_seconds: Seconds | None = None
    """How long one that moved had been where it was."""
    without_place_seconds: Seconds | None = None
    """How long it had waited for a place; ``None``: it did not."""
    gave_way: tuple[InstanceId, ...] = ()


class Waiting(_Moment):
    """It has no place, or still none."""

    kind: Literal["pending", "lost"]
    """``lost``: as an older placer said it."""
    reason: str
    cause: events.ChangeCause
    still: bool = False
    """Whether it had none before either."""
    left: str | None = None
    placed_seconds: Seconds | None = None
    """How long it had been where it was."""
    refusal: Refusal | None = None
    gave_way_to: InstanceId | None = None


class Ended(_Moment):
    """It is not wanted any more."""

    kind: Literal["deleted"] = "deleted"
    reason: str | None = None
    age_seconds: Seconds


class ShardTold(_Moment):
    """A shard entered a state, as its runtime says."""

    kind: Literal["shard"] = "shard"
    state: events.ShardState
    device: DeviceKey
    layers: str | None = None
    took_seconds: Seconds | None = None
    """How long the state before it lasted, by the node's clock."""
    took_from: events.ShardState | None = None
    """The state before."""
    memory_used_bytes: Bytes | None = None
    """The last that was told in this state."""
    promised_bytes: Bytes | None = None
    message: str | None = None
    all_ready_seconds: Seconds | None = None
    """With this one all shards of the plan were ready, so long after the plan."""


class Elsewhere(_Moment):
    """Something that befell others, and led to what follows."""

    kind: Literal["elsewhere"] = "elsewhere"
    type: str
    text: str


Moment = Annotated[Settled | Waiting | Ended | ShardTold | Elsewhere, Field(discriminator="kind")]


class Totals(FrozenModel):
    """How long it was what, until now or until it was deleted: ``placed``, ``without_place`` and ``gone`` add up."""

    seconds: Seconds
    placed_seconds: Seconds
    without_place_seconds: Seconds
    gone_seconds: Seconds = 0.0
    """Of one that was deleted and placed anew: between the two."""
    ready_seconds: Seconds | None = None
    """All shards of its plan were ready; ``None``: no runtime ever said a word."""
    longest_without_place_seconds: Seconds = 0.0
    times_without_place: int = 0
    moves: int = 0
    """How often it got other devices or layers than it had last."""
    shard_failures: int = 0


class Life(FrozenModel):
    """All that the stream says of one instance."""

    instance_id: InstanceId
    model_id: ModelId
    priority: Priority = 0
    deployment_id: DeploymentId | None = None
    """Whose replica it is."""
    moments: tuple[Moment, ...]
    status: InstanceStatus
    since: datetime
    plan: Held | None = None
    """Of a placed one."""
    reason: str | None = None
    """Of one without a place."""
    refusal: Refusal | None = None
    shards: dict[DeviceKey, events.ShardState] = {}
    """By each of the plan's devices of which its runtime spoke."""
    totals: Totals
