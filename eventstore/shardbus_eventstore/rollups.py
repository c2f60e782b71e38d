"""Past readings by minute and hour: how much, how hot, how busy each device was.

Agents tell changes, so a reading holds until the device's next one, but no longer than ``HELD``: a device that says
nothing for that long is not known to be as it was. Within a bucket the mean weighs each value with the seconds it
held; a value carried in from before the bucket counts like those that came in it. ``samples`` counts readings recorded
in the bucket, ``…_seconds`` says for how much of it a figure was known. Buckets are of ``recorded_at``, the bus's own
clock, and are made once the stream is past their end.

What a step makes is a function of ``device_history`` alone: after late readings it makes their minutes anew, and all
that follow them, as if they had come in time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString, TypeVar

from psycopg import Connection, IsolationLevel
from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier
from shardbus_infra.bus.streams import TELEMETRY

from shardbus_eventstore.partitions import make_days
from shardbus_eventstore.read_model.tables import FIGURES, VERSION

HELD: Final = timedelta(minutes=3)
"""How long a reading holds at most. Agents report everything once a minute, changed or not."""
HISTORY: Final = "device_history"
MINUTES: Final = "device_history_minutes"
HOURS: Final = "device_history_hours"

RowT = TypeVar("RowT")

_AT_ONCE: Final = timedelta(minutes=10)
"""How much of the history one transaction rolls up at most."""


@dataclass(frozen=True, slots=True)
class Range:
    """The minutes from ``begin`` until before ``end``, both whole."""

    begin: datetime
    end: datetime


def range_to_make(
    complete_until: datetime | None, oldest_new: datetime | None, last: datetime, fixed_before: datetime | None
) -> Range | None:
    """Return the minutes to make (anew), and those to forget if they are later; ``None`` if there is nothing to do.

    ``oldest_new`` is the earliest reading not taken into account yet, ``last`` the moment that the stream has reached.
    """
    known = [moment for moment in (complete_until, oldest_new) if moment is not None]
    if not known:
        return None
    begin = max(_minute(min(known)), fixed_before or _minute(min(known)))
    end = min(_minute(last), begin + _AT_ONCE)
    # A stream that was cut short may have reached less than before.
    return Range(begin, max(begin, end)) if end > begin or begin < (complete_until or begin) else None


def step(connection: "Connection[Any]") -> bool:
    """Roll up some more, in one transaction; return whether there may be more to do.

    Rows and progress move together, and both are of one moment of the read model. Raises SerializationFailure if
    somebody else moved the progress meanwhile: nothing is written then.
    """
    isolation, connection.isolation_level = connection.isolation_level, IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            return _step(connection)
    finally:
        connection.isolation_level = isolation


def complete(connection: "Connection[Any]") -> int:
    """Roll up all that the read model has, up to the position of ``TELEMETRY``; return in how many steps."""
    steps = 0
    while step(connection):
        steps += 1
    return steps


def adopt(connection: "Connection[Any]", source: str) -> None:
    """Take over from the read model in schema ``source`` the minutes and hours whose readings are gone everywhere.

    They stay as they are. To be called on a read model that is built anew, before ``complete``; doing it again does no
    harm.
    """
    theirs = {table: Identifier(source, table) for table in ("history_progress", MINUTES, HOURS)}
    fixed = SQL("SELECT fixed_before FROM {} WHERE history = %s").format(theirs["history_progress"])
    with connection.transaction():
        (before,) = connection.execute(fixed, [HISTORY]).fetchone() or (None,)
        if before is None:
            return
        connection.execute(_BEGIN, [HISTORY])
        connection.execute(
            "UPDATE history_progress SET fixed_before = GREATEST(fixed_before, %s) WHERE history = %s",
            [before, HISTORY],
        )
        for table in (MINUTES, HOURS):
            copy = SQL("INSERT INTO {} SELECT * FROM {} WHERE at < %s ON CONFLICT DO NOTHING")
            connection.execute(copy.format(Identifier(table), theirs[table]), [before])


@dataclass(frozen=True, slots=True)
class _Reached:
    """How far the read model is; of several projections of the stream, the slowest."""

    sequence: int | None
    recorded_at: datetime | None
    stream_created: datetime | None


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far the roll-up is: a row of ``history_progress``."""

    history: str
    stream_created: datetime | None
    sequence: int
    complete_until: datetime | None
    fixed_before: datetime | None


