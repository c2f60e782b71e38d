"""Runners at the socket of their node's agent: what is taken, what is answered, and who may come."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shardbus_agents.change_detection import Thresholds
from shardbus_agents.runners.address import (
    RunnerSocketError,
    RunnerSocketInUseError,
    default_socket,
    listen,
)
from shardbus_agents.runners.board import WENT_AWAY, Board
from shardbus_agents.runners.client import AgentAwayError, ReportRefusedError, RunningShard, find_socket, report
from shardbus_agents.runners.report import LONGEST_LINE_BYTES
from shardbus_agents.runners.server import RunnerServer
from shardbus_agents.runners.shards import Shards
from shardbus_schemas.events import Event, ShardReported
from shardbus_schemas.ids import DeviceId, NodeId
from support.readings import NODE, state
from support.readings import snapshot as snapshot_of
from support.waiting import until

PAUSE_SECONDS = 0.1
SAID: dict[str, Any] = {"instance_id": "llama-1", "device": "cuda-1", "state": "ready"}


class Heard:
    """What an agent tells of its runners."""

    def __init__(self) -> None:
        self.shards: list[ShardReported] = []
        self.owed: list[DeviceId] = []

    def tell(self, message: Event) -> None:
        assert isinstance(message, ShardReported)
        self.shards.append(message)

    def owe_reading(self, device_id: DeviceId, since: datetime) -> None:
        assert since == self.shards[-1].occurred_at
        self.owed.append(device_id)

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.shards]


class Place:
    """A folder with an agent's socket, for one life of the agent after the other."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.sock"
        self.heard = Heard()
        self._server: RunnerServer | None = None
        self._running: asyncio.Task[None] | None = None
        self._connections: list[asyncio.StreamWriter] = []

    async def begin(self) -> None:
        board = Board(
            NODE,
            self.heard,
            thresholds=Thresholds(memory_bytes=0),
            now=lambda: datetime.now(UTC),
            shards=Shards(pause_seconds=PAUSE_SECONDS),
        )
        board.watch(snapshot_of(state("cuda-1", memory_total_bytes=10_000), state("cuda-2")))
        self._server = RunnerServer(self.path, board, is_named=True)
        self._running = asyncio.create_task(self._server.run())

    async def end(self) -> None:
        assert self._running is not None
        assert self._server is not None
        self._running.cancel()
        await asyncio.wait({self._running})
        self._server.close()
        for connection in self._connections:
            connection.close()
            with contextlib.suppress(OSError):
                await connection.wait_closed()
        self._connections.clear()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        self._connections.append(writer)
        return reader, writer


Test = Callable[[Place], Coroutine[Any, Any, None]]


@pytest.fixture
def folder(folder_for_servers: Path) -> Path:
    """A folder with a short name: a socket's path has a hundred bytes."""
    return folder_for_servers


def with_an_agent(folder: Path, test: Test) -> Heard:
    place = Place(folder)

    async def scenario() -> None:
        await place.begin()
        try:
            await test(place)
        finally:
            await place.end()

    asyncio.run(scenario())
    return place.heard


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> Any:
    writer.write(line + b"\n")
    return json.loads(await asyncio.wait_for(reader.readline(), 5))


def line(**what: Any) -> bytes:
    return json.dumps({**SAID, **what}).encode()


def test_a_report_is_told_and_a_reading_is_owed(folder: Path) -> None:
    async def test(place: Place) -> None:
        connection = await place.connect()
        told = await ask(*connection, line(start_layer=0, end_layer=4, memory_used_bytes=500, message="up"))
        assert told == {"ok": True}

    heard = with_an_agent(folder, test)
    (shard,) = heard.shards
    assert (shard.instance_id, shard.node_id, shard.device_id, shard.state) == ("llama-1", NODE, "cuda-1", "ready")
    assert (shard.start_layer, shard.end_layer, shard.memory_used_bytes, shard.message) == (0, 4, 500, "up")
    assert heard.owed == ["cuda-1"]


