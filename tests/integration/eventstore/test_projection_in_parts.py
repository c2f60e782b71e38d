"""``TELEMETRY`` projected in two parts gives what it gives whole, whoever dies when."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from shardbus_eventstore.errors import SharingError
from shardbus_eventstore.projector import run
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.port import Bus, Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import TELEMETRY
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, GPUBandwidthMeasured, NodeJoined
from shardbus_schemas.model import FrozenModel
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.histories import START, reading
from support.projecting import (
    assert_read_model_is_the_fold,
    bus_with_streams,
    caught_up,
    positions,
    projector,
    settings_for,
)
from support.waiting import until

pytestmark = pytest.mark.connected

NODES = 6
HALF: dict[str, Any] = {"projector_partitions": 2, "projector_partitions_held": 1}


def introductions() -> Sequence[FrozenModel]:
    return [
        event
        for node in range(NODES)
        for event in (
            NodeJoined(node_id=f"n{node}", boot_id="b", heartbeat_seconds=10),
            *(DeviceRegistered(node_id=f"n{node}", device=DeviceFacts(device_id=f"g{device}")) for device in range(2)),
        )
    ]


def telemetry(numbers: range, seed: random.Random) -> Sequence[FrozenModel]:
    """Return ticks, some of them twice, and links."""
    said: list[FrozenModel] = []
    for number in numbers:
        node = f"n{seed.randrange(NODES)}"
        states = tuple(reading(f"g{device}", node, memory_used_bytes=seed.randrange(2**34)) for device in range(2))
        said += [DeviceGPUStateUpdated(node_id=node, boot_id="b", tick=number, states=states)] * seed.choice([1, 1, 2])
        if number % 5 == 0:
            link = {"from": node, "to": "m", "bandwidth_bytes_per_second": 1e9 + number, "latency_seconds": 0.001}
            said.append(GPUBandwidthMeasured.model_validate({**link, "measured_at": START}))
    return said


async def say(bus: Bus, messages: Sequence[FrozenModel]) -> None:
    await bus.append_many(
        [outgoing(message, source="test", event_id=str(id(message)), occurred_at=START) for message in messages]
    )


def rows(postgres_url: str) -> dict[str, int]:
    """Return the position of each part; nothing while there are no tables."""
    with contextlib.suppress(DBAPIError), open_engine(postgres_url).connect() as connection:
        found = connection.execute(text("SELECT projection, sequence FROM checkpoints WHERE stream = 'TELEMETRY'"))
        return {row.projection: row.sequence for row in found}
    return {}


def epochs(postgres_url: str) -> list[int]:
    """Return how often each part was taken; nothing while there are no tables."""
    with contextlib.suppress(DBAPIError), open_engine(postgres_url).connect() as connection:
        return list(connection.scalars(text("SELECT epoch FROM checkpoints WHERE stream = 'TELEMETRY'")))
    return []


@contextlib.contextmanager
def projector_process(nats_url: str, postgres_url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a projector of one of two parts as a process of its own; it is killed at the end."""
    settings = {"SHARDBUS_PROJECTOR_PARTITIONS": "2", "SHARDBUS_PROJECTOR_PARTITIONS_HELD": "1"}
    command = [sys.executable, "-m", "shardbus_console", "projector", "--nats-url", nats_url]
    process = subprocess.Popen(
        [*command, "--postgres-url", postgres_url],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


PARTS = {"TELEMETRY/0of2", "TELEMETRY/1of2"}


@pytest.mark.slow
def test_two_processes_share_the_nodes_and_give_the_fold_though_they_are_killed(
    nats_url: str, postgres_url: str
) -> None:
    async def scenario() -> None:
        seed = random.Random(5)
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions())
            flowing = asyncio.create_task(flow(bus, seed))
            # A third for two parts stands by, and takes over from who is killed: the oldest, which holds one.
            with contextlib.ExitStack() as stack:
                running = [stack.enter_context(projector_process(nats_url, postgres_url)) for _ in range(2)]
                for taken in range(2, 6):
                    await until(
                        lambda taken=taken: sum(epochs(postgres_url)) >= taken and rows(postgres_url).keys() == PARTS,
                        within=60,
                        what="each part to be held by somebody",
                    )
                    running.append(stack.enter_context(projector_process(nats_url, postgres_url)))
                    await asyncio.sleep(seed.uniform(0, 0.2))  # so that it dies anywhere in what it does
                    running.pop(0).send_signal(signal.SIGKILL)
                await until(lambda: sum(epochs(postgres_url)) >= 6, within=60, what="the last one to be succeeded")
                flowing.cancel()
                await asyncio.gather(flowing, return_exceptions=True)
                await caught_up(bus, postgres_url, within=60)
            assert set(rows(postgres_url)) == PARTS
            await assert_read_model_is_the_fold(bus, postgres_url)
        with open_engine(postgres_url).connect() as connection:
            (checkpoint,) = [row for row in queries.checkpoints(connection) if row.stream == TELEMETRY]
        assert checkpoint.parts == 2
        assert checkpoint.epoch > 2, "somebody took over from who was killed"

    async def flow(bus: Bus, seed: random.Random) -> None:
        for number in itertools.count(0, 10):
            await say(bus, telemetry(range(number, number + 10), seed))
            await bus.append(Outgoing(f"shardbus.v1.telemetry.n{number % NODES}", b"nonsense", {}))
            await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_what_is_read_is_as_of_the_part_that_is_behind(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions())
            async with projector(bus, postgres_url, **HALF):
                await say(bus, telemetry(range(20), random.Random(6)))
                end = (await bus.info(TELEMETRY)).last_sequence
                await until(lambda: end in rows(postgres_url).values(), what="one part to come to the end")
                assert sorted(rows(postgres_url).values()) == [0, end]
                assert TELEMETRY not in positions(postgres_url), "nothing is there for all nodes yet"
                async with projector(bus, postgres_url, **HALF):
                    await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


