"""What may be asked for. A command is a wish: the placer answers it with events."""

from typing import Annotated, ClassVar

from pydantic import Field

from shardbus_schemas.ids import CommandId, DeploymentId, DeviceId, InstanceId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import AccessToken, PlacementRequest


class _Wish(FrozenModel):
    """What every command may carry; a placement has these among its own."""

    reason: str | None = None
    """Why, for the record."""
    command_id: CommandId | None = None
    """Chosen by the sender; the same id twice is one command. ``None``: the stream sequence stands in."""
    access_token: AccessToken = None


class Place(PlacementRequest):
    """Place a model. Answered by ``InstancePlaced``, ``InstancePending`` or ``PlacementRejected``."""

    TYPE: ClassVar[str] = "Place"
    VERSION: ClassVar[int] = 1


class Delete(_Wish):
    """Delete an instance. Answered by ``InstanceDeleted`` or ``CommandRejected``."""

    TYPE: ClassVar[str] = "Delete"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId


class RegisterModel(FrozenModel):
    """Make a model known by its id. Answered by ``ModelRegistered``."""

    TYPE: ClassVar[str] = "RegisterModel"
    VERSION: ClassVar[int] = 1

    profile: ModelProfile
    command_id: CommandId | None = None
    access_token: AccessToken = None


class Cordon(_Wish):
    """Let nothing new go to a node or device; what is there stays. Answered by ``Cordoned``."""

    TYPE: ClassVar[str] = "Cordon"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device_id: DeviceId | None = None
    """``None``: the whole node."""


class Drain(_Wish):
    """Cordon a node or device, and move everything off it. Answered by ``Cordoned``; then the instances move."""

    TYPE: ClassVar[str] = "Drain"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device_id: DeviceId | None = None
    """``None``: the whole node."""


class Uncordon(_Wish):
    """Take back a cordon or drain. Answered by ``Uncordoned``; what waited for room may go there at once."""

    TYPE: ClassVar[str] = "Uncordon"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    device_id: DeviceId | None = None
    """``None``: the whole node, and whatever of its devices was cordoned by itself."""


class Move(_Wish):
    """Plan an instance anew on the fleet as it is now. Answered by ``InstanceReplaced`` or ``CommandRejected``."""

    TYPE: ClassVar[str] = "Move"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    away_from: tuple[str, ...] = ()
    """Nodes (``attic``) or devices (``attic/cuda:0``) that it must leave."""


class Replan(Move):
    """The older name of ``Move``."""

    TYPE: ClassVar[str] = "Replan"
    VERSION: ClassVar[int] = 1


class Rebalance(_Wish):
    """Plan all instances anew, where that gains enough. Answered by ``FleetRebalanced`` or ``CommandRejected``."""

    TYPE: ClassVar[str] = "Rebalance"
    VERSION: ClassVar[int] = 1

    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """How much better an instance must become to be moved, relative to its objective: 0.1 is a tenth.

    ``None``: the placer's setting.
    """


class Scale(PlacementRequest):
    """Want so many replicas of a model, spread over failure domains. Answered by ``DeploymentScaled``.

    Of a deployment that there is already only the number changes unless conditions are given; these then hold for
    replicas made from now on.
    """

    TYPE: ClassVar[str] = "Scale"
    VERSION: ClassVar[int] = 1

    replicas: Annotated[int, Field(ge=0, le=1000)]
    deployment_id: DeploymentId | None = None
    """``None``: the model's id, with ``-`` for ``/``."""
    spread_by: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """The label of nodes that names their failure domain (``site``, ``rack``); ``None``: each node is one."""
    reason: str | None = None


Command = Place | Delete | RegisterModel | Cordon | Drain | Uncordon | Move | Replan | Rebalance | Scale
