"""Bringing the read model's tables about, on any database, from any earlier version."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from shardbus_eventstore.errors import SchemaError
from shardbus_eventstore.read_model.database import LIVE, failures_explained, open_engine, where

_LOCK = 0x5368617264627573
"""Any number that nobody else takes ("Shardbus" in ASCII): one process at a time changes the tables."""


_ONCE_IN_PUBLIC = (
    "alembic_version",
    "checkpoints",
    "dead_letters",
    "decisions",
    "device_history",
    "device_states",
    "devices",
    "gaps",
    "instances",
    "links",
    "models",
    "node_heard",
    "nodes",
    "refusals",
    "shards",
)
"""The tables that revisions up to 0003 made in the schema ``public``."""


def upgrade(url: str, *, schema: str = LIVE) -> None:
    """Create or upgrade the tables in ``schema`` at ``url``; any number of processes may do so at once.

    All of it happens in one transaction, or nothing does. Raises DatabaseUnreachableError, DatabaseRightsError, and
    SchemaError if the tables are of a newer program.
    """
    engine = open_engine(url, application_name="shardbus migrate", schema=schema)
    with failures_explained(engine), engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        _ensure_schema(connection, schema)
        config = _config()
        found = current_revision(connection)
        script = ScriptDirectory.from_config(config)
        known = {revision.revision for revision in script.walk_revisions()}
        if found is not None and found not in known:
            raise SchemaError(
                f"the tables at {where(engine)} are of a newer shardbus (revision {found}; this program knows up to "
                f"{script.get_current_head()}); update shardbus, or use another database"
            )
        config.attributes["connection"] = connection
        logging.getLogger("alembic").setLevel(logging.WARNING)  # its news are of no use to anybody here
        command.upgrade(config, "head")


def _ensure_schema(connection: Connection, schema: str) -> None:
    """Create the schema if it is not there; the live one takes over the tables of programs that knew of none."""
    there = text("SELECT FROM pg_namespace WHERE nspname = :schema")
    if connection.execute(there, {"schema": schema}).first() is None:  # asking takes no rights, creating does
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))
    ours = "SELECT to_regclass('public.alembic_version') IS NOT NULL AND to_regclass('public.checkpoints') IS NOT NULL"
    if schema == LIVE and connection.scalar(text(ours)):
        for table in _ONCE_IN_PUBLIC:
            connection.execute(text(f'ALTER TABLE public.{table} SET SCHEMA "{schema}"'))
        connection.execute(text(f'ALTER VIEW public.fleet_devices SET SCHEMA "{schema}"'))


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the tables; ``None`` if there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """Return the revision that this program's tables have."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
