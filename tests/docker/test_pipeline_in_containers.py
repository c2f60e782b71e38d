"""The processes as a person starts them, on servers in containers: a command goes in, the read model has the answer."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.reconcile import reconcile
from shardbus_schemas import subjects
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from shardbus_schemas.telemetry import DeviceGPUState
from sqlalchemy import Engine
from support.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]

GIGABYTE = 10**9
COMMAND = b'{"model_id": "llama-3.1-8b", "command_id": "from-a-bare-client"}'
TOO_MUCH = b'{"model_id": "llama-3.1-8b", "context_tokens": 20000, "concurrency": 8, "command_id": "too-much"}'


@contextmanager
def process(name: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``shardbus NAME`` and stop it as a person does."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "shardbus_console", name],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


async def play_a_node(nats_url: str) -> None:
    """Say what an agent would say of a node with one device, then send two commands as a bare client would."""
    bus = await connect(nats_url, name="docker-test")
    try:
        await reconcile(bus)
        device = DeviceFacts(
            device_id="gpu-0",
            name="NVIDIA GeForce RTX 4090",
            backend="cuda",
            memory_total_bytes=24 * GIGABYTE,
            memory_bandwidth_bytes_per_second=1.008e12,
        )
        state = DeviceGPUState(
            device_id="gpu-0",
            node_id="container-node",
            memory_used_bytes=GIGABYTE,
            memory_total_bytes=24 * GIGABYTE,
            last_update=datetime.now(UTC),
        )
        joined = NodeJoined(node_id="container-node", boot_id="b", heartbeat_seconds=600)
        await publish(bus, joined, source="agent/container-node")
        await publish(bus, DeviceRegistered(node_id="container-node", device=device), source="agent/container-node")
        tick = DeviceGPUStateUpdated(node_id="container-node", boot_id="b", tick=0, heartbeat=True, states=(state,))
        await publish(bus, tick, source="agent/container-node")
        for payload in (COMMAND, TOO_MUCH):
            await bus.append(Outgoing(subjects.command("place"), payload))
    finally:
        await bus.close()


def answers(engine: Engine) -> bool:
    """Return whether the read model has both answers."""
    with engine.connect() as connection:
        return bool(queries.instances(connection)) and bool(queries.refusals(connection))


def test_a_bare_command_is_placed_and_read_back_and_an_impossible_one_refused(
    nats_container: str, postgres_container: str, tmp_path: Path
) -> None:
    environment = {"SHARDBUS_NATS_URL": nats_container, "SHARDBUS_POSTGRES_URL": postgres_container}
    engine = open_engine(postgres_container)
    asyncio.run(play_a_node(nats_container))
    with (
        process("projector", tmp_path / "projector.log", **environment) as projector,
        process("placer", tmp_path / "placer.log", **environment) as placer,
    ):

        def settled() -> bool:
            for name, running in (("projector", projector), ("placer", placer)):
                assert running.poll() is None, (tmp_path / f"{name}.log").read_text()
            return migrated(engine) and answers(engine)

        asyncio.run(until(settled, within=60, what="both answers in the read model"))
    with engine.connect() as connection:
        (instance,) = [i for i in queries.instances(connection) if i.command_id == "from-a-bare-client"]
        assert instance.status == "placed"
        assert [shard.device for shard in instance.shards] == ["container-node/gpu-0"]
        assert instance.shards[0].memory_bytes < 23 * GIGABYTE
        (refusal,) = [r for r in queries.refusals(connection) if r.command_id == "too-much"]
        assert refusal.code == "insufficient_memory"
        assert refusal.missing_bytes
        (device,) = [d for d in queries.devices(connection, datetime.now(UTC)) if d.key == "container-node/gpu-0"]
        assert device.device.memory_used_bytes == GIGABYTE
    engine.dispose()
    assert (projector.returncode, placer.returncode) == (0, 0), [log.read_text() for log in tmp_path.glob("*.log")]


def migrated(engine: Engine) -> bool:
    """Return whether the projector has made its tables."""
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql("select to_regclass('instances') is not null").scalar())
