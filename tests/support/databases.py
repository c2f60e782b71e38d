"""Fresh Postgres databases for tests."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from sqlalchemy import make_url


@contextmanager
def fresh_database(server_url: str) -> Generator[str]:
    """Yield the SQLAlchemy URL of a new empty database on the server; dropped at the end, whoever still uses it."""
    url = make_url(server_url)
    administration = url.set(drivername="postgresql").render_as_string(hide_password=False)
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(administration, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
