"""From what is meant to what travels: subject, envelope, trace, and an id where a repeat would do harm."""

from datetime import UTC, datetime

from shardbus_schemas import events
from shardbus_schemas.envelope import Envelope, to_headers
from shardbus_schemas.ids import EventId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import encode, subject_of, type_of, version_of

from shardbus_infra.bus.port import Appended, Bus, ExpectedLast, Outgoing
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_infra.observability import inject


def outgoing(
    message: FrozenModel,
    *,
    source: str,
    event_id: str,
    occurred_at: datetime,
    correlation_id: str | None = None,
    causation_id: str | None = None,
) -> Outgoing:
    """Return ``message`` ready to append; it carries the current span's trace context, if there is one."""
    headers = to_headers(
        Envelope(
            event_id=EventId(event_id),
            type=type_of(message),
            version=version_of(message),
            occurred_at=occurred_at,
            source=source,
            correlation_id=None if correlation_id is None else EventId(correlation_id),
            causation_id=None if causation_id is None else EventId(causation_id),
        )
    )
    inject(headers)
    # The server keeps every id of the window in memory (233 bytes each): too dear at telemetry's rate, and a
    # repeated reading changes nothing.
    repeatable = isinstance(message, events.TelemetryEvent)
    return Outgoing(subject_of(message), encode(message), headers, None if repeatable else event_id)


async def publish(
    bus: Bus,
    message: FrozenModel,
    *,
    source: str,
    event_id: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    occurred_at: datetime | None = None,
    expected: ExpectedLast | None = None,
) -> Appended:
    """Append ``message`` and return its place; raises as ``Bus.append``.

    Give an ``event_id`` that a retry would give again, and the retry is deduplicated.
    """
    ready = outgoing(
        message,
        source=source,
        event_id=event_id or str(uuid7()),
        occurred_at=occurred_at or datetime.now(UTC),
        correlation_id=correlation_id,
        causation_id=causation_id,
    )
    return await bus.append(ready, expected=expected)