def test_the_number_of_parts_changes_where_all_stand_at_one_message(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        seed = random.Random(7)
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions())
            for step, of in enumerate((1, 2, 3, 1)):
                async with projector(bus, postgres_url, projector_partitions=of):
                    await say(bus, telemetry(range(step * 20, step * 20 + 20), seed))
                    await caught_up(bus, postgres_url)
                    assert len(rows(postgres_url)) == of
                    with pytest.raises(SharingError, match=f"projected in {of} by a projector that runs"):
                        await refused(bus, postgres_url, projector_partitions=of + 1)
                folded = await assert_read_model_is_the_fold(bus, postgres_url)
            with open_engine(postgres_url).connect() as connection:
                (checkpoint,) = [row for row in queries.checkpoints(connection) if row.stream == TELEMETRY]
            assert checkpoint.ignored == folded.ignored[TELEMETRY]

    asyncio.run(scenario())


def test_another_number_of_parts_is_refused_while_they_stand_apart(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions())
            async with projector(bus, postgres_url, **HALF):
                await say(bus, telemetry(range(20), random.Random(8)))
                end = (await bus.info(TELEMETRY)).last_sequence
                await until(lambda: end in rows(postgres_url).values(), what="one part to come to the end")
            with pytest.raises(SharingError, match=r"cannot go on in 1 .*TELEMETRY/.of2 at 0.*`shardbus replay`"):
                await refused(bus, postgres_url)
            async with projector(bus, postgres_url, projector_partitions=2):
                await caught_up(bus, postgres_url)
            async with projector(bus, postgres_url):
                await until(lambda: set(rows(postgres_url)) == {"TELEMETRY"}, what="one projector to go on with all")
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


async def refused(bus: Bus, postgres_url: str, **values: object) -> None:
    await asyncio.wait_for(run(bus, settings_for(postgres_url, **values), asyncio.Event()), 20)
