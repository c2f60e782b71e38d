"""The embedded Postgres: what it promises, and what it says when it can not."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from shardbus_infra.embedded import postgres as embedded_postgres
from shardbus_infra.embedded import postgres_install
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_infra.embedded.postgres_install import PostgresInstall, find_install
from shardbus_infra.embedded.process import command_line
from shardbus_infra.embedded.servers import Servers
from shardbus_infra.errors import DataFolderError, DataFolderInUseError, EmbeddedServerError, PortInUseError
from sqlalchemy import make_url
from support.other_user import nobody, not_as_root
from support.waiting import until_sync

pytestmark = pytest.mark.connected

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must drop its privileges")


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def ask(url: str, question: str) -> object:
    with psycopg.connect(plain(url)) as connection:
        row = connection.execute(question.encode()).fetchone()
    return row[0] if row else None


def modes(folder: Path) -> list[int]:
    return [parent.stat().st_mode for parent in folder.resolve().parents]


def test_it_is_durable_checked_and_speaks_utf8(postgres_server: EmbeddedPostgres) -> None:
    url = postgres_server.url
    for setting, value in {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "jit": "off",
        "listen_addresses": "127.0.0.1",
    }.items():
        assert ask(url, f"SELECT current_setting('{setting}')") == value
    assert ask(url, "SELECT current_database()") == "shardbus"


def test_it_asks_for_the_password_which_only_its_owner_can_read(postgres_server: EmbeddedPostgres) -> None:
    url = make_url(postgres_server.url).set(drivername="postgresql")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.set(password="guessed").render_as_string(hide_password=False))
    password_file = postgres_server.data_dir / "password"
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert password_file.read_text() == url.password
    assert sorted(p.name for p in postgres_server.data_dir.iterdir() if "initdb" in p.name) == []


@as_root
def test_as_root_it_runs_as_nobody_and_leaves_parent_folders_alone(folder_for_servers: Path) -> None:
    before = modes(folder_for_servers / "postgres")
    with EmbeddedPostgres(folder_for_servers / "postgres") as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody().uid
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "Groups:\t \n" in status
        assert "CapEff:\t0000000000000000" in status
    assert modes(folder_for_servers / "postgres") == before


@as_root
def test_as_root_a_closed_parent_is_named_and_not_opened(folder_for_servers: Path) -> None:
    closed = folder_for_servers / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(DataFolderError, match=rf"nobody, who can not pass through {closed} .*chmod o\+x {closed}"):
        EmbeddedPostgres(closed / "postgres").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(closed.iterdir()) == []


@as_root
def test_as_root_an_empty_closed_folder_can_be_the_data_folder_itself(folder_for_servers: Path) -> None:
    closed = folder_for_servers / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed) as server:
        assert ask(server.url, "SELECT 1") == 1


@as_root
def test_as_root_programs_in_a_closed_folder_are_copied_once(
    folder_for_servers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = folder_for_servers / "closed"
    closed.mkdir(mode=0o700)
    here = find_install()
    there = here.copied_to(closed / "install")
    base = closed / "install" / ".".join(map(str, here.version))
    hidden = PostgresInstall(there.bin, there.version, tuple(entry for entry in relocatable(base)))
    monkeypatch.setattr(embedded_postgres, "find_install", lambda: hidden)
    with EmbeddedPostgres(folder_for_servers / "postgres") as server:
        assert ask(server.url, "SELECT 1") == 1
        assert str(folder_for_servers / "postgres" / "install") in command_line(server.pid or 0)
    shutil.rmtree(closed / "install" / "unfinished", ignore_errors=True)
    copied = next((folder_for_servers / "postgres" / "install").iterdir()).stat().st_mtime_ns
    with EmbeddedPostgres(folder_for_servers / "postgres"):
        assert next((folder_for_servers / "postgres" / "install").iterdir()).stat().st_mtime_ns == copied


def relocatable(base: Path) -> list[Path]:
    """Return the folders of a copied install, the one with the programs first."""
    with_programs = next(base.glob("**/bin/postgres")).parent.parent
    return [with_programs, *(folder for folder in base.iterdir() if folder.name.endswith(".libs"))]


def test_it_runs_for_a_user_who_is_not_root(folder_for_servers: Path) -> None:
    def piece() -> None:
        with EmbeddedPostgres(folder_for_servers / "postgres") as server:
            assert ask(server.url, "SELECT 1") == 1
            assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700

    not_as_root(folder_for_servers, piece)


def test_a_used_port_is_refused_with_its_number(folder_for_servers: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is in use"):
            EmbeddedPostgres(folder_for_servers / "postgres", port=port).start()


def test_a_second_server_on_the_folder_is_refused(postgres_server: EmbeddedPostgres) -> None:
    with pytest.raises(DataFolderInUseError, match=f"in use by process {os.getpid()} "):
        EmbeddedPostgres(postgres_server.data_dir).start()
    assert ask(postgres_server.url, "SELECT 1") == 1


OWNER = """
import sys, time
from pathlib import Path
from shardbus_infra.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1])).start()
print(server.pid, server.url, flush=True)
time.sleep(600)
"""


def test_a_killed_owner_leaves_no_server_and_no_lock_and_no_loss(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "postgres"
    with subprocess.Popen([sys.executable, "-c", OWNER, folder], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        pid, url = owner.stdout.readline().split()
        with psycopg.connect(plain(url), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        owner.kill()
    if sys.platform == "linux":
        until_sync(lambda: command_line(int(pid)) == "", what="the server to die with its owner")
    with EmbeddedPostgres(folder) as server:
        assert ask(server.url, "SELECT seven FROM kept") == 7


def test_an_owner_killed_in_the_middle_of_the_first_start_spoils_nothing(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "postgres"
    with subprocess.Popen([sys.executable, "-c", OWNER, folder], stdout=subprocess.PIPE, text=True) as owner:
        until_sync((folder / "data.unfinished" / "PG_VERSION").exists, what="initdb at work")
        owner.kill()
    assert not (folder / "data").exists()
    with EmbeddedPostgres(folder) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_a_session_that_computes_does_not_bar_the_restart_after_a_kill(postgres_restartable: EmbeddedPostgres) -> None:
    connection = psycopg.connect(plain(postgres_restartable.url))

    def compute() -> None:
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT count(*) FROM generate_series(1, 2000000000)")

    computing = threading.Thread(target=compute)
    computing.start()
    until_sync(
        lambda: ask(postgres_restartable.url, "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'generate_s[e]ries'")
    )
    postgres_restartable.kill()
    postgres_restartable.start()
    assert ask(postgres_restartable.url, "SELECT 1") == 1
    computing.join(10)
    connection.close()


def test_data_of_another_postgres_is_refused_untouched(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "postgres"
    EmbeddedPostgres(folder).start().stop()
    (folder / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(DataFolderError, match=r"is of Postgres 12, but .* rebuilt from the stream.*mv "):
        EmbeddedPostgres(folder).start()
    assert (folder / "data" / "PG_VERSION").read_text() == "12\n"


def test_a_server_that_dies_at_its_start_says_why(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "postgres"
    EmbeddedPostgres(folder).start().stop()
    configuration = folder / "data" / "postgresql.conf"
    kept = configuration.read_text()
    configuration.write_text("nonsense = 1\n")
    with pytest.raises(EmbeddedServerError, match=r"ended right after its start(.|\n)*nonsense"):
        EmbeddedPostgres(folder).start()
    configuration.write_text(kept)
    with EmbeddedPostgres(folder) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_too_old_programs_are_named_and_refused(folder_for_servers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_install, "WHEEL", "no-such-package")
    monkeypatch.setattr(postgres_install, "USUAL_PLACES", ())
    monkeypatch.setenv("PATH", f"{folder_for_servers}:{os.environ['PATH']}")
    for program in ("postgres", "initdb"):
        (folder_for_servers / program).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 13.11'\n")
        (folder_for_servers / program).chmod(0o755)
    with pytest.raises(EmbeddedServerError, match=r"version 15 or later.*\(version 13\).*shardbus\[embedded\]"):
        find_install()


def test_both_servers_start_under_one_folder_and_stop(folder_for_servers: Path) -> None:
    with Servers(folder_for_servers) as servers:
        assert servers.nats
        assert servers.postgres
        assert servers.nats_url == servers.nats.url
        assert ask(servers.postgres_url, "SELECT 1") == 1
    assert servers.nats.pid is None
    assert servers.postgres.pid is None


def test_a_url_that_is_given_wins_and_nothing_is_started(folder_for_servers: Path) -> None:
    nats_url, postgres_url = "nats://elsewhere:4222", "postgresql+psycopg://elsewhere/db"
    with Servers(folder_for_servers, nats_url=nats_url, postgres_url=postgres_url) as servers:
        assert (servers.nats_url, servers.postgres_url) == (nats_url, postgres_url)
        assert list(folder_for_servers.iterdir()) == []


def test_if_one_server_can_not_start_the_other_is_stopped(folder_for_servers: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        servers = Servers(folder_for_servers, postgres_port=taken.getsockname()[1])
        with pytest.raises(PortInUseError):
            servers.start()
        assert servers.nats
        assert servers.nats.pid is None
