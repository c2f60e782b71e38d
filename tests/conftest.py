"""Real servers for tests: embedded, or those that SHARDBUS_TEST_NATS_URL and SHARDBUS_TEST_POSTGRES_URL name.

An embedded server lives as long as the test session (with pytest-xdist: as long as the worker) and is started by the
first test that asks for it.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from support.databases import fresh_database
from support.jetstream import delete_streams
from support.server_folders import server_folder

OUR_STREAMS = frozenset({"TELEMETRY", "FLEET", "COMMANDS", "DEAD", "SNAPSHOTS"})


@pytest.fixture(scope="session", autouse=True)
def _runtime_folder_of_our_own() -> Iterator[None]:
    """Where agents of the tests hear their runners: not where one of this machine, or of another worker, does."""
    with tempfile.TemporaryDirectory(prefix="sb-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(scope="session")
def session_server_folder() -> Iterator[Path]:
    """The folder of the session's servers."""
    with server_folder() as folder:
        yield folder


@pytest.fixture
def folder_for_servers() -> Iterator[Path]:
    """A folder of this test's own for embedded servers (``tmp_path`` will not do for root, see the helper)."""
    with server_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def nats_server(session_server_folder: Path) -> Iterator[EmbeddedNats]:
    """The session's embedded NATS server; ask for ``nats_url`` unless you need its pid or folder."""
    with EmbeddedNats(session_server_folder / "nats") as server:
        yield server


@pytest.fixture
def nats_url(request: pytest.FixtureRequest) -> str:
    """A NATS server without a stream. Of a server that is not ours, only our five streams are deleted."""
    if given := os.environ.get("SHARDBUS_TEST_NATS_URL"):
        delete_streams(given, only=OUR_STREAMS)
        return given
    server: EmbeddedNats = request.getfixturevalue("nats_server")
    delete_streams(server.url)
    return server.url


@pytest.fixture(scope="session")
def postgres_server(session_server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The session's embedded Postgres; ask for ``postgres_url`` unless you need its pid or folder."""
    with EmbeddedPostgres(session_server_folder / "postgres") as server:
        yield server


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty database of this test's own."""
    given = os.environ.get("SHARDBUS_TEST_POSTGRES_URL")
    with fresh_database(given or request.getfixturevalue("postgres_server").url) as url:
        yield url


@pytest.fixture
def nats_restartable(folder_for_servers: Path) -> Iterator[EmbeddedNats]:
    """A NATS server of this test's own: ``kill()``, ``stop()`` and ``start()`` it, port and data stay the same."""
    with EmbeddedNats(folder_for_servers / "nats") as server:
        yield server


@pytest.fixture
def postgres_restartable(folder_for_servers: Path) -> Iterator[EmbeddedPostgres]:
    """A Postgres server of this test's own: ``kill()``, ``stop()`` and ``start()`` it, port and data stay the same."""
    with EmbeddedPostgres(folder_for_servers / "postgres") as server:
        yield server
