"""How far a projection is, of which stream, and who may move it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from shardbus_infra.bus.port import Stored, StreamInfo
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from sqlalchemy import Connection, Update, case, update
from sqlalchemy.dialects.postgresql import insert

from shardbus_eventstore.errors import HistoryDivergedError, HistoryLostError
from shardbus_eventstore.poison import CAREFUL_START
from shardbus_eventstore.read_model.database import LIVE
from shardbus_eventstore.read_model.tables import VERSION, CheckpointRow

TABLES_OF: Final = {
    TELEMETRY: ("device_states", "device_history", "node_heard", "links"),
    FLEET: ("nodes", "devices", "models", "instances", "shards", "cordons", "deployments", "decisions", "refusals"),
    DEAD: ("dead_letters", "retried_letters"),
}
"""Which tables a stream's projection alone writes."""


Gap = tuple[int, int]
"""The first and the last sequence missing."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A projection's position, as this projector holds it."""

    stream: str
    stream_created: datetime
    sequence: int
    sequence_recorded_at: datetime | None
    epoch: int
    attempts: int = 0
    """Starts since the last progress, this one included; 0 after a start that is known to have ended in order."""
    attempted_sequence: int | None = None
    """The message that was alone in hand when the projector before died."""
    unread: Mapping[str, int] = field(default_factory=dict[str, int])
    """Kinds of messages that could not be read, with the sequence of the first of each."""
    skipped: int = 0
    """How many messages were not read, as of the start."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the messages between two checkpoints."""

    folded: int = 0
    ignored: int = 0
    rejected: int = 0
    skipped: int = 0


def lock_name(projection: str) -> str:
    """Return what the lock of a projection is called, but for the schema."""
    return f"shardbus/projector/{projection}/{VERSION}/"


