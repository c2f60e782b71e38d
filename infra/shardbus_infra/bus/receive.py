"""From what a stream holds to what it means."""

from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received, decode

from shardbus_infra.bus.port import Stored


def receive(stored: Stored) -> Received[FrozenModel]:
    """Return the message in ``stored``, with its envelope and its place.

    Raises UnknownMessageError for a type or version that this program does not know, and
    UnreadableMessageError for anything else that is wrong with it.
    """
    return decode(
        stored.subject,
        stored.headers,
        stored.payload,
        stream=stored.stream,
        sequence=stored.sequence,
        recorded_at=stored.recorded_at,
    )
