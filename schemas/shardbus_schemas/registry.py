"""Every message type by its permanent name, and the one way to read and write messages."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, cast, get_args

from pydantic import ValidationError

from shardbus_schemas import commands, events, subjects
from shardbus_schemas.envelope import ID, Envelope, EnvelopeError, from_headers
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.problems import explain, suggest
from shardbus_schemas.upcasters import UPCASTERS

MessageT_co = TypeVar("MessageT_co", bound=FrozenModel, covariant=True)

COMMAND_TYPES: Final = cast("tuple[type[commands.Command], ...]", get_args(commands.Command))
EVENT_TYPES: Final = cast("tuple[type[events.Event], ...]", get_args(events.Event))
MESSAGE_TYPES: Final[Mapping[str, type[FrozenModel]]] = {
    message.TYPE: message for message in (*EVENT_TYPES, *COMMAND_TYPES, events.DeadLettered, events.DeadLetterRetried)
}

_COMMAND_BY_VERB: Final[Mapping[str, str]] = {
    "place": commands.Place.TYPE,
    "delete": commands.Delete.TYPE,
    "model": commands.RegisterModel.TYPE,
    "cordon": commands.Cordon.TYPE,
    "drain": commands.Drain.TYPE,
    "uncordon": commands.Uncordon.TYPE,
    "move": commands.Move.TYPE,
    "replan": commands.Replan.TYPE,
    "rebalance": commands.Rebalance.TYPE,
    "scale": commands.Scale.TYPE,
}


class UnreadableMessageError(ValueError):
    """The bytes are not what they claim to be. ``code`` is stable; the text is for a person."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code: str = code


class UnknownMessageError(UnreadableMessageError):
    """A type or version that this program does not know: a newer producer's, or a foreign one."""


class _Versioned(Protocol):
    TYPE: ClassVar[str]
    VERSION: ClassVar[int]


@dataclass(frozen=True, slots=True)
class Received(Generic[MessageT_co]):
    """A message with its envelope and its place in its stream."""

    message: MessageT_co
    envelope: Envelope
    stream: str
    sequence: int
    recorded_at: datetime
    unknown_fields: tuple[str, ...] = ()
    """Top-level fields that this program does not know and left out."""


def type_of(message: FrozenModel | type[FrozenModel]) -> str:
    """Return the permanent name of ``message``'s type."""
    return cast("_Versioned", cast("object", message)).TYPE


def version_of(message: FrozenModel | type[FrozenModel]) -> int:
    """Return the version that this program writes."""
    return cast("_Versioned", cast("object", message)).VERSION


def encode(message: FrozenModel) -> bytes:
    """Return the payload: compact UTF-8 JSON of what is set, without what is at its default."""
    return message.__pydantic_serializer__.to_json(message, by_alias=True, exclude_defaults=True)


def subject_of(message: FrozenModel) -> str:
    """Return where ``message`` is published."""
    match message:
        case events.DeviceGPUStateUpdated():
            return subjects.telemetry(message.node_id)
        case events.GPUBandwidthMeasured():
            return subjects.link(message.from_node, message.to_node)
        case (
            events.NodeJoined()
            | events.NodeLeft()
            | events.DeviceRegistered()
            | events.DeviceLost()
            | events.DeviceFaulted()
        ):
            return subjects.event("node", message.node_id)
        case events.ModelRegistered():
            return subjects.event("model", message.profile.model_id)
        case (
            events.InstancePlaced()
            | events.InstanceReplaced()
            | events.InstancePending()
            | events.InstanceDeleted()
            | events.InstanceLost()
        ):
            return subjects.event("instance", message.instance_id)
        case events.Cordoned() | events.Uncordoned():
            return subjects.event("cordon", message.node_id)
        case events.DeploymentScaled():
            return subjects.event("deployment", message.deployment_id)
        case events.ShardReported():
            return subjects.event("shard", message.instance_id)
        case events.PlacementRejected():
            return subjects.event("refusal", message.command_id)
        case events.CommandRejected() | events.PlacementPreviewed() | events.FleetRebalanced():
            return subjects.event("command", message.command_id)
        case events.DeadLettered() | events.DeadLetterRetried():
            return subjects.dead(message.stream)
        case commands.Place():
            return subjects.command("place")
        case commands.Delete():
            return subjects.command("delete")
        case commands.RegisterModel():
            return subjects.command("model")
        case commands.Drain():
            return subjects.command("drain")
        case commands.Cordon():
            return subjects.command("cordon")
        case commands.Uncordon():
            return subjects.command("uncordon")
        case commands.Replan():
            return subjects.command("replan")
        case commands.Move():
            return subjects.command("move")
        case commands.Rebalance():
            return subjects.command("rebalance")
        case commands.Scale():
            return subjects.command("scale")
        case _:
            raise TypeError(f"{type(message).__name__} is not published")


