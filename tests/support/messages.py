"""Reading bytes as the bus would hand them over, without a bus."""

from collections.abc import Mapping
from datetime import UTC, datetime

from shardbus_schemas import subjects
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received, decode

RECORDED_AT = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


def received(
    payload: bytes,
    *,
    subject: str = subjects.command("place"),
    headers: Mapping[str, str] | None = None,
    sequence: int = 17,
) -> Received[FrozenModel]:
    """Return the message in ``payload``, as read from the stream S."""
    return decode(subject, headers or {}, payload, stream="S", sequence=sequence, recorded_at=RECORDED_AT)
