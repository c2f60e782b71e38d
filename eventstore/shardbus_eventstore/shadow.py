"""The schema beside the live one that a replay fills: who may fill it, and whether to go on with what is there."""

import hashlib
import json
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from shardbus_infra.bus.port import Stored, StreamInfo
from shardbus_schemas.registry import MESSAGE_TYPES, version_of
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from shardbus_eventstore.carry_over import SHADOW
from shardbus_eventstore.checkpoint import Checkpoint, verify
from shardbus_eventstore.errors import DatabaseRightsError, HistoryDivergedError, ReadModelInUseError, ReplayRunsError
from shardbus_eventstore.migrate import head_revision, upgrade
from shardbus_eventstore.read_model.database import LIVE, failures_explained, open_engine, where
from shardbus_eventstore.read_model.tables import VERSION

REPLACED: Final = "shardbus_replaced"
"""What the live schema is called from the switch until it is dropped."""

_PATIENCE_SECONDS: Final = 5.0
"""How long a replay that was killed may hold its lock after its death."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Both read models and the streams; the streams were asked last, so they hold all that the read models had read."""

    live: Mapping[str, Checkpoint]
    shadow: Mapping[str, Checkpoint]
    streams: Mapping[str, StreamInfo]
    held: Mapping[tuple[str, int], Stored | None]
    """What each stream holds at the positions of the two."""

    def verify(self, positions: Mapping[str, Checkpoint]) -> None:
        """Raise HistoryDivergedError unless ``positions``, one of the two, are positions of these streams."""
        for stream, checkpoint in positions.items():
            if checkpoint.sequence:
                verify(checkpoint, self.streams[stream], self.held.get((stream, checkpoint.sequence)))


@contextmanager
def only_replay(url: str) -> Generator[Connection]:
    """Yield a connection that holds the right to replay, one process at a time; raises ReplayRunsError."""
    engine = open_engine(url, application_name="shardbus replay", schema="pg_catalog")
    with failures_explained(engine), engine.connect() as connection:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        lock = text("SELECT pg_try_advisory_lock(hashtextextended('shardbus/replay', 0))")
        while not connection.scalar(lock):
            connection.rollback()
            if time.monotonic() > deadline:
                raise ReplayRunsError(f"another replay fills {SHADOW} at {where(engine)}: wait for its end, or end it")
            time.sleep(0.1)
        connection.commit()
        yield connection


