"""What a snapshot is of, and whether it may be used here and now. Pure."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final

from pydantic import Field
from shardbus_infra.bus.port import Stored, StreamInfo
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.model import FrozenModel, UtcDatetime
from shardbus_schemas.registry import MESSAGE_TYPES, version_of

from shardbus_eventstore.snapshot.codec import VERSION

STREAMS: Final = (TELEMETRY, FLEET)


class StreamMark(FrozenModel):
    """How far into which stream."""

    created: UtcDatetime
    """When the stream was made: one that was made anew is another."""
    sequence: Annotated[int, Field(ge=1)]
    recorded_at: UtcDatetime | None = None
    """Of the message at ``sequence``: a restored stream holds another one there. ``None`` where it was gone."""


class Manifest(FrozenModel):
    """The last message of a snapshot, published once its parts are stored."""

    version: int
    """Of the records' shape."""
    id: str
    taken_at: UtcDatetime
    streams: dict[str, StreamMark]
    """A stream that is not here had no message yet."""
    bytes: Annotated[int, Field(ge=0)]
    sha256: str
    chunks: Annotated[int, Field(ge=1)]
    first_chunk: Annotated[int, Field(ge=1)]
    """Where the first part is in ``SNAPSHOTS``."""
    unread: dict[str, int] = {}
    """Types (``Type.v3``) that the fold did not know, and where each came first: they are missing in the state."""

    def position(self, stream: str) -> int:
        """Return how far ``stream`` was folded."""
        mark = self.streams.get(stream)
        return 0 if mark is None else mark.sequence

    def recorded_at(self, stream: str) -> datetime | None:
        """Return when the last message that was folded of ``stream`` was recorded."""
        mark = self.streams.get(stream)
        return None if mark is None else mark.recorded_at

    def __str__(self) -> str:
        return f"{self.id} (TELEMETRY {self.position(TELEMETRY)}, FLEET {self.position(FLEET)})"


def checksum(saved: bytes) -> str:
    """Return what tells whether a snapshot's bytes are whole."""
    return hashlib.sha256(saved).hexdigest()


def unreadable(manifest: Manifest) -> str | None:
    """Return why this program cannot use the snapshot at all, or ``None``."""
    if manifest.version != VERSION:
        return f"it is of version {manifest.version}; this program reads version {VERSION}"
    known_now = sorted(name for name in manifest.unread if _is_known(name))
    if known_now:
        return f"it was made by a program that could not read {', '.join(known_now)}; this one can"
    return None


def unfit(manifest: Manifest, info: StreamInfo, *, bridging: bool = True) -> str | None:
    """Return why the snapshot is not of the stream that ``info`` describes, or ``None``.

    ``bridging``: what follows the snapshot must be there, too. ``another`` says the rest.
    """
    mark = manifest.streams.get(info.name)
    gone = min(info.first_sequence - 1, info.last_sequence)
    if mark is not None:
        if mark.created != info.created:
            return f"{info.name} was made {info.created.isoformat()}; it is of the one made {mark.created.isoformat()}"
        if mark.sequence > info.last_sequence:
            return f"{info.name} ends at {info.last_sequence}; it is of {mark.sequence}"
    if bridging and gone > manifest.position(info.name):
        return f"{info.name} begins at {gone + 1}; it is of {manifest.position(info.name)}"
    return None


def another(manifest: Manifest, stream: str, held: Stored | None) -> str | None:
    """Return why ``held``, which ``stream`` has at the snapshot's position, is not what was folded, or ``None``."""
    recorded_at = manifest.recorded_at(stream)
    if held is None or recorded_at is None or held.recorded_at == recorded_at:
        return None
    return (
        f"message {held.sequence} of {stream} was recorded {held.recorded_at.isoformat()}; "
        f"it is of one recorded {recorded_at.isoformat()}"
    )


def is_due(
    taken: Mapping[str, int], positions: Mapping[str, int], seconds: float, *, every_seconds: float, events: int
) -> bool:
    """Return whether to take a snapshot at ``positions``, ``seconds`` after the one at ``taken``.

    A rebuild may bring ``events`` in a second; a snapshot a minute is enough for whoever starts then.
    """
    new = sum(abs(positions.get(stream, 0) - taken.get(stream, 0)) for stream in STREAMS)
    if not new:
        return False
    return seconds >= every_seconds or (new >= events and seconds >= min(_LEAST_SECONDS, every_seconds))


_LEAST_SECONDS: Final = 60.0


def _is_known(name: str) -> bool:
    type_name, _, version = name.rpartition(".v")
    model = MESSAGE_TYPES.get(type_name)
    return model is not None and version.isdigit() and int(version) <= version_of(model)
