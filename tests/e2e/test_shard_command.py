"""``shardbus shard`` and the agent of this node: from a shell to the stream."""

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shardbus_infra.bus import nats
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas.events import ShardReported
from support.command_line import Running, running, shardbus, shardbus_here
from support.waiting import until_sync

INSTANCE = "llama-3.1-8b-3f9c"


def reported(url: str) -> list[ShardReported]:
    """Return what the stream holds of shards."""

    async def read() -> list[Any]:
        bus = await nats.connect(url, name="test shard command")
        try:
            last = (await bus.info(FLEET)).last_sequence
            stored = [await bus.get(FLEET, sequence) for sequence in range(1, last + 1)]
        finally:
            await bus.close()
        return [receive(each).message for each in stored if each is not None]

    return [message for message in asyncio.run(read()) if isinstance(message, ShardReported)]


@pytest.fixture
def agent(nats_url: str, folder_for_servers: Path) -> Iterator[tuple[Running, Path]]:
    """An agent of this host with the processor alone, and its runners' socket."""
    path = folder_for_servers / "runners.sock"
    told = {"SHARDBUS_RUNNER_SOCKET": str(path), "SHARDBUS_BACKENDS": '["psutil"]', "SHARDBUS_NATS_URL": nats_url}
    log = folder_for_servers / "agent.log"
    with running("agent", "--node-id", "attic", log=log, **told) as started:
        until_sync(path.exists, within=30, what=f"the socket of the agent, see {log}")
        yield started, path


@pytest.mark.connected
def test_what_a_shell_says_is_on_the_stream(agent: tuple[Running, Path], nats_url: str) -> None:
    started, path = agent
    flags = ("--memory", "7.5GiB", "--layers", "0-15", "--socket", str(path))
    done = shardbus("shard", "ready", INSTANCE, "cpu", *flags)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    until_sync(lambda: reported(nats_url))
    (shard,) = reported(nats_url)
    assert (shard.instance_id, shard.node_id, shard.device_id, shard.state) == (INSTANCE, "attic", "cpu", "ready")
    assert (shard.memory_used_bytes, shard.start_layer, shard.end_layer) == (8_053_063_680, 0, 16)

    # A runtime that holds a connection and is gone without a word has failed.
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect(str(path))
        line = {"instance_id": "gone", "device": "cpu", "state": "loading", "hold": True}
        runtime.sendall(json.dumps(line).encode() + b"\n")
        assert json.loads(runtime.recv(1000)) == {"ok": True}
    until_sync(lambda: [each.state for each in reported(nats_url) if each.instance_id == "gone"][-1:] == ["failed"])

    refused = shardbus_here("shard", "failed", INSTANCE, "cuda:0", "--socket", str(path))
    assert refused.returncode == 2
    assert refused.stderr == "shardbus: the agent does not take this: device: this node has no 'cuda:0'; it has cpu\n"

    second = shardbus(
        "agent", "--node-id", "den", SHARDBUS_RUNNER_SOCKET=str(path), SHARDBUS_NATS_URL=nats_url, within=30
    )
    assert second.returncode == 4
    assert f"another agent listens at {path}: stop it, or name another place" in second.stderr
    assert "Traceback" not in second.stderr

    assert started.stop() == 0, started.said
    assert not path.exists()
    away = shardbus_here("shard", "stopped", INSTANCE, "cpu", "--socket", str(path))
    assert away.returncode == 5
    assert f"no agent answers at {path}" in away.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--layers", "15"), "--layers 15: write the first and the last layer, such as 0-15"),
        (("--layers", "7-3"), "--layers 7-3: "),
        (("--memory", "much"), "--memory 'much': write an amount of memory such as 48GiB"),
        (("--memory", "7.5Gib"), "did you mean GiB?"),
    ],
)
def test_a_slip_of_the_hand_is_said_before_anybody_is_told(flags: tuple[str, ...], told: str) -> None:
    done: subprocess.CompletedProcess[str] = shardbus_here("shard", "ready", INSTANCE, "cpu", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