def drop(connection: Connection, schema: str) -> None:
    """Drop a schema with all of its tables, if it is there. Waits for who still reads them."""
    with connection.begin():
        connection.execute(text(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'))


def exists(connection: Connection, schema: str) -> bool:
    """Return whether there is such a schema."""
    with connection.begin():
        return bool(connection.scalar(text("SELECT to_regnamespace(:schema) IS NOT NULL"), {"schema": schema}))


def positions(connection: Connection, schema: str) -> dict[str, Checkpoint]:
    """Return how far the read model in ``schema`` is, by stream; nothing if there is none."""
    with connection.begin():
        if connection.scalar(text("SELECT to_regclass(:table)"), {"table": f"{schema}.checkpoints"}) is None:
            return {}
        return checkpoints_in(connection, schema)


def checkpoints_in(connection: Connection, schema: str) -> dict[str, Checkpoint]:
    """Return the checkpoints of the read model in ``schema`` within the transaction that is under way.

    Of a stream that is projected in parts it is the one that is furthest.
    """
    query = text(
        "SELECT DISTINCT ON (stream) stream, stream_created, sequence, sequence_recorded_at, epoch "  # noqa: S608 -- ours
        f"FROM {schema}.checkpoints ORDER BY stream, version DESC, sequence DESC"
    )
    return {row.stream: Checkpoint(*row) for row in connection.execute(query)}


def can_be_resumed(connection: Connection, surveyed: Surveyed) -> bool:
    """Return whether the shadow was begun by this very program, from these very streams."""
    with connection.begin():
        described = text("SELECT obj_description(to_regnamespace(:schema), 'pg_namespace')")
        if connection.scalar(described, {"schema": SHADOW}) != program():
            return False
    try:
        surveyed.verify(surveyed.shadow)
    except HistoryDivergedError:
        return False
    return True


def begin(connection: Connection, url: str) -> None:
    """Make an empty shadow, and note what program fills it."""
    drop(connection, SHADOW)
    upgrade(url, schema=SHADOW)
    with connection.begin():
        connection.execute(text(f"COMMENT ON SCHEMA {SHADOW} IS '{program()}'"))


def program() -> str:
    """Return what differs when another program would make other rows of the same streams: its tables and its types."""
    types = sorted((name, version_of(model)) for name, model in MESSAGE_TYPES.items())
    known = json.dumps([head_revision(), VERSION, types])
    return f"replay by {hashlib.sha256(known.encode()).hexdigest()}"


def refuse_what_would_be_lost(connection: Connection) -> None:
    """Raise ReadModelInUseError if there is anything of other people's that would go with the live tables."""
    with connection.begin():
        lost = connection.execute(_OTHERS, {"live": LIVE, "shadow": SHADOW}).scalars().all()
    if lost:
        raise ReadModelInUseError(
            f"the switch drops the live tables, and with them what is not shardbus': {', '.join(lost)}. "
            "Drop it (and make it again afterwards), or keep such things out of that schema and unbound from its tables"
        )


_OTHERS: Final = text(
    """
    SELECT relations.oid::regclass::text FROM pg_class AS relations
    JOIN pg_namespace AS schemas ON schemas.oid = relations.relnamespace
    WHERE schemas.nspname = :live AND relations.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relations.relispartition
      AND relations.relname NOT IN (
          SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = :shadow
      )
    UNION
    SELECT views.oid::regclass::text FROM pg_depend
    JOIN pg_rewrite ON pg_rewrite.oid = pg_depend.objid AND pg_depend.classid = 'pg_rewrite'::regclass
    JOIN pg_class AS views ON views.oid = pg_rewrite.ev_class
    JOIN pg_class AS tables ON tables.oid = pg_depend.refobjid AND pg_depend.refclassid = 'pg_class'::regclass
    JOIN pg_namespace AS schemas ON schemas.oid = tables.relnamespace
    WHERE schemas.nspname = :live AND views.relnamespace <> tables.relnamespace
    """
)


def copy_rights(connection: Connection) -> None:
    """Grant on the shadow what people were granted on the live tables, so that they may go on reading.

    Only rights of others than the owner: those come with the making.
    """
    try:
        for (grant,) in connection.execute(_GRANTS, {"live": LIVE, "shadow": SHADOW}).all():
            connection.execute(text(grant))
    except DBAPIError as error:
        raise DatabaseRightsError(
            f"the rights on {LIVE} cannot be granted on the rebuilt tables: {error.orig}"
        ) from error


_GRANTS: Final = text(
    """
    SELECT format(
        'GRANT %s ON %s TO %s%s', rights.privilege_type, granted.target,
        CASE WHEN rights.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(rights.grantee)) END,
        CASE WHEN rights.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    )
    FROM (
        SELECT 'SCHEMA ' || quote_ident(:shadow) AS target, nspacl AS acl, nspowner AS owner
        FROM pg_namespace WHERE nspname = :live
        UNION ALL
        SELECT 'TABLE ' || quote_ident(:shadow) || '.' || quote_ident(relname), relacl, relowner
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = :live AND relkind IN ('r', 'p', 'v') AND NOT relispartition
    ) AS granted, aclexplode(granted.acl) AS rights
    WHERE rights.grantee <> granted.owner
    """
)


def engine_of(url: str, schema: str) -> Engine:
    """Return the engine for the read model in ``schema``."""
    return open_engine(url, application_name="shardbus replay", schema=schema)


@contextmanager
def failures_of_replay(url: str) -> Generator[None]:
    """Turn a Postgres that goes away or refuses within the block into an EventStoreError that says what to do."""
    with failures_explained(open_engine(url)):
        yield
