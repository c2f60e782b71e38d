"""What a replay takes over from the live read model, because no stream holds it any more.

``TELEMETRY`` and ``DEAD`` are kept for a while only. What the live read model made of a message that is gone would be
lost by a replay; so its rows that are as of such a message are copied.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from psycopg import Connection as PsycopgConnection
from psycopg import sql
from shardbus_infra.bus.streams import DEAD, TELEMETRY

from shardbus_eventstore.checkpoint import TABLES_OF, Gap
from shardbus_eventstore.partitions import make_days
from shardbus_eventstore.read_model.database import LIVE
from shardbus_eventstore.read_model.tables import DEVICE_HISTORY, TABLES

SHADOW: Final = "shardbus_replay"
"""The schema that a replay fills."""

CARRIED: Final = {stream: TABLES_OF[stream] for stream in (TELEMETRY, DEAD)}
"""The tables whose rows outlive their messages, by stream. Each says by ``sequence`` which message a row is as of."""


def carry_over(driver: "PsycopgConnection[Any]", stream: str, created: datetime, gap: Gap) -> Sequence[Gap]:
    """Copy the live rows that are as of a message of ``gap``; return what of it the live read model never read.

    To be called in the transaction that moves the shadow past the gap: then it happens once. ``created`` tells which
    stream of that name it is; of another one's rows nothing is copied.
    """
    first, last = gap
    read = min(last, _live_position(driver, stream, created))
    bounds = {"first": first, "last": read}
    for table in CARRIED.get(stream, ()) if read >= first else ():
        if table == DEVICE_HISTORY.name:
            span = driver.execute(_SPAN, bounds).fetchone()
            if span and span[0]:
                make_days(driver, table, *span)
        driver.execute(_copy(table), bounds)
    return [(max(first, read + 1), last)] if read < last else []


def carry_over_gaps(driver: "PsycopgConnection[Any]") -> None:
    """Copy the gaps that the live read model noted, and the shadow did not."""
    names = sql.SQL(", ").join(map(sql.Identifier, ("projection", "stream", "from_sequence", "to_sequence")))
    driver.execute(
        sql.SQL(
            "INSERT INTO {shadow} ({names}, noticed_at) SELECT {names}, noticed_at FROM {live} "
            "WHERE ({names}) NOT IN (SELECT {names} FROM {shadow}) ORDER BY gap_id"
        ).format(shadow=sql.Identifier(SHADOW, "gaps"), live=sql.Identifier(LIVE, "gaps"), names=names)
    )


def _live_position(driver: "PsycopgConnection[Any]", stream: str, created: datetime) -> int:
    found = driver.execute(
        sql.SQL("SELECT max(sequence) FROM {} WHERE stream = %s AND stream_created = %s").format(
            sql.Identifier(LIVE, "checkpoints")
        ),
        (stream, created),
    ).fetchone()
    return (found and found[0]) or 0


_SPAN: Final = sql.SQL(
    "SELECT min(recorded_at), max(recorded_at) FROM {} WHERE sequence BETWEEN %(first)s AND %(last)s"
).format(sql.Identifier(LIVE, DEVICE_HISTORY.name))


def _copy(table: str) -> sql.Composed:
    names = [column.name for column in TABLES[table].columns]
    keys = [column.name for column in TABLES[table].primary_key.columns]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    copy = sql.SQL(
        "INSERT INTO {shadow} ({columns}) SELECT {columns} FROM {live} WHERE sequence BETWEEN %(first)s AND %(last)s"
    ).format(shadow=sql.Identifier(SHADOW, table), live=sql.Identifier(LIVE, table), columns=columns)
    if not keys:
        return copy
    # What the shadow has is older than the gap.
    changes = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names if name not in keys]
    return sql.SQL("{} ON CONFLICT ({}) DO UPDATE SET {}").format(
        copy, sql.SQL(", ").join(map(sql.Identifier, keys)), sql.SQL(", ").join(changes)
    )