def _step(connection: "Connection[Any]") -> bool:
    connection.execute(_BEGIN, [HISTORY])
    reached = _one(connection, _Reached, _REACHED, {"stream": TELEMETRY, "version": VERSION})
    progress = _one(connection, _Progress, _PROGRESS, {"history": HISTORY})
    if reached.sequence is None or reached.recorded_at is None:
        return False
    same = progress.stream_created == reached.stream_created and progress.sequence <= reached.sequence
    if same and progress.sequence == reached.sequence and progress.complete_until == _minute(reached.recorded_at):
        return False
    after = progress.sequence if same else 0
    (oldest,) = connection.execute(_OLDEST, {"after": after, "until": reached.sequence}).fetchone() or (None,)
    made = range_to_make(progress.complete_until, oldest, reached.recorded_at, progress.fixed_before)
    until = progress.complete_until
    if until is None and oldest is not None:
        until = _minute(oldest)  # trivially, and the first minute begins here
    if made:
        until = made.end
        make_days(connection, MINUTES, made.begin, made.end)
        values = {"begin": made.begin, "end": made.end, "held": HELD}
        connection.execute("DELETE FROM device_history_minutes WHERE at >= %(begin)s", values)
        connection.execute(_MINUTES, values)
        hours = {"begin": _hour(made.begin), "end": _hour(made.end)}
        connection.execute("DELETE FROM device_history_hours WHERE at >= %(begin)s", hours)
        connection.execute(_HOURS, hours)
    moved = {"history": HISTORY, "created": reached.stream_created, "sequence": reached.sequence, "until": until}
    connection.execute(_MOVE, moved)
    return made is not None and until is not None and until < _minute(reached.recorded_at)


def _one(connection: "Connection[Any]", kind: type[RowT], query: LiteralString, values: Mapping[str, object]) -> RowT:
    row = connection.cursor(row_factory=class_row(kind)).execute(query, values).fetchone()
    assert row is not None, "the query returns exactly one row"
    return row


_BEGIN: Final = "INSERT INTO history_progress (history, sequence) VALUES (%s, 0) ON CONFLICT DO NOTHING"
_PROGRESS: Final = (
    "SELECT history, stream_created, sequence, complete_until, fixed_before "
    "FROM history_progress WHERE history = %(history)s FOR UPDATE"
)
_REACHED: Final = """
SELECT min(sequence) AS sequence, min(sequence_recorded_at) AS recorded_at, max(stream_created) AS stream_created
FROM checkpoints WHERE stream = %(stream)s AND version = %(version)s
"""
_OLDEST: Final = """
SELECT min(recorded_at) AS recorded_at FROM device_history WHERE sequence > %(after)s AND sequence <= %(until)s
"""

_MOVE: Final = """
UPDATE history_progress
SET sequence = %(sequence)s, stream_created = %(created)s, complete_until = %(until)s
WHERE history = %(history)s
"""


def _minutes_of_history() -> str:
    sources = ", ".join(f"{source}::double precision AS {figure}" for figure, source in FIGURES.items())
    names = ", ".join(FIGURES)
    return f"""
    WITH held AS (
        SELECT node_id, device_id, recorded_at AS begins, {sources},
               LEAST(lead(recorded_at) OVER device, recorded_at + %(held)s, %(end)s) AS ends
        FROM device_history
        WHERE recorded_at >= %(begin)s::timestamptz - %(held)s::interval AND recorded_at < %(end)s
        WINDOW device AS (PARTITION BY node_id, device_id ORDER BY recorded_at, sequence, last_update)
    ), spans AS (
        SELECT node_id, device_id, at, begins >= at AS is_new, {names},
               extract(epoch FROM LEAST(ends, at + interval '1 minute') - GREATEST(begins, at))::double precision
                   AS seconds
        FROM held, generate_series(
            date_trunc('minute', GREATEST(begins, %(begin)s)),
            GREATEST(begins, ends - interval '1 microsecond'),
            interval '1 minute'
        ) AS at
    )
    INSERT INTO device_history_minutes (node_id, device_id, at, samples, {_columns()})
    SELECT node_id, device_id, at, count(*) FILTER (WHERE is_new), {", ".join(map(_of_minute, FIGURES))}
    FROM spans
    WHERE at >= %(begin)s AND at < %(end)s
    GROUP BY node_id, device_id, at
    """  # noqa: S608 -- names of our own columns


def _of_minute(figure: str) -> str:
    known = f"sum(seconds) FILTER (WHERE {figure} IS NOT NULL)"
    # Of readings that were all replaced in the instant they came, the plain mean.
    mean = f"coalesce(sum({figure} * seconds) / nullif({known}, 0), avg({figure}))"
    return f"min({figure}), {mean}, max({figure}), coalesce({known}, 0)"


def _hours_of_minutes() -> str:
    return f"""
    INSERT INTO device_history_hours (node_id, device_id, at, samples, {_columns()})
    SELECT node_id, device_id, date_trunc('hour', at), sum(samples), {", ".join(map(_of_hour, FIGURES))}
    FROM device_history_minutes
    WHERE at >= %(begin)s AND at < %(end)s
    GROUP BY 1, 2, 3
    """  # noqa: S608 -- names of our own columns


def _of_hour(figure: str) -> str:
    known = f"sum({figure}_seconds)"
    mean = f"coalesce(sum({figure}_mean * {figure}_seconds) / nullif({known}, 0), avg({figure}_mean))"
    return f"min({figure}_min), {mean}, max({figure}_max), {known}"


def _columns() -> str:
    return ", ".join(f"{figure}_{part}" for figure in FIGURES for part in ("min", "mean", "max", "seconds"))


_MINUTES: Final = _minutes_of_history().encode()
_HOURS: Final = _hours_of_minutes().encode()


def _minute(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


def _hour(moment: datetime) -> datetime:
    return _minute(moment).replace(minute=0)