def begin(connection: Connection, info: StreamInfo, projection: str) -> None:
    """Make the projection's checkpoint at 0 if there is none."""
    connection.execute(
        insert(CheckpointRow)
        .values(
            projection=projection,
            version=VERSION,
            stream=info.name,
            stream_created=info.created,
            sequence=0,
            epoch=0,
            folded=0,
            ignored=0,
            rejected=0,
            skipped=0,
            attempts=0,
            unread={},
            updated_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing()
    )


def take_over(
    connection: Connection, info: StreamInfo, projection: str, held: int | None = None, survived: int | None = None
) -> Checkpoint:
    """Return the projection's checkpoint, made at 0 if there is none. Whoever held it before can move it no more.

    ``held`` is the epoch that this process held last: if nobody held it since, nobody died of what comes next.
    ``survived`` is the message that this process had in hand alone, and lives: it kills nobody.
    """
    begin(connection, info, projection)
    lives = CheckpointRow.attempted_sequence == (survived or 0)
    row = connection.execute(
        update(CheckpointRow)
        .where(CheckpointRow.projection == projection, CheckpointRow.version == VERSION)
        .values(
            epoch=CheckpointRow.epoch + 1,
            attempts=case(
                (lives, 1),
                (CheckpointRow.epoch == held, CheckpointRow.attempts),
                else_=CheckpointRow.attempts + 1,
            ),
            attempted_sequence=case((lives, None), else_=CheckpointRow.attempted_sequence),
        )
        .returning(
            CheckpointRow.stream_created,
            CheckpointRow.sequence,
            CheckpointRow.sequence_recorded_at,
            CheckpointRow.epoch,
            CheckpointRow.attempts,
            CheckpointRow.attempted_sequence,
            CheckpointRow.unread,
            CheckpointRow.skipped,
        )
    ).one()
    return Checkpoint(info.name, *row)


def note_attempt(connection: Connection, projection: str, checkpoint: Checkpoint, sequence: int) -> None:
    """Note that ``sequence`` is about to be folded, by itself: if the process dies now, it died of that."""
    again = CheckpointRow.attempted_sequence == sequence
    connection.execute(
        _mine(projection, checkpoint).values(
            attempts=case((again, CheckpointRow.attempts), else_=CAREFUL_START), attempted_sequence=sequence
        )
    )


def note_end(connection: Connection, projection: str, checkpoint: Checkpoint) -> None:
    """Note that this projector ends in order: the next start need not be careful."""
    connection.execute(_mine(projection, checkpoint).values(attempts=0, attempted_sequence=None))


def _mine(projection: str, checkpoint: Checkpoint) -> Update:
    return update(CheckpointRow).where(
        CheckpointRow.projection == projection,
        CheckpointRow.version == VERSION,
        CheckpointRow.epoch == checkpoint.epoch,
    )


def shortening(checkpoint: Checkpoint, info: StreamInfo, held: Stored | None) -> str | None:
    """Return how ``info``, the checkpoint's own stream, lost its newest part; ``None`` if it did not, or is another.

    ``held`` is what the stream holds at the checkpoint's sequence, ``None`` if nothing any more.
    """
    if info.created != checkpoint.stream_created:
        return None
    if info.last_sequence < checkpoint.sequence:
        return f"it ends at {info.last_sequence} already"
    if held and checkpoint.sequence_recorded_at and held.recorded_at != checkpoint.sequence_recorded_at:
        return (
            f"its message {held.sequence} was recorded {held.recorded_at.isoformat()}, "
            f"not {checkpoint.sequence_recorded_at.isoformat()}"
        )
    return None


def verify(checkpoint: Checkpoint, info: StreamInfo, held: Stored | None) -> None:
    """Raise HistoryDivergedError unless ``info`` is the stream that the checkpoint is a position of.

    ``held`` is as for ``shortening``. A stream that was deleted and made anew, restored from a backup, or that lost its
    tail counts from 1 or from there again: following it would skip what it has, and mix two histories.
    """
    other = info.created != checkpoint.stream_created
    problem = f"it was made {info.created.isoformat()}" if other else shortening(checkpoint, info, held)
    if problem is None:
        return
    tables = ", ".join(f"{LIVE}.{table}" for table in TABLES_OF[checkpoint.stream])
    remedy = f"TRUNCATE {tables}; DELETE FROM {LIVE}.checkpoints WHERE stream = '{info.name}'"  # noqa: S608 -- for a person
    raise HistoryDivergedError(
        f"stream {info.name} on this bus is not the one that the read model was folded from: the read model is at "
        f"{checkpoint.sequence} of the stream made {checkpoint.stream_created.isoformat()}, but of this one, "
        f"{problem}. Connect to the bus it came from, or give the projector an empty database, or have it fold this "
        f"stream from its beginning by: BEGIN; {remedy}; COMMIT;"
    )


def gap_before(info: StreamInfo, sequence: int) -> Sequence[Gap]:
    """Return what the stream dropped right after ``sequence``, before it was projected."""
    last = min(info.first_sequence - 1, info.last_sequence)
    return [(sequence + 1, last)] if last > sequence else []


def gaps_in(batch: Sequence[Stored], sequence: int) -> Sequence[Gap]:
    """Return the gaps in ``batch`` and between it and ``sequence``, the last one projected."""
    if batch[-1].sequence - sequence == len(batch):
        return []
    before = [sequence, *(stored.sequence for stored in batch)]
    return [(low + 1, high - 1) for low, high in pairwise(before) if high > low + 1]


def refuse_gaps(stream: str, gaps: Sequence[Gap]) -> None:
    """Raise HistoryLostError if the projection of ``stream`` cannot be right without what is missing.

    Readings are advisory and come again, and dead letters are only kept for a while. The fleet's history is the truth.
    """
    if not gaps or stream != FLEET:
        return
    first, last = gaps[0]
    moved = f"sequence = {last}, sequence_recorded_at = NULL"
    accept = f"UPDATE {LIVE}.checkpoints SET {moved} WHERE projection = '{stream}'"  # noqa: S608 -- for a person
    raise HistoryLostError(
        f"stream {stream} has lost its messages {first} to {last} before they were projected, and the read model "
        f"cannot be right without them. Restore the stream from a backup, or accept the loss by: {accept};"
    )
