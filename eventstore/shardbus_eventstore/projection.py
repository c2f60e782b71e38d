"""One stream's projection on one connection: the blocking half of the projector, run in a thread."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Self

from shardbus_infra.bus.port import StreamInfo
from sqlalchemy import Connection, Engine, text

from shardbus_eventstore.checkpoint import Checkpoint, Gap, Tally, lock_name, note_attempt, note_end, take_over
from shardbus_eventstore.errors import ProjectorFencedError
from shardbus_eventstore.intake import Taken
from shardbus_eventstore.partitions import Days
from shardbus_eventstore.parts import Part
from shardbus_eventstore.read_model.database import driver_of, try_lock
from shardbus_eventstore.read_model.load import load_working_state, working_part
from shardbus_eventstore.read_model.tables import DEVICE_HISTORY, VERSION
from shardbus_eventstore.read_model.writer import TableRows, changed_rows, write
from shardbus_eventstore.sharing import share
from shardbus_eventstore.state import FleetState
from shardbus_eventstore.tick_fold import Readings
from shardbus_eventstore.unread import firsts


@dataclass(slots=True)
class Projection:
    """Holds the lock of one stream's projection, and writes its rows.

    ``state`` is what the fold needs; the rows are the rest. After any failure it is closed and another one made, which
    reads from Postgres how far this one came: whether a commit whose answer was lost took place, only Postgres knows.
    """

    stream: str
    connection: Connection
    """Each statement on it is a transaction."""
    checkpoint: Checkpoint
    state: FleetState
    part: Part
    """Which of the stream's projections it is."""
    days: Days = field(default_factory=Days)
    """The days of past readings that there is a partition for."""

    @classmethod
    def open(
        cls,
        engine: Engine,
        info: StreamInfo,
        *,
        part: Part | None = None,
        held: int | None = None,
        survived: int | None = None,
    ) -> Self | None:
        """Return the projection of stream ``info``, or of a part of it; ``None`` while another projector holds it.

        ``held`` is the epoch that this process held last, ``survived`` the message that it had in hand alone.
        """
        part = part or Part(info.name)
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            if not try_lock(connection, lock_name(part.name)):
                connection.close()
                return None
            share(connection, info, part.of)
            checkpoint = take_over(connection, info, part.name, held, survived)
            state = working_part(load_working_state(connection), info.name)
            own = {node: heard for node, heard in state.node_heard.items() if part.has_node(node)}
            state = replace(state, node_heard=own)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return cls(info.name, connection, checkpoint, state, part)

    def close(self) -> None:
        """Give the lock back. Idempotent; never fails."""
        if not self.connection.closed:
            self.connection.invalidate()
            self.connection.close()

    def commit(self, taken: Taken, sequence: int, recorded_at: datetime, gaps: Sequence[Gap] = ()) -> None:
        """Write a batch that ends at ``sequence``: all of its rows and the checkpoint, or nothing.

        Raises ProjectorFencedError, and the driver's errors, after which this projection is to be closed.
        """
        examined, readings = taken.examined, taken.changes.readings
        if readings:
            recorded_at_each = Readings.of(readings).recorded_at
            self.days.make(driver_of(self.connection), DEVICE_HISTORY.name, recorded_at_each[0], recorded_at_each[-1])
        tally = Tally(
            folded=len(examined.received) + examined.ticks,
            ignored=taken.state.ignored.get(self.stream, 0),
            rejected=len(examined.rejected),
            skipped=len(examined.skipped),
        )
        unread = {
            kind: first.stored.sequence for kind, first in firsts(self.checkpoint.unread, examined.skipped).items()
        }
        self._write(sequence, recorded_at, tally, changed_rows(self.stream, taken.state, taken.changes), gaps, unread)

    def note_attempt(self, sequence: int) -> None:
        """Tell the checkpoint that ``sequence`` is folded next, by itself."""
        note_attempt(self.connection, self.part.name, self.checkpoint, sequence)

    def note_end(self) -> None:
        """Tell the checkpoint that this projector ends in order."""
        note_end(self.connection, self.part.name, self.checkpoint)

    def skip(self, gap: Gap) -> None:
        """Move past messages that the stream dropped before they were projected."""
        self._write(gap[1], None, Tally(), {}, [gap])

    def _write(
        self,
        sequence: int,
        recorded_at: datetime | None,
        tally: Tally,
        new: TableRows,
        gaps: Sequence[Gap],
        unread: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        now, before = datetime.now(UTC), self.checkpoint
        position = {
            "sequence": sequence,
            "recorded_at": recorded_at,
            **asdict(tally),
            "unread": json.dumps(dict(unread)),
            "now": now,
            "projection": self.part.name,
            "version": VERSION,
            "epoch": before.epoch,
            "previous": before.sequence,
        }
        missing = [
            {
                "projection": self.part.name,
                "stream": self.stream,
                "from_sequence": first,
                "to_sequence": last,
                "noticed_at": now,
            }
            for first, last in gaps
        ]
        if not write(driver_of(self.connection), position, {**new, "gaps": missing}):
            raise ProjectorFencedError(
                f"another projector took over {self.part.name} after {before.sequence}; this one wrote nothing since"
            )
        noted = {**before.unread, **unread} if unread else before.unread
        self.checkpoint = replace(before, sequence=sequence, sequence_recorded_at=recorded_at, unread=noted)

    def start_over(self, info: StreamInfo) -> None:
        """Forget what was made of a stream that lost its newest messages, as far as it is not what it holds still.

        Past readings from before its first message stay: nothing else remembers them. The loss is noted as
        a gap, as far as it can be told: some of its sequences may have been given again. Minutes and hours made of
        what is forgotten are made anew.
        """
        first, before = max(1, info.first_sequence), self.checkpoint
        moved = self.connection.scalar(
            _START_OVER,
            {
                "first": first,
                "now": datetime.now(UTC),
                "stream": self.stream,
                "projection": self.part.name,
                "nodes": self._nodes(),
                "version": VERSION,
                "epoch": before.epoch,
                "lost_from": min(info.last_sequence + 1, before.sequence),
                "lost_to": before.sequence,
            },
        )
        if moved != 1:
            raise ProjectorFencedError(f"another projector took over {self.part.name} after {before.sequence}")
        self.checkpoint = replace(before, sequence=first - 1, sequence_recorded_at=None, unread={})
        self.state = FleetState()

    def _nodes(self) -> list[str] | None:
        """Return the nodes whose rows are this part's; ``None`` is all."""
        if self.part.of == 1:
            return None
        known = self.connection.scalars(text("SELECT node_id FROM node_heard UNION SELECT from_node FROM links"))
        return [node for node in known if self.part.has_node(node)]


def _of_these(column: str) -> str:
    return f"(CAST(:nodes AS text[]) IS NULL OR {column} = ANY (CAST(:nodes AS text[])))"


_START_OVER = text(
    f"""
    WITH moved AS (
        UPDATE checkpoints
        SET sequence = :first - 1, sequence_recorded_at = NULL, folded = 0, ignored = 0, rejected = 0, skipped = 0,
            unread = '{{}}', attempts = 0, attempted_sequence = NULL, updated_at = :now
        WHERE projection = :projection AND version = :version AND epoch = :epoch
        RETURNING projection
    ), noted AS (
        INSERT INTO gaps (projection, stream, from_sequence, to_sequence, noticed_at)
        SELECT projection, :stream, :lost_from, :lost_to, :now FROM moved
    ), rolled_back AS (
        UPDATE history_progress
        SET sequence = LEAST(sequence, :first - 1),
            complete_until = LEAST(
                complete_until, (SELECT min(recorded_at) FROM device_history WHERE sequence >= :first)
            )
        WHERE EXISTS (SELECT FROM moved)
    ), forgotten_states AS (DELETE FROM device_states WHERE EXISTS (SELECT FROM moved) AND {_of_these("node_id")}
    ), forgotten_nodes AS (DELETE FROM node_heard WHERE EXISTS (SELECT FROM moved) AND {_of_these("node_id")}
    ), forgotten_links AS (DELETE FROM links WHERE EXISTS (SELECT FROM moved) AND {_of_these("from_node")}
    ), forgotten_history AS (
        DELETE FROM device_history WHERE sequence >= :first AND EXISTS (SELECT FROM moved) AND {_of_these("node_id")}
    )
    SELECT count(*) FROM moved
    """  # noqa: S608 -- columns of our own
)
"""One statement, so that all of it happens or nothing."""
