"""The way to Postgres, and what its failures mean for a person."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

from psycopg import Connection as PsycopgConnection
from sqlalchemy import URL, Connection, Engine, create_engine, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from shardbus_eventstore.errors import DatabaseRightsError, DatabaseUnreachableError

LIVE: Final = "shardbus"
"""The Postgres schema that holds the read model which people ask. Another one of the same database may hold a second
read model, such as the one that a replay builds beside it: the tables' names are never qualified."""

_CONNECT_SECONDS = 5
_INSUFFICIENT_PRIVILEGE = "42501"


def open_engine(url: str, *, application_name: str = "shardbus", schema: str = LIVE) -> Engine:
    """Return an engine for ``url`` (``postgresql://user:password@host:port/database``); it connects on first use.

    Every name without a schema means a table of ``schema``.

    A broken connection is noticed within half a minute, also while it waits. Raises DatabaseUnreachableError if
    ``url`` is none for Postgres.
    """
    return create_engine(
        _with_driver(url),
        poolclass=NullPool,
        connect_args={
            "application_name": application_name,
            "connect_timeout": _CONNECT_SECONDS,
            "options": f"-c timezone=UTC -c search_path={schema}",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )


def driver_of(connection: Connection) -> "PsycopgConnection[Any]":
    """Return psycopg's connection below SQLAlchemy's."""
    return cast("PsycopgConnection[Any]", connection.connection.driver_connection)


def try_lock(connection: Connection, name: str) -> bool:
    """Take the lock of this name, one of each in every schema, for as long as the connection lives.

    ``False`` if another connection has it. ``name`` ends with a slash.
    """
    key = func.hashtextextended(func.concat(name, func.current_schema()), 0)
    return bool(connection.scalar(select(func.pg_try_advisory_lock(key))))


@contextmanager
def snapshot(engine: Engine) -> Generator[Connection]:
    """Connect to read: every query sees the rows of one moment, that of the first, and none can write.

    Without it a placement that is written between two queries is seen by one and not by the other.
    """
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def where(engine: Engine) -> str:
    """Return the database's address for messages, without the password."""
    return engine.url.render_as_string(hide_password=True)


@contextmanager
def failures_explained(engine: Engine) -> Generator[None]:
    """Turn a failure to connect and a lack of rights within the block into an EventStoreError that says what to do."""
    try:
        yield
    except OperationalError as error:
        raise DatabaseUnreachableError(
            f"Postgres at {where(engine)} cannot be used: {_first_line(error)}; "
            "start it, or set SHARDBUS_POSTGRES_URL to one that runs"
        ) from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise DatabaseRightsError(
            f"the user {engine.url.username!r} may not do this on {where(engine)}: {_first_line(error)}; "
            f"grant it, such as by: ALTER DATABASE {engine.url.database} OWNER TO {engine.url.username}"
        ) from error


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]


def _with_driver(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise DatabaseUnreachableError(
            "the address of Postgres is none: it reads like postgresql://user:password@host:5432/database"
        ) from error
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseUnreachableError(f"{url.drivername!r} is not Postgres: the read model needs postgresql://…")
    return url.set(drivername="postgresql+psycopg")
