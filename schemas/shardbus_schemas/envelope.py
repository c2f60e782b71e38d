"""What surrounds a message: CloudEvents 1.0 in binary mode, so the attributes travel as NATS headers.

The payload is the data alone. ``recorded_at`` and the sequence belong to the stream and are never sent. A
message without any headers is valid: its subject says what it is, and its place in the stream stands in for
its id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from shardbus_schemas.ids import EventId
from shardbus_schemas.subjects import SubjectError, reply_subject

SPEC_VERSION = "ce-specversion"
ID = "ce-id"
TYPE = "ce-type"
TYPE_VERSION = "ce-typeversion"
SOURCE = "ce-source"
TIME = "ce-time"
CONTENT_TYPE = "content-type"
CORRELATION_ID = "ce-correlationid"
CAUSATION_ID = "ce-causationid"
REPLY_TO = "ce-replyto"
TRACE_PARENT = "traceparent"
TRACE_STATE = "tracestate"

_LONGEST_ATTRIBUTE = 300
_LONGEST_VERSION = 9


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who said it, when, and what led to it. A plain dataclass: one is made for every message read."""

    event_id: EventId
    type: str
    """The permanent name of the message's type."""
    version: int
    occurred_at: datetime
    """Aware, UTC."""
    source: str
    """``agent/<node>``, ``placer/<name>``, ``console``; ``unknown`` for a bare message."""
    correlation_id: EventId | None = None
    """The command that started the story."""
    causation_id: EventId | None = None
    """The message that led directly to this one."""
    reply_to: str | None = None
    """The subject on which whoever sent a command waits for its answer; the stream has it as well."""


class EnvelopeError(ValueError):
    """A header has a value that cannot be read."""


def to_headers(envelope: Envelope) -> dict[str, str]:
    """Return the NATS headers of ``envelope``."""
    headers = {
        SPEC_VERSION: "1.0",
        ID: envelope.event_id,
        TYPE: envelope.type,
        TYPE_VERSION: str(envelope.version),
        SOURCE: envelope.source,
        TIME: envelope.occurred_at.isoformat(),
        CONTENT_TYPE: "application/json",
    }
    if envelope.correlation_id is not None:
        headers[CORRELATION_ID] = envelope.correlation_id
    if envelope.causation_id is not None:
        headers[CAUSATION_ID] = envelope.causation_id
    if envelope.reply_to is not None:
        headers[REPLY_TO] = envelope.reply_to
    return headers


def from_headers(headers: Mapping[str, str], *, default_type: str, position: str, recorded_at: datetime) -> Envelope:
    """Return the envelope in ``headers``; what is absent is taken from the message's place on the bus.

    ``position`` (such as ``COMMANDS:17@1795000000``) stands in for a missing id. A missing version is 1, for ever: what
    was written without headers when version 1 was current must keep its meaning. Raises EnvelopeError.
    """
    version = headers.get(TYPE_VERSION, "1")
    if not (version.isascii() and version.isdigit() and len(version) <= _LONGEST_VERSION):
        raise EnvelopeError(f"header {TYPE_VERSION} is {version!r}, not a whole number")
    if headers and max(map(len, headers.values())) > _LONGEST_ATTRIBUTE:
        for name in (ID, SOURCE, CORRELATION_ID, CAUSATION_ID):
            if len(headers.get(name, "")) > _LONGEST_ATTRIBUTE:
                raise EnvelopeError(f"header {name} is longer than {_LONGEST_ATTRIBUTE} characters")
    time = headers.get(TIME)
    correlation, causation = headers.get(CORRELATION_ID), headers.get(CAUSATION_ID)
    return Envelope(
        event_id=EventId(headers.get(ID) or position),
        type=headers.get(TYPE) or default_type,
        version=int(version),
        occurred_at=recorded_at if time is None else _moment(time),
        source=headers.get(SOURCE) or "unknown",
        correlation_id=None if correlation is None else EventId(correlation),
        causation_id=None if causation is None else EventId(causation),
        reply_to=reply_to_in(headers),
    )


def reply_to_in(headers: Mapping[str, str]) -> str | None:
    """Return where an answer is waited for, if that is said; raise EnvelopeError if none may be sent there."""
    subject = headers.get(REPLY_TO)
    try:
        return None if subject is None else reply_subject(subject)
    except SubjectError as error:
        raise EnvelopeError(f"header {REPLY_TO}: {error}") from error


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise EnvelopeError(f"header {TIME} is {text!r}, not an RFC 3339 time") from error
    if moment.tzinfo is None:
        raise EnvelopeError(f"header {TIME} is {text!r}, without its offset from UTC")
    try:
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except OverflowError as error:
        raise EnvelopeError(f"header {TIME} is {text!r}, which is no year in UTC") from error
