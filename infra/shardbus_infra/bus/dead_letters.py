"""Where messages go that could not be understood: kept with the reason and their original bytes."""

import base64

from shardbus_schemas.envelope import ID
from shardbus_schemas.events import DeadLettered

from shardbus_infra.bus.port import Appended, AppendRejectedError, Bus, Stored
from shardbus_infra.bus.publish import publish

# Base64 makes 4 of 3: this much fits the server's usual limit of 1 MiB with room for headers and reason. The
# second is for a server with a smaller limit.
_PAYLOAD_LIMITS = (512 * 1024, 1024)
_REASON_CHARACTERS = 8 * 1024
_HEADER_CHARACTERS = 16 * 1024
_ID_CHARACTERS = 300


async def bury(bus: Bus, stored: Stored, *, code: str, reason: str, seen_by: str) -> Appended:
    """Append a ``DeadLettered`` about ``stored`` and return its place; burying again is deduplicated.

    What is too large to keep is cut, and the reason says so. Raises as ``Bus.append``.
    """
    try:
        return await _bury(bus, stored, code=code, reason=reason, seen_by=seen_by, limit=_PAYLOAD_LIMITS[0])
    except AppendRejectedError:
        if len(stored.payload) + sum(map(len, stored.headers.values())) <= _PAYLOAD_LIMITS[1]:
            raise
        return await _bury(bus, stored, code=code, reason=reason, seen_by=seen_by, limit=_PAYLOAD_LIMITS[1])


async def _bury(bus: Bus, stored: Stored, *, code: str, reason: str, seen_by: str, limit: int) -> Appended:
    said = [reason]
    if len(reason) > _REASON_CHARACTERS:
        said = [reason[:_REASON_CHARACTERS] + " …", f"(of {len(reason)} characters the first are kept)"]
    payload = stored.payload[:limit]
    if len(payload) < len(stored.payload):
        said.append(f"(the payload has {len(stored.payload)} bytes; the first {limit} are kept)")
    headers = dict(stored.headers)
    if sum(len(name) + len(value) for name, value in headers.items()) > min(limit, _HEADER_CHARACTERS):
        said.append(f"(its {len(headers)} headers are too long to be kept)")
        headers = {}
    message = DeadLettered(
        stream=stored.stream,
        sequence=stored.sequence,
        subject=stored.subject,
        code=code,
        reason="\n".join(said),
        recorded_at=stored.recorded_at,
        headers=headers,
        payload_base64=base64.b64encode(payload).decode(),
        seen_by=seen_by,
    )
    # The time keeps the id unique when a stream counts from 1 again, having been deleted and made anew, or gives its
    # last sequences again. A server that was killed is back and does the latter within the second.
    identity = f"{stored.stream}:{stored.sequence}@{stored.recorded_at.timestamp():.6f}:{seen_by}"
    return await publish(bus, message, source=seen_by, event_id=identity, causation_id=_cause(stored))


def _cause(stored: Stored) -> str | None:
    """Return the message's own id, if it is one that an envelope may carry."""
    event_id = stored.headers.get(ID)
    return event_id if event_id and len(event_id) <= _ID_CHARACTERS else None