def test_what_changes_too_often_is_told_a_little_later_as_it_is_then(folder: Path) -> None:
    async def test(place: Place) -> None:
        connection = await place.connect()
        began = asyncio.get_running_loop().time()
        for used in range(0, 5000, 100):
            assert await ask(*connection, line(memory_used_bytes=used)) == {"ok": True}
        took = asyncio.get_running_loop().time() - began
        await until(lambda: place.heard.shards[-1].memory_used_bytes == 4900)
        assert len(place.heard.shards) <= 2 + took / PAUSE_SECONDS

    told = [each.memory_used_bytes for each in with_an_agent(folder, test).shards]
    assert (told[0], told[-1]) == (0, 4900)


def test_garbage_is_answered_and_the_connection_goes_on(folder: Path) -> None:
    async def test(place: Place) -> None:
        connection = await place.connect()
        for garbage, told in (
            (b"\xff\xfe\x00", "not a line of JSON"),
            (b"{}", "instance_id"),
            (b'{"a": [' * 500, "not a line of JSON"),
            (line(device="cuda-7"), "it has cuda-1, cuda-2"),
            (line(stat="ready"), "did you mean 'state'?"),
        ):
            assert told in (await ask(*connection, garbage))["error"]
        assert await ask(*connection, line()) == {"ok": True}

    assert with_an_agent(folder, test).states == ["ready"]


def test_a_line_without_an_end_is_answered_and_ended(folder: Path) -> None:
    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        writer.write(b"x" * (4 * LONGEST_LINE_BYTES))
        assert "at most" in json.loads(await asyncio.wait_for(reader.readline(), 5))["error"]
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        assert await ask(*await place.connect(), line()) == {"ok": True}

    with_an_agent(folder, test)


def test_a_last_line_needs_no_end(folder: Path) -> None:
    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        writer.write(line())
        writer.write_eof()
        assert json.loads(await asyncio.wait_for(reader.read(), 5)) == {"ok": True}

    assert with_an_agent(folder, test).states == ["ready"]


@pytest.mark.parametrize(("last", "told"), [("loading", True), ("ready", True), ("failed", False), ("stopped", False)])
def test_where_a_connection_holds_a_shard_its_end_is_the_runners(folder: Path, last: str, told: bool) -> None:
    async def test(place: Place) -> None:
        _, first = connection = await place.connect()
        await ask(*connection, line(state=last, hold=True, start_layer=0, end_layer=4))
        first.close()
        # A second shard comes and goes the same way: when its end is known, the first one's would be.
        _, second = connection = await place.connect()
        await ask(*connection, line(instance_id="witness", hold=True))
        second.close()
        await until(lambda: place.heard.states.count("failed") == (2 if told or last == "failed" else 1))

    of_it = [each for each in with_an_agent(folder, test).shards if each.instance_id == "llama-1"]
    assert [each.state for each in of_it] == [last, *(["failed"] if told else [])]
    if told:
        assert (of_it[-1].message, of_it[-1].start_layer, of_it[-1].end_layer) == (WENT_AWAY, 0, 4)


def test_a_connection_that_holds_nothing_may_end(folder: Path) -> None:
    async def test(place: Place) -> None:
        _, first = connection = await place.connect()
        await ask(*connection, line())
        first.close()
        _, second = connection = await place.connect()
        await ask(*connection, line(instance_id="witness", hold=True))
        second.close()
        await until(lambda: "failed" in place.heard.states)

    assert {each.instance_id for each in with_an_agent(folder, test).shards if each.state == "failed"} == {"witness"}


def test_a_runner_that_was_started_anew_takes_its_shard_over(folder: Path) -> None:
    async def test(place: Place) -> None:
        _, old = connection = await place.connect()
        await ask(*connection, line(hold=True))
        new = await place.connect()
        await ask(*new, line(hold=True, message="anew"))
        old.close()
        _, witness = connection = await place.connect()
        await ask(*connection, line(instance_id="witness", hold=True))
        witness.close()
        await until(lambda: "failed" in place.heard.states)

    assert {each.instance_id for each in with_an_agent(folder, test).shards if each.state == "failed"} == {"witness"}


