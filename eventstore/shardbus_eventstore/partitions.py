"""A table's partitions, one for each day (UTC): made before they are needed, dropped whole when their time is over.

A row finds its place always: where no day was made for it, the default partition takes it, and making the day later
moves it. The names of partitions say nothing to this program; it reads their bounds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg import Connection
from psycopg.errors import LockNotAvailable
from psycopg.sql import SQL, Identifier, Literal

DAY: Final = timedelta(days=1)

_LOCK_SECONDS: Final = 1
"""Whoever reads the whole table for long must not hold up those who come after us: better to try again later."""
_BOUNDS: Final = re.compile(r"FROM \((?P<low>[^)]*)\) TO \((?P<high>[^)]*)\)")
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a table: rows from ``low`` until before ``high``."""

    name: str
    low: datetime
    high: datetime


def partitions(connection: "Connection[Any]", table: str) -> Sequence[Partition]:
    """Return the table's partitions without the default one, the oldest first."""
    query = SQL(
        "SELECT relname, pg_get_expr(relpartbound, pg_class.oid) "
        "FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = to_regclass({})"
    )
    found = [
        Partition(name, _moment(bounds["low"]), _moment(bounds["high"]))
        for name, text in connection.execute(query.format(Literal(table))).fetchall()
        if (bounds := _BOUNDS.search(text))
    ]
    return sorted(found, key=lambda each: each.low)


def make_days(connection: "Connection[Any]", table: str, first: datetime, last: datetime) -> None:
    """Make the partitions of all days from that of ``first`` to that of ``last``, as far as there are none.

    A day that somebody's long reading keeps from being made is left out.
    """
    days = _days(first, last)
    there = partitions(connection, table)
    for day in days:
        if not any(each.low <= day < each.high for each in there):
            try:
                _make_day(connection, table, day)
            except LockNotAvailable:
                return


def make_days_of_strays(connection: "Connection[Any]", table: str) -> None:
    """Make the days of the rows in the default partition, which empties it."""
    column = Identifier(_key(connection, table))
    query = SQL("SELECT DISTINCT date_trunc('day', {}, 'UTC') FROM {}").format(column, Identifier(f"{table}_default"))
    for (day,) in connection.execute(query).fetchall():
        make_days(connection, table, day, day)


def drop_before(connection: "Connection[Any]", table: str, moment: datetime) -> Sequence[Partition]:
    """Drop the partitions that end by ``moment``; return them.

    Raises LockNotAvailable while somebody reads for long.
    """
    old = [each for each in partitions(connection, table) if each.high <= moment]
    with connection.transaction():
        _be_brief(connection)
        for each in old:
            connection.execute(SQL("DROP TABLE {}").format(Identifier(each.name)))
    return old


class Days:
    """The days that one connection knows to be there: asking again costs next to nothing."""

    __slots__ = ("_high", "_low")

    def __init__(self) -> None:
        self._low = self._high = _EARLIEST

    def make(self, connection: "Connection[Any]", table: str, first: datetime, last: datetime) -> None:
        """Make the days from ``first`` to ``last``, moments of rows about to be written."""
        if self._low <= first and last < self._high:
            return
        first, last = min(first, last), max(first, last)
        make_days(connection, table, first, last)
        self._low, self._high = _midnight(first), _midnight(last) + DAY


def _make_day(connection: "Connection[Any]", table: str, day: datetime) -> None:
    name = Identifier(f"{table}_{day:%Y%m%d}")
    column, parent, default = Identifier(_key(connection, table)), Identifier(table), Identifier(f"{table}_default")
    low, high = Literal(day.isoformat()), Literal((day + DAY).isoformat())
    with connection.transaction():
        _be_brief(connection)
        # One at a time: the projector and the keeper of the history may want the same day.
        lock = SQL("SELECT pg_advisory_xact_lock(hashtextextended('shardbus/partitions/' || current_schema(), 0))")
        connection.execute(lock)
        if any(each.low <= day < each.high for each in partitions(connection, table)):
            return
        connection.execute(SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES)").format(name, parent))
        strays = SQL("WITH strays AS (DELETE FROM {} WHERE {} >= {} AND {} < {} RETURNING *) ")
        connection.execute(
            strays.format(default, column, low, column, high) + SQL("INSERT INTO {} SELECT * FROM strays").format(name)
        )
        attach = SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})")
        connection.execute(attach.format(parent, name, low, high))


def _be_brief(connection: "Connection[Any]") -> None:
    connection.execute(SQL("SET LOCAL lock_timeout = {}").format(Literal(f"{_LOCK_SECONDS}s")))


def _key(connection: "Connection[Any]", table: str) -> str:
    """Return the column that the table is partitioned by."""
    query = (
        "SELECT attname FROM pg_partitioned_table JOIN pg_attribute ON attrelid = partrelid AND attnum = partattrs[0] "
        "WHERE partrelid = to_regclass(%s)"
    )
    row = connection.execute(query, [table]).fetchone()
    assert row is not None, f"{table} is not partitioned"
    return str(row[0])


def _days(first: datetime, last: datetime) -> Sequence[datetime]:
    low = _midnight(first)
    return [low + DAY * number for number in range((_midnight(last) - low).days + 1)]


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _moment(bound: str) -> datetime:
    match bound:
        case "MINVALUE":
            return _EARLIEST
        case "MAXVALUE":
            return _LATEST
        case _:
            return datetime.fromisoformat(bound.strip("'")).astimezone(UTC)
