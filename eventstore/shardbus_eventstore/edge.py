"""What is refused at the edge although it can be read: pure rules over one message and its place in its stream."""

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, cast, get_args

from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas.events import (
    DeadLettered,
    DeadLetterRetried,
    DeviceGPUStateUpdated,
    FleetEvent,
    GPUBandwidthMeasured,
    TelemetryEvent,
)
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received, subject_of
from shardbus_schemas.subjects import telemetry

FUTURE_TOLERANCE: Final = timedelta(seconds=60)
"""How far a node's clock may run ahead of the bus. Not a setting: two processes that judged by different ones would
fold the same stream into different states."""

LARGEST_INTEGER: Final = 2**63 - 1
"""What Postgres and JetStream count up to."""

_READINGS: Final = (DeviceGPUStateUpdated, GPUBandwidthMeasured)
_MANY_DIGITS: Final = re.compile(rb"[0-9]{19}")
_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a message is refused: a stable code, and a sentence for a person."""

    code: str
    reason: str


_STREAM_OF: Final[dict[type, str]] = {
    **dict.fromkeys(get_args(TelemetryEvent), TELEMETRY),
    **dict.fromkeys(get_args(FleetEvent), FLEET),
    DeadLettered: DEAD,
    DeadLetterRetried: DEAD,
}


def objection_to(stored: Stored, received: Received[FrozenModel]) -> Objection | None:
    """Return what is wrong with a readable message, or ``None``."""
    message = received.message
    if _STREAM_OF.get(type(message)) != stored.stream:
        reason = f"a message of type {received.envelope.type} does not belong in stream {stored.stream}"
        return Objection("wrong_stream", reason)
    if isinstance(message, _READINGS):
        return (
            _time_in_future(message, received)
            or _wrong_subject(stored, message)
            or _unstorable_reading(stored, message)
        )
    return _wrong_subject(stored, message) or _unstorable(stored, received)


def _time_in_future(event: TelemetryEvent, received: Received[FrozenModel]) -> Objection | None:
    latest = received.recorded_at + FUTURE_TOLERANCE
    match event:
        case DeviceGPUStateUpdated():
            for reading in event.states:
                if reading.last_update > latest:
                    return _ahead(f"last_update of {reading.key}", reading.last_update, received.recorded_at)
        case GPUBandwidthMeasured():
            if event.measured_at > latest:
                return _ahead("measured_at", event.measured_at, received.recorded_at)
    if received.envelope.occurred_at > latest:
        return _ahead("the message's time", received.envelope.occurred_at, received.recorded_at)
    return None


def _ahead(what: str, moment: datetime, recorded_at: datetime) -> Objection:
    seconds = (moment - recorded_at).total_seconds()
    allowed = FUTURE_TOLERANCE.total_seconds()
    reason = (
        f"{what} is {moment.isoformat()}, {seconds:.0f} s after the bus recorded it ({allowed:.0f} s are tolerated); "
        "set the node's clock"
    )
    return Objection("time_in_future", reason)


def _wrong_subject(stored: Stored, message: FrozenModel) -> Objection | None:
    """Subjects carry the permissions: who may write one node's subject must not speak for another node."""
    readings = isinstance(message, DeviceGPUStateUpdated)
    expected = _telemetry_subject(message.node_id) if readings else subject_of(message)
    if stored.subject == expected:
        return None
    return Objection("wrong_subject", f"published on {stored.subject}, but its content belongs on {expected}")


_telemetry_subject = lru_cache(maxsize=16_384)(telemetry)


def _unstorable_reading(stored: Stored, event: TelemetryEvent) -> Objection | None:
    """Judge readings apart from the rest: there are many, and only their tick has no bound of its own."""
    if b"\\u0000" in stored.payload and _ESCAPED_NUL.search(stored.payload):
        return _NUL_IN_TEXT
    if isinstance(event, DeviceGPUStateUpdated) and (event.tick or 0) > LARGEST_INTEGER:
        return _TOO_LARGE
    return None


def _unstorable(stored: Stored, received: Received[FrozenModel]) -> Objection | None:
    """Postgres holds neither the character NUL nor integers of more than 64 bits."""
    if _ESCAPED_NUL.search(stored.payload):
        return _NUL_IN_TEXT
    if _MANY_DIGITS.search(stored.payload) and _largest_integer_in(stored.payload) > LARGEST_INTEGER:
        return _TOO_LARGE
    envelope = received.envelope
    if stored.stream == FLEET and "\x00" in f"{envelope.event_id}{envelope.correlation_id}":
        return Objection("unstorable", "a header holds the character NUL, which no column can hold")
    return None


_NUL_IN_TEXT: Final = Objection("unstorable", "a text holds the character NUL (\\u0000), which no column can hold")
_TOO_LARGE: Final = Objection("unstorable", f"a whole number is more than {LARGEST_INTEGER}, which no column can hold")


def _largest_integer_in(payload: bytes) -> int:
    largest = 0
    rest: list[object] = [json.loads(payload)]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest += cast("dict[str, object]", value).values()
        elif isinstance(value, list):
            rest += cast("list[object]", value)
        elif isinstance(value, int):
            largest = max(largest, value)
    return largest
