"""Into how many parts a stream's projection is shared: the checkpoints say it, and it changes where nothing is lost."""

from typing import Final

from psycopg.rows import tuple_row
from shardbus_infra.bus.port import StreamInfo
from sqlalchemy import Connection

from shardbus_eventstore.checkpoint import begin, lock_name
from shardbus_eventstore.errors import SharingError
from shardbus_eventstore.parts import Part
from shardbus_eventstore.read_model.database import driver_of
from shardbus_eventstore.read_model.tables import VERSION


def share(connection: Connection, info: StreamInfo, of: int) -> None:
    """See to it that the stream's checkpoints are those of ``of`` parts, all of them.

    Where they are of another number, each part has folded its own nodes up to its own position: only from one position
    of all can another number go on. Raises SharingError if they stand apart, or somebody still moves them.
    """
    wanted = sorted(part.name for part in Part.all_of(info.name, of))
    driver = driver_of(connection)
    names: dict[str, object] = {"stream": info.name, "version": VERSION}
    with driver.transaction(), driver.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(_ONE_AT_A_TIME, names)
        found = cursor.execute(_FOUND, names).fetchall()
        held: list[str] = [row[0] for row in found]
        if sorted(held) == wanted:
            return
        if not held:
            for projection in wanted:
                begin(connection, info, projection)
            return
        for projection in held:
            free = cursor.execute(_FREE, {"lock": lock_name(projection)}).fetchone()
            if free is None or not free[0]:
                raise SharingError(
                    f"{info.name} is projected in {len(held)} by a projector that runs, and this one is told to do it "
                    f"in {of}: give all of them the same SHARDBUS_PROJECTOR_PARTITIONS, or stop the others first"
                )
        if len({row[1:] for row in found}) > 1:
            stand = ", ".join(f"{row[0]} at {row[1]}" for row in found)
            raise SharingError(
                f"{info.name} is projected in {len(held)}, and cannot go on in {of} from where its parts stand "
                f"({stand}): start projectors with SHARDBUS_PROJECTOR_PARTITIONS={len(held)} and let them catch up, so "
                "that all stand at the same message; or build the read model anew with `shardbus replay`"
            )
        cursor.execute(_SHARE_OUT, {**names, "held": held, "wanted": wanted})
        cursor.execute(_DROP, {**names, "held": held})


_ONE_AT_A_TIME: Final = """
SELECT pg_advisory_xact_lock(hashtextextended(concat('shardbus/sharing/', %(stream)s::text, '/', current_schema()), 0))
"""
_FOUND: Final = """
SELECT projection, sequence, sequence_recorded_at, stream_created FROM checkpoints
WHERE stream = %(stream)s AND version = %(version)s
ORDER BY projection FOR UPDATE
"""
_FREE: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended(concat(%(lock)s::text, current_schema()), 0)) AS free"
"""Whether no projector lives that holds it; this connection's own lock does not count."""
_SHARE_OUT: Final = """
WITH old AS (
    SELECT * FROM checkpoints WHERE stream = %(stream)s AND version = %(version)s AND projection = ANY(%(held)s)
), counted AS (
    SELECT max(epoch) AS epoch, sum(folded) AS folded, sum(ignored) AS ignored, sum(rejected) AS rejected,
           sum(skipped) AS skipped
    FROM old
), unread AS (
    SELECT coalesce(jsonb_object_agg(kind, first), '{}') AS kinds
    FROM (
        SELECT kind, min(first::bigint) AS first FROM old, jsonb_each_text(unread) AS each (kind, first) GROUP BY kind
    ) AS firsts
)
INSERT INTO checkpoints
SELECT written.*
FROM (SELECT * FROM old ORDER BY projection LIMIT 1) AS pattern,
     counted,
     unread,
     unnest(%(wanted)s::text[]) WITH ORDINALITY AS new (name, place),
     jsonb_populate_record(NULL::checkpoints, to_jsonb(pattern) || jsonb_build_object(
         'projection', new.name,
         'epoch', counted.epoch + 1,
         'attempts', 0,
         'attempted_sequence', NULL,
         'unread', unread.kinds,
         'folded', CASE new.place WHEN 1 THEN counted.folded ELSE 0 END,
         'ignored', CASE new.place WHEN 1 THEN counted.ignored ELSE 0 END,
         'rejected', CASE new.place WHEN 1 THEN counted.rejected ELSE 0 END,
         'skipped', CASE new.place WHEN 1 THEN counted.skipped ELSE 0 END
     )) AS written
"""
"""The first of the new parts goes on counting for all. The epoch fences who held a part of that name long ago."""
_DROP: Final = """
DELETE FROM checkpoints WHERE stream = %(stream)s AND version = %(version)s AND projection = ANY(%(held)s)
"""
