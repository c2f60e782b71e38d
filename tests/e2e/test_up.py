"""``shardbus up``: everything in one process, found by other commands through its data folder, kept over restarts."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Running, document, running, shardbus, shardbus_here
from support.server_folders import server_folder
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(240)]

MODEL = "llama-3.1-8b"
PATIENCE = 90.0
FREE_PORTS = ("--nats-port", "0", "--postgres-port", "0")
OWN_SERVERS: dict[str, Any] = {"SHARDBUS_NATS_URL": None, "SHARDBUS_POSTGRES_URL": None}


class Up:
    """``shardbus up`` on one data folder, for one life after the other."""

    def __init__(self, folder: Path, fleet_file: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._arguments = ("up", "--data-dir", self.data, *FREE_PORTS, "--simulate", fleet_file, "--seed", "1")
        self.process = self._begin()

    def _begin(self) -> Running:
        return Running(*self._arguments, log=self.folder / "up.log", **OWN_SERVERS)

    def again(self) -> None:
        """Begin another life."""
        self.process = self._begin()
        self.wait_until_the_fleet_is_there()

    def wait_until_the_fleet_is_there(self) -> None:
        def there() -> bool:
            assert self.process.alive, self.process.said
            done = self.here("devices", "--json")
            return done.returncode == 0 and len(json.loads(done.stdout)) >= 13

        until_sync(there, within=PATIENCE, what=f"the fleet of `shardbus up`, see {self.folder / 'up.log'}")

    def here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command that is told nothing but the data folder."""
        return shardbus_here(*arguments, **OWN_SERVERS, SHARDBUS_DATA_DIR=str(self.data))

    def server_pids(self) -> list[int]:
        return [int((self.data / server / "server.pid").read_text()) for server in ("nats", "postgres")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with server_folder() as folder, as_file(files("shardbus_console") / "data" / "demo_fleet.yaml") as fleet_file:
        started = Up(folder, fleet_file)
        try:
            started.wait_until_the_fleet_is_there()
            yield started
        finally:
            if started.process.alive:
                started.process.stop(signal.SIGINT)


def test_a_second_up_on_the_same_folder_is_a_conflict(up: Up) -> None:
    done = shardbus("up", "--data-dir", up.data, *FREE_PORTS, **OWN_SERVERS)
    assert (done.returncode, done.stdout) == (4, "")
    assert str(up.process.process.pid) in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert up.here("devices").returncode == 0


def test_what_was_placed_is_still_there_after_ctrl_c_and_after_a_kill(up: Up) -> None:
    placed = document(up.here("place", MODEL, "--command-id", "kept", "--timeout", "60", "--json"))["instance_id"]

    def still_there() -> None:
        held = [item["instance_id"] for item in document(up.here("instances", "--json"))]
        assert held == [placed]

    until_sync(lambda: placed in up.here("instances").stdout, within=PATIENCE, what="the instance in Postgres")
    servers = up.server_pids()
    assert all(is_alive(pid) for pid in servers)
    assert up.process.stop(signal.SIGINT, within=30) == 0
    assert "Traceback" not in up.process.said
    assert not any(is_alive(pid) for pid in servers)
    assert not (up.data / "running.json").exists()

    up.again()
    still_there()
    servers = up.server_pids()
    up.process.kill()
    until_sync(lambda: not any(is_alive(pid) for pid in servers), within=PATIENCE, what="the servers' own end")

    up.again()
    still_there()
    answer = up.here("place", MODEL, "--command-id", "kept", "--timeout", "60", "--json")
    assert document(answer)["instance_id"] == placed


@pytest.mark.parametrize("server", ["nats", "postgres"])
def test_a_port_in_use_is_a_conflict_that_names_the_port(server: str) -> None:
    other = "postgres" if server == "nats" else "nats"
    with server_folder() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shardbus(
            *("up", "--data-dir", folder / "data", f"--{server}-port", str(port), f"--{other}-port", "0"), **OWN_SERVERS
        )
        assert (done.returncode, done.stdout) == (4, "")
        assert f"port {port} on 127.0.0.1 is in use" in done.stderr
        assert "Traceback" not in done.stderr
        left = [folder / "data" / name / "server.pid" for name in ("nats", "postgres")]
        assert not any(file.exists() and is_alive(int(file.read_text())) for file in left)


def test_a_file_in_place_of_the_data_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("something of mine")
    done = shardbus("up", "--data-dir", tmp_path / "data", *FREE_PORTS, **OWN_SERVERS)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "data") in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "data").read_text() == "something of mine"


def test_a_folder_of_something_else_is_left_alone() -> None:
    with server_folder() as folder:
        (folder / "nats").mkdir()
        (folder / "nats" / "thesis.tex").write_text("mine")
        done = shardbus("up", "--data-dir", folder, *FREE_PORTS, **OWN_SERVERS)
        assert (done.returncode, done.stdout) == (2, "")
        assert "thesis.tex" in done.stderr
        assert [file.name for file in (folder / "nats").iterdir()] == ["thesis.tex"]


def test_a_folder_that_may_not_be_written_to_is_said() -> None:
    closed = Path("/proc/shardbus")  # nobody may make a folder there, not even root
    done = shardbus("up", "--data-dir", closed, *FREE_PORTS, **OWN_SERVERS)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(closed) in done.stderr
    assert "Traceback" not in done.stderr


def test_servers_given_by_url_are_used_and_none_is_started(tmp_path: Path, nats_url: str, postgres_url: str) -> None:
    data = tmp_path / "data"
    told: dict[str, Any] = {"SHARDBUS_NATS_URL": nats_url, "SHARDBUS_POSTGRES_URL": postgres_url}
    with running("up", "--data-dir", data, log=tmp_path / "up.log", **told) as process:
        here: dict[str, Any] = {**OWN_SERVERS, "SHARDBUS_DATA_DIR": str(data)}
        until_sync(
            lambda: shardbus_here("devices", "--json", **here).stdout.count("node_id") > 0 or not process.alive,
            within=PATIENCE,
            what=f"this machine's devices, see {process.log}",
        )
        assert process.alive, process.said
        assert (data / "running.json").stat().st_mode & 0o777 == 0o600
        assert [file.name for file in data.iterdir()] == ["running.json"]
        assert process.stop(signal.SIGTERM) == 0