def test_an_agent_that_ends_buries_nobody(folder: Path) -> None:
    async def test(place: Place) -> None:
        await ask(*await place.connect(), line(hold=True))

    assert with_an_agent(folder, test).states == ["ready"]
    assert not (folder / "a.sock").exists()


def test_where_nobody_named_a_path_an_agent_waits_for_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shardbus_agents.runners.server._RETRY_SECONDS", 0.02)
    path = folder / "a.sock"

    async def scenario() -> None:
        board = Board(NODE, Heard(), thresholds=Thresholds(), now=lambda: datetime.now(UTC))
        board.watch(snapshot_of(state("cuda-1")))
        other = listen(path)
        server = RunnerServer(path, board, is_named=False)
        running = asyncio.create_task(server.run())
        await until(lambda: "another agent listens" in caplog.text)
        server.close()
        assert path.exists()  # it is the other one's
        other.close()

        async def is_answered() -> bool:
            try:
                await asyncio.to_thread(report, path, **SAID)
            except AgentAwayError:
                return False
            return True

        await until(is_answered)
        running.cancel()
        await asyncio.wait({running})
        server.close()
        assert not path.exists()

    asyncio.run(scenario())
    assert caplog.text.count("another agent listens") == 1


RUNNER = """
import sys, time
from shardbus_agents.runners.client import RunningShard
with RunningShard("llama-1", "cuda-1", layers=(0, 4), path=sys.argv[1]) as shard:
    shard.ready(memory_used_bytes=700)
    time.sleep(60)
"""


def test_a_runner_that_is_killed_has_failed(folder: Path) -> None:
    async def test(place: Place) -> None:
        runner = await asyncio.create_subprocess_exec(sys.executable, "-c", RUNNER, str(place.path))
        try:
            await until(lambda: place.heard.states == ["ready"])
        finally:
            runner.kill()
            await runner.wait()
        await until(lambda: place.heard.states == ["ready", "failed"])

    heard = with_an_agent(folder, test)
    assert heard.shards[-1].message == WENT_AWAY
    assert heard.owed == ["cuda-1", "cuda-1"]


def test_the_client_says_how_its_block_ended(folder: Path) -> None:
    def run(path: Path, error: Exception | None) -> None:
        with RunningShard("llama-1", "cuda-1", path=path) as shard:
            shard.loading("half", memory_used_bytes=100)
            if error is not None:
                raise error

    async def test(place: Place) -> None:
        await asyncio.to_thread(run, place.path, None)
        await until(lambda: place.heard.states[-1:] == ["stopped"])
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(run, place.path, RuntimeError("no more"))
        await until(lambda: place.heard.states[-1:] == ["failed"])

    assert with_an_agent(folder, test).shards[-1].message == "RuntimeError: no more"


def test_the_client_says_again_what_it_said_to_an_agent_that_was_started_anew(folder: Path) -> None:
    async def test(place: Place) -> None:
        with RunningShard("llama-1", "cuda-1", path=place.path) as shard:
            shard.ready(memory_used_bytes=700)
            await until(lambda: len(place.heard.shards) == 1)
            await place.end()
            await place.begin()
            await until(lambda: len(place.heard.shards) == 2)
            await asyncio.to_thread(shard.__exit__, None, None, None)

    first, second, *_ = with_an_agent(folder, test).shards
    assert (first.state, first.memory_used_bytes) == (second.state, second.memory_used_bytes) == ("ready", 700)


def test_one_report_is_refused_with_the_agents_words(folder: Path) -> None:
    async def test(place: Place) -> None:
        with pytest.raises(ReportRefusedError, match="it has cuda-1, cuda-2"):
            await asyncio.to_thread(report, place.path, **{**SAID, "device": "cuda:9"})
        await asyncio.to_thread(report, place.path, **SAID)

    assert with_an_agent(folder, test).states == ["ready"]


