"""What may be asked for. A command is a wish: the placer answers it with events."""

from typing import ClassVar

from shardbus_schemas.ids import CommandId, InstanceId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest


class Place(PlacementRequest):
    """Place a model. Answered by ``InstancePlaced`` or ``PlacementRejected``."""

    TYPE: ClassVar[str] = "Place"
    VERSION: ClassVar[int] = 1


class Delete(FrozenModel):
    """Delete an instance. Answered by ``InstanceDeleted`` or ``CommandRejected``."""

    TYPE: ClassVar[str] = "Delete"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    reason: str | None = None
    command_id: CommandId | None = None


class RegisterModel(FrozenModel):
    """Make a model known by its id. Answered by ``ModelRegistered``."""

    TYPE: ClassVar[str] = "RegisterModel"
    VERSION: ClassVar[int] = 1

    profile: ModelProfile
    command_id: CommandId | None = None


class Drain(FrozenModel):
    """Move everything off a node."""

    TYPE: ClassVar[str] = "Drain"
    VERSION: ClassVar[int] = 1

    node_id: NodeId
    reason: str | None = None
    command_id: CommandId | None = None


class Replan(FrozenModel):
    """Plan an instance anew on the fleet as it is now."""

    TYPE: ClassVar[str] = "Replan"
    VERSION: ClassVar[int] = 1

    instance_id: InstanceId
    reason: str | None = None
    command_id: CommandId | None = None


Command = Place | Delete | RegisterModel | Drain | Replan
