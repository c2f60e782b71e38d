"""One stream's projection on one connection: the blocking half of the projector, run in a thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from shardbus_infra.bus.port import StreamInfo
from shardbus_infra.bus.streams import TELEMETRY
from sqlalchemy import Connection, Engine, insert, text

from shardbus_eventstore.checkpoint import Checkpoint, Gap, Tally, move, take_over, try_lock
from shardbus_eventstore.intake import Taken
from shardbus_eventstore.read_model.load import load_working_state, working_part
from shardbus_eventstore.read_model.tables import GapRow
from shardbus_eventstore.read_model.writer import Writer
from shardbus_eventstore.state import FleetState

_PRUNED_AT_ONCE = 20_000


@dataclass(slots=True)
class Projection:
    """Holds the lock of one stream's projection, and writes its rows.

    ``state`` is what the fold needs; the rows are the rest. After any failure it is closed and another one made, which
    reads from Postgres how far this one came: whether a commit whose answer was lost took place, only Postgres knows.
    """

    stream: str
    connection: Connection
    writer: Writer
    checkpoint: Checkpoint
    state: FleetState

    @classmethod
    def open(cls, engine: Engine, info: StreamInfo) -> Self | None:
        """Return the projection of stream ``info``, or ``None`` while another projector holds it."""
        connection = engine.connect()
        try:
            if not try_lock(connection, info.name):
                connection.close()
                return None
            checkpoint = take_over(connection, info)
            state = working_part(load_working_state(connection), info.name)
            connection.commit()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return cls(info.name, connection, Writer(connection), checkpoint, state)

    def close(self) -> None:
        """Give the lock back. Idempotent; never fails."""
        self.connection.invalidate()
        self.connection.close()

    def commit(self, taken: Taken, sequence: int, recorded_at: datetime, gaps: Sequence[Gap] = ()) -> None:
        """Write a batch that ends at ``sequence``: all of its rows and the checkpoint, or nothing.

        Raises ProjectorFencedError, and the driver's errors, after which this projection is to be closed.
        """
        examined = taken.examined
        tally = Tally(
            folded=len(examined.received),
            ignored=taken.state.ignored.get(self.stream, 0),
            rejected=len(examined.rejected),
            skipped=len(examined.skipped),
        )
        with self.connection.begin():
            moved = move(self.connection, self.checkpoint, sequence, recorded_at, tally)
            self.writer.write(self.stream, taken.state, taken.changes)
            self._note(gaps)
        self.checkpoint = moved

    def skip(self, gap: Gap) -> None:
        """Move past messages that the stream dropped before they were projected."""
        with self.connection.begin():
            moved = move(self.connection, self.checkpoint, gap[1], None, Tally())
            self._note([gap])
        self.checkpoint = moved

    def _note(self, gaps: Sequence[Gap]) -> None:
        for first, last in gaps:
            self.connection.execute(
                insert(GapRow).values(
                    projection=self.stream,
                    stream=self.stream,
                    from_sequence=first,
                    to_sequence=last,
                    noticed_at=datetime.now(UTC),
                )
            )

    def prune(self, before: datetime) -> int:
        """Delete past readings from before a moment, a bounded number at once; return how many."""
        if self.stream != TELEMETRY:
            return 0
        with self.connection.begin():
            return self.connection.execute(_PRUNE, {"before": before, "limit": _PRUNED_AT_ONCE}).rowcount


_PRUNE = text(
    "DELETE FROM device_history WHERE ctid = ANY (ARRAY("
    "SELECT ctid FROM device_history WHERE recorded_at < :before LIMIT :limit))"
)
