"""The switch: the rebuilt read model takes the live one's place, in one transaction, while both are in use.

Who writes: the live projectors are held up by a lock on their checkpoints. The rebuilt checkpoints have higher epochs,
so whatever a projector had in hand is refused, wherever it arrives; it is fenced, looks again, and goes on in the new
tables. Who reads: a name is looked up anew by every statement and, where it was prepared, by every plan that the switch
made invalid. A reader in the middle of a transaction holds its tables; the switch waits for it, but never so long that
the two could wait for each other.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from shardbus_eventstore.carry_over import SHADOW, carry_over_gaps
from shardbus_eventstore.checkpoint import Checkpoint
from shardbus_eventstore.read_model.database import LIVE, driver_of
from shardbus_eventstore.shadow import REPLACED, checkpoints_in, copy_rights

log = logging.getLogger(__name__)

_LOCKED_MILLISECONDS: Final = 500
"""Less than ``deadlock_timeout`` (1 s): of a reader and the switch that wait for each other, the switch gives way."""
_CATCHING_UP_SECONDS: Final = 2.0
"""How long live projectors are held up at most while the shadow reads the last messages."""
_IDLE_MILLISECONDS: Final = 5000
"""If this process stops in the middle (a debugger, SIGSTOP), Postgres ends the transaction, and with it the locks."""
_LOCK_NOT_AVAILABLE: Final = frozenset({"55P03", "57014", "40P01"})
"""No lock in time; the statement's time is over; a deadlock."""


def switch(connection: Connection, *, wait: bool = True) -> Mapping[str, Checkpoint] | str:
    """Put the shadow in the live one's place; return the new positions, or why it is not possible at the moment.

    All of it happens or nothing; it may be tried again. The old tables are then in ``REPLACED``. Without ``wait`` it
    does not matter how far the live one is.
    """
    try:
        with connection.begin():
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_MILLISECONDS}"))
            connection.execute(text(f"SET LOCAL statement_timeout = {_LOCKED_MILLISECONDS}"))
            # From here on no live projector writes; this is the first table that each of them locks.
            connection.execute(text(f"LOCK TABLE {LIVE}.checkpoints IN SHARE ROW EXCLUSIVE MODE"))
            if wait and (behind := _wait_for_the_shadow(connection)):
                return behind
            # Whoever reads from here on sees the shadow complete. Those who began before and hold a table are waited
            # for: else they would see one table of the old read model, and the next of the new one as it was when
            # they began.
            tables = ", ".join(connection.scalars(_TABLES, {"schema": LIVE}))
            connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            carry_over_gaps(driver_of(connection))
            connection.execute(text(_EPOCHS))
            copy_rights(connection)
            connection.execute(text(f"ALTER SCHEMA {LIVE} RENAME TO {REPLACED}"))
            connection.execute(text(f"ALTER SCHEMA {SHADOW} RENAME TO {LIVE}"))
            connection.execute(text(f"COMMENT ON SCHEMA {LIVE} IS NULL"))
            return checkpoints_in(connection, LIVE)
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) not in _LOCK_NOT_AVAILABLE:
            raise
        return f"{who_holds(connection)} the live tables for longer than {_LOCKED_MILLISECONDS} ms"


def who_holds(connection: Connection) -> str:
    """Return who has the live tables in hand, for a person."""
    try:
        with connection.begin():
            names = [str(name) for name in connection.execute(_HOLDERS, {"schema": LIVE}).scalars()]
    except DBAPIError:
        names = list[str]()
    return f"{', '.join(names)} holds" if names else "somebody holds"


def _wait_for_the_shadow(connection: Connection) -> str | None:
    """Return once the shadow is where the live read model is, or why it is not."""
    live = checkpoints_in(connection, LIVE)
    deadline = time.monotonic() + _CATCHING_UP_SECONDS
    while True:
        rebuilt = checkpoints_in(connection, SHADOW)
        behind = [
            f"{stream} {rebuilt[stream].sequence if stream in rebuilt else 0} of {checkpoint.sequence}"
            for stream, checkpoint in live.items()
            if checkpoint.sequence and (stream not in rebuilt or rebuilt[stream].sequence < checkpoint.sequence)
        ]
        if not behind:
            return None
        if time.monotonic() > deadline:
            return f"the rebuilt read model is behind the live one: {', '.join(behind)}"
        time.sleep(0.005)


_TABLES: Final = text(
    "SELECT pg_class.oid::regclass::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE nspname = :schema AND relkind IN ('r', 'p') AND NOT relispartition "
    "ORDER BY relname <> 'checkpoints', relname"
)
"""A table brings its partitions."""
_EPOCHS: Final = f"""
UPDATE {SHADOW}.checkpoints AS rebuilt
SET epoch = 1 + greatest(rebuilt.epoch, (SELECT coalesce(max(epoch), 0) FROM {LIVE}.checkpoints))
"""  # noqa: S608 -- names of our own
_HOLDERS: Final = text(
    """
    SELECT DISTINCT format('%s (process %s)', coalesce(nullif(application_name, ''), usename, 'somebody'), pid)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    JOIN pg_class ON pg_class.oid = relation JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = :schema AND granted AND pid <> pg_backend_pid() AND now() - xact_start > interval '300 ms'
    LIMIT 3
    """
)