def test_without_an_agent_a_report_says_where_it_was_looked_for(folder: Path) -> None:
    with pytest.raises(AgentAwayError, match=r"no agent answers at .*b\.sock"):
        report(folder / "b.sock", **SAID)


def test_a_file_in_the_drop_folder_is_a_report_and_its_end_the_shards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardbus_agents.runners.drop_folder._LOOK_SECONDS", 0.05)
    drop = folder / "a.d"
    drop.mkdir(mode=0o700)

    def put(name: str, text: bytes) -> None:
        (drop / f"{name}.new").write_bytes(text)
        (drop / f"{name}.new").rename(drop / f"{name}.json")

    put("garbage", b"{")
    put("long", b" " * (LONGEST_LINE_BYTES + 1))
    os.mkfifo(drop / "pipe.json")
    put("shard", line(state="loading"))

    async def test(place: Place) -> None:
        await until(lambda: place.heard.states == ["loading"])
        put("shard", line(memory_used_bytes=600))
        await until(lambda: place.heard.states == ["loading", "ready"])
        (drop / "shard.json").unlink()
        await until(lambda: place.heard.states == ["loading", "ready", "stopped"])

    with_an_agent(folder, test)


def test_a_socket_is_its_users_alone_and_so_is_a_folder_that_was_made_for_it(folder: Path) -> None:
    path = folder / "new" / "a.sock"
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_a_dead_agent_left_is_replaced(folder: Path) -> None:
    path = folder / "a.sock"
    with listen(path):
        pass
    assert path.exists()
    with listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_living_agents_socket_is_left_alone(folder: Path) -> None:
    path = folder / "a.sock"
    with listen(path), socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(RunnerSocketInUseError, match=r"another agent listens at .*a\.sock: stop it, or name"):
            listen(path)
        client.connect(str(path))


def test_a_socket_of_another_kind_of_server_that_is_busy_is_left_alone(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(str(path))
        with pytest.raises(RunnerSocketInUseError):
            listen(path)
        for each in waiting:
            each.close()
    assert path.exists()


def test_a_file_is_not_taken_for_a_socket(folder: Path) -> None:
    path = folder / "notes.txt"
    path.write_text("keep me")
    with pytest.raises(RunnerSocketError, match=r"notes\.txt is there and is no socket"):
        listen(path)
    assert path.read_text() == "keep me"


def test_where_others_may_write_nobody_listens(folder: Path) -> None:
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(RunnerSocketError, match="others may write there"):
        listen(shared / "a.sock")


def test_a_path_that_is_too_long_says_so_and_a_nodes_own_never_is(folder: Path) -> None:
    with pytest.raises(RunnerSocketError, match="at most 103 bytes"):
        listen(folder / ("x" * 120))
    assert len(os.fsencode(default_socket(NodeId("n" * 200)))) <= 103


def test_a_runner_finds_its_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr("platform.node", lambda: "attic")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder / "tmp"))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(AgentAwayError, match="no agent's socket is in"):
        find_socket()
    ours = folder / "shardbus"
    ours.mkdir()
    (ours / "den.sock").touch()
    assert find_socket() == ours / "den.sock"
    (ours / "desk.sock").touch()
    with pytest.raises(AgentAwayError, match="several agents"):
        find_socket()
    (ours / "attic.sock").touch()
    assert find_socket() == ours / "attic.sock" == default_socket(NODE)
    monkeypatch.setenv("SHARDBUS_RUNNER_SOCKET", "/elsewhere/a.sock")
    assert find_socket() == Path("/elsewhere/a.sock")


def test_the_client_is_one_file_that_needs_nothing() -> None:
    client = Path(sys.modules[RunningShard.__module__].__file__ or "")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"exec(open({str(client)!r}).read()); print(RunningShard.__name__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "RunningShard"), done.stderr
