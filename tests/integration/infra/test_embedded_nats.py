"""The embedded NATS server: what it promises, and what it says when it can not."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from importlib import metadata
from pathlib import Path

import pytest
from nats.js.api import StreamConfig
from shardbus_infra.embedded import nats as embedded_nats
from shardbus_infra.embedded.nats import EmbeddedNats, answers, find_binary
from shardbus_infra.embedded.ports import free_port
from shardbus_infra.embedded.process import command_line
from shardbus_infra.errors import DataFolderError, DataFolderInUseError, EmbeddedServerError, PortInUseError
from support.jetstream import jetstream
from support.other_user import not_as_root
from support.waiting import until_sync

pytestmark = pytest.mark.connected


def append_one(url: str) -> None:
    async def scenario() -> None:
        async with jetstream(url) as context:
            await context.add_stream(StreamConfig(name="KEPT", subjects=["kept"]))  # pyright: ignore[reportUnknownMemberType] -- untyped options
            await context.publish("kept", b"1")

    asyncio.run(scenario())


def kept(url: str) -> int:
    async def scenario() -> int:
        async with jetstream(url) as context:
            return (await context.stream_info("KEPT")).state.messages

    return asyncio.run(scenario())


def test_what_is_acknowledged_is_on_disk_first(folder_for_servers: Path) -> None:
    monitoring = free_port()
    with (
        EmbeddedNats(folder_for_servers / "nats", monitoring_port=monitoring, max_file_bytes=123_000_000),
        urllib.request.urlopen(f"http://127.0.0.1:{monitoring}/jsz?config=1") as page,
    ):
        config = json.load(page)["config"]
    assert config["sync_always"] is True
    assert config["max_storage"] == 123_000_000


def test_only_this_machine_can_connect(folder_for_servers: Path) -> None:
    with EmbeddedNats(folder_for_servers / "nats") as server:
        outside = next((a for a in socket.gethostbyname_ex(socket.gethostname())[2] if not a.startswith("127.")), None)
        assert server.url.startswith("nats://127.0.0.1:")
        if outside:
            with pytest.raises(OSError), socket.create_connection((outside, server.port), timeout=1):  # noqa: PT011
                pass


def test_a_used_port_is_refused_with_its_number_and_its_holder(folder_for_servers: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError) as refused:
            EmbeddedNats(folder_for_servers / "nats", port=port).start()
    assert str(port) in str(refused.value)
    if sys.platform == "linux":
        assert f"process {os.getpid()} " in str(refused.value)
    EmbeddedNats(folder_for_servers / "nats").start().stop()  # the refusal left no lock


def test_a_second_server_on_the_folder_is_refused_and_the_first_lives_on(folder_for_servers: Path) -> None:
    with EmbeddedNats(folder_for_servers / "nats") as first:
        append_one(first.url)
        with pytest.raises(DataFolderInUseError, match=rf"process {os.getpid()} .*SHARDBUS_DATA_DIR"):
            EmbeddedNats(folder_for_servers / "nats").start()
        assert kept(first.url) == 1


OWNER = """
import sys, time
from pathlib import Path
from shardbus_infra.embedded.nats import EmbeddedNats
server = EmbeddedNats(Path(sys.argv[1])).start()
print(server.pid, server.url, flush=True)
time.sleep(600)
"""


def test_a_killed_owner_leaves_no_server_and_no_lock_and_no_loss(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "nats"
    with subprocess.Popen([sys.executable, "-c", OWNER, folder], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        pid, url = owner.stdout.readline().split()
        append_one(url)
        owner.kill()
    if sys.platform == "linux":
        until_sync(lambda: command_line(int(pid)) == "", what="the server to die with its owner")
    with EmbeddedNats(folder) as server:
        assert server.pid != int(pid)
        assert kept(server.url) == 1


def test_a_server_left_behind_is_stopped_before_the_next_starts(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "nats"
    with EmbeddedNats(folder) as server:
        append_one(server.url)
    # As after the kill of an owner on a system that can not tie a child's life to its parent's.
    with subprocess.Popen([find_binary(), "-c", folder / "server.conf"], stderr=subprocess.DEVNULL) as left_behind:
        try:
            until_sync(lambda: answers(server.port, name=f"{name_in(folder)}"), what="the server left behind")
            (folder / "server.pid").write_text(f"{left_behind.pid}\n")
            with EmbeddedNats(folder) as next_server:
                assert left_behind.wait(5) is not None
                assert kept(next_server.url) == 1
        finally:
            left_behind.kill()


def name_in(folder: Path) -> str:
    lines = (folder / "server.conf").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("server_name:"))


def test_a_stale_pid_file_costs_no_innocent_process_its_life(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "nats"
    EmbeddedNats(folder).start().stop()
    with subprocess.Popen(["sleep", "600"]) as innocent:
        (folder / "server.pid").write_text(f"{innocent.pid}\n")
        EmbeddedNats(folder).start().stop()
        assert innocent.poll() is None
        innocent.kill()


def test_a_folder_that_can_not_be_written_is_refused(folder_for_servers: Path) -> None:
    def piece() -> None:
        closed = folder_for_servers / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(
            DataFolderError, match=rf"can not write to the data folder {closed}/nats.*Permission denied"
        ):
            EmbeddedNats(closed / "nats").start()

    not_as_root(folder_for_servers, piece)


def test_a_folder_below_a_file_is_refused(folder_for_servers: Path) -> None:
    (folder_for_servers / "file").touch()
    with pytest.raises(DataFolderError, match="can not write to the data folder"):
        EmbeddedNats(folder_for_servers / "file" / "nats").start()
    with pytest.raises(DataFolderError, match="is a file"):
        EmbeddedNats(folder_for_servers / "file").start()


def test_it_runs_for_a_user_who_is_not_root(folder_for_servers: Path) -> None:
    def piece() -> None:
        with EmbeddedNats(folder_for_servers / "nats") as server:
            append_one(server.url)
            assert kept(server.url) == 1

    not_as_root(folder_for_servers, piece)


def test_a_server_that_dies_at_its_start_says_why(folder_for_servers: Path) -> None:
    folder = folder_for_servers / "nats"
    EmbeddedNats(folder).start().stop()
    (folder / "jetstream").rename(folder / "elsewhere")
    (folder / "jetstream").write_text("not a folder")
    with pytest.raises(EmbeddedServerError, match=r"ended right after its start(.|\n)*storage"):
        EmbeddedNats(folder).start()
    (folder / "jetstream").unlink()
    EmbeddedNats(folder).start().stop()


def test_without_the_wheel_an_old_server_on_path_is_named_and_refused(
    folder_for_servers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(embedded_nats.metadata, "files", missing)
    monkeypatch.setenv("PATH", str(folder_for_servers))
    with pytest.raises(EmbeddedServerError, match=r"shardbus\[embedded\]"):
        find_binary()
    old = folder_for_servers / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match=r"nats-server is version 2\.9\.10, too old"):
        find_binary()
    old.write_text("#!/bin/sh\necho nats-server: v2.12.0\n")
    assert find_binary() == old


def test_a_polite_signal_to_the_server_itself_is_noticed(folder_for_servers: Path) -> None:
    with EmbeddedNats(folder_for_servers / "nats") as server:
        assert server.pid
        os.kill(server.pid, signal.SIGTERM)
        until_sync(lambda: server.pid is None, what="the end of the server")
        server.start()
        assert server.pid


def test_a_server_outlives_the_thread_that_started_it(folder_for_servers: Path) -> None:
    server = EmbeddedNats(folder_for_servers / "nats")
    starting = threading.Thread(target=server.start)
    starting.start()
    starting.join()
    try:
        append_one(server.url)
        assert kept(server.url) == 1
    finally:
        server.stop()


def test_an_owner_that_forgets_to_stop_its_server_leaves_none(folder_for_servers: Path) -> None:
    forgetful = OWNER.replace("time.sleep(600)", "")
    done = subprocess.run(
        [sys.executable, "-c", forgetful, folder_for_servers / "nats"], capture_output=True, text=True, check=True
    )
    assert command_line(int(done.stdout.split()[0])) == ""
    assert "Server Exiting" in (folder_for_servers / "nats" / "server.log").read_text()