def decode(
    subject: str, headers: Mapping[str, str], payload: bytes, *, stream: str, sequence: int, recorded_at: datetime
) -> Received[FrozenModel]:
    """Return the message in ``payload``, brought up to the current version.

    Raises UnknownMessageError for a type or version this program does not know (an event of that kind is
    skipped, a command refused) and UnreadableMessageError for anything else that is wrong with it.
    """
    try:
        envelope = from_headers(
            headers,
            default_type=_type_for(subject),
            # The second keeps it unique when a stream is deleted and made anew, and counts from 1 again.
            position="" if headers.get(ID) else f"{stream}:{sequence}@{int(recorded_at.timestamp())}",
            recorded_at=recorded_at,
        )
    except EnvelopeError as error:
        raise UnreadableMessageError("bad_envelope", str(error)) from error
    model = MESSAGE_TYPES.get(envelope.type)
    if model is None:
        reason = f"unknown message type {envelope.type!r}{suggest(envelope.type, list(MESSAGE_TYPES))}"
        raise UnknownMessageError("unknown_type", reason)
    message, unknown = _validate(model, envelope.version, payload)
    return Received(message, envelope, stream, sequence, recorded_at, unknown)


@lru_cache(maxsize=16_384)
def _type_for(subject: str) -> str:
    """Return the type of a message without headers on ``subject``; an event must say its own."""
    try:
        parsed = subjects.parse(subject)
    except subjects.SubjectError as error:
        raise UnknownMessageError("unknown_subject", str(error)) from error
    match parsed:
        case subjects.CommandSubject(verb):
            return _COMMAND_BY_VERB[verb]
        case subjects.TelemetrySubject():
            return events.DeviceGPUStateUpdated.TYPE
        case subjects.LinkSubject():
            return events.GPUBandwidthMeasured.TYPE
        case subjects.EventSubject() | subjects.DeadSubject():
            return ""


def _validate(model: type[FrozenModel], version: int, payload: bytes) -> tuple[FrozenModel, tuple[str, ...]]:
    current = version_of(model)
    if version > current:
        reason = f"version {version} of {model.__name__} is from the future; this program knows up to {current}"
        raise UnknownMessageError("future_version", reason)
    if version == current:
        try:
            # The usual case, in one pass over the bytes.
            return model.model_validate_json(payload), ()
        except ValidationError:
            pass  # said below, after the slower look that survives a newer producer's fields
    return _validate_carefully(model, version, payload)


def _validate_carefully(model: type[FrozenModel], version: int, payload: bytes) -> tuple[FrozenModel, tuple[str, ...]]:
    data = _parse_object(payload)
    type_name = cast("_Versioned", cast("object", model)).TYPE
    try:
        for step in range(version, version_of(model)):
            upcast = UPCASTERS.get((type_name, step))
            if upcast is None:
                reason = f"version {step} of {type_name} is not readable any more"
                raise UnreadableMessageError("past_version", reason)
            data = upcast(data)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"version {version} of {type_name} lacks {error}"
        raise UnreadableMessageError("invalid", reason) from error
    try:
        message = model.model_validate_json(json.dumps(data), extra="ignore")
    except ValidationError as error:
        raise UnreadableMessageError("invalid", explain(error, model)) from error
    known = {field.alias or name for name, field in model.model_fields.items()} | set(model.model_fields)
    return message, tuple(f"{name}{suggest(name, sorted(known))}" for name in data if name not in known)


def _parse_object(payload: bytes) -> dict[str, Any]:
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte {error.start} is 0x{payload[error.start]:02x}"
        raise UnreadableMessageError("not_utf8", reason) from error
    try:
        data: object = json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise UnreadableMessageError("not_json", reason) from error
    except RecursionError as error:
        raise UnreadableMessageError("not_json", "not JSON that can be read: nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python turns into an integer
        raise UnreadableMessageError("not_json", "not JSON that can be read: a number is too long") from error
    if not isinstance(data, dict):
        reason = f"not a JSON object but {type(data).__name__}"
        raise UnreadableMessageError("not_object", reason)
    return cast("dict[str, Any]", data)
