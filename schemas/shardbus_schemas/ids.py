"""The names of things. Each kind of id is its own type, so that a checker tells them apart."""

from typing import TYPE_CHECKING, Any, Self

from pydantic_core import CoreSchema, core_schema
from typing_extensions import override

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

_NAME = r"^[^\s\x00-\x1f\x7f/]([^\x00-\x1f\x7f/]*[^\s\x00-\x1f\x7f/])?$"


class Identifier(str):
    """Text of 1 to 200 characters without ``/``, control characters, or spaces at its ends.

    Validation returns plain ``str`` at run time (an id costs what its text costs); the subclasses exist
    for the type checker.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type, handler: "GetCoreSchemaHandler") -> CoreSchema:
        return core_schema.str_schema(min_length=1, max_length=200, pattern=_NAME, strict=True)


class NodeId(Identifier):
    """A host of the fleet."""

    __slots__ = ()


class DeviceId(Identifier):
    """A device within its node: the stable uuid the driver gives, or the name a fleet file gives."""

    __slots__ = ()


class InstanceId(Identifier):
    """A placed model."""

    __slots__ = ()


class DeploymentId(Identifier):
    """A number of replicas of one model, wanted together."""

    __slots__ = ()


class BootId(Identifier):
    """One life of one agent process; ticks are counted within it."""

    __slots__ = ()


class ModelId(Identifier):
    """A model profile's name. Unlike the other ids it may hold ``/``, as Hugging Face names do."""

    __slots__ = ()

    @override
    @classmethod
    def __get_pydantic_core_schema__(cls, source: type, handler: "GetCoreSchemaHandler") -> CoreSchema:
        return core_schema.str_schema(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f\x7f]+$", strict=True)


class CommandId(ModelId):
    """A command's name, chosen by who sends it; the same id twice is one command."""

    __slots__ = ()


class EventId(ModelId):
    """An event's name; unique for ever."""

    __slots__ = ()


class DeviceKey(str):
    """A device of the whole fleet, written ``node/device``: never a bare ``cuda:0``, two nodes both have one."""

    __slots__ = ()

    @classmethod
    def of(cls, node_id: str, device_id: str) -> Self:
        """Return the key of one node's device."""
        return cls(f"{node_id}/{device_id}")

    @property
    def node_id(self) -> NodeId:
        """The node before the slash."""
        return NodeId(self.partition("/")[0])

    @property
    def device_id(self) -> DeviceId:
        """The device after the slash."""
        return DeviceId(self.partition("/")[2])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: "GetCoreSchemaHandler") -> CoreSchema:
        text = core_schema.str_schema(max_length=401, pattern=r"^[^/]+/[^/]+$", strict=True)
        return core_schema.no_info_after_validator_function(
            cls, text, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        )


def target_name(node_id: str, device_id: str | None) -> str:
    """Return what names a node (``attic``), or one of its devices (``attic/cuda:0``)."""
    return node_id if device_id is None else DeviceKey.of(node_id, device_id)
