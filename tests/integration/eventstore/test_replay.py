"""Rebuilding the read model beside the live one, and the switch."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path

import pytest
from shardbus_eventstore import replay as replaying
from shardbus_eventstore.carry_over import SHADOW
from shardbus_eventstore.errors import (
    EventStoreError,
    HistoryDivergedError,
    ReadModelInUseError,
    ReplayError,
    ReplayRunsError,
    SchemaError,
)
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import LIVE, open_engine, snapshot
from shardbus_eventstore.replay import Progress, Replayed, Watch, rehearse, replay
from shardbus_eventstore.shadow import REPLACED, only_replay
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, GPUBandwidthMeasured, NodeJoined
from shardbus_schemas.model import FrozenModel
from sqlalchemy import text
from support.command_line import running
from support.histories import START, reading
from support.projecting import (
    assert_read_model_is_the_fold,
    bus_with_streams,
    caught_up,
    projector,
    settings_for,
)
from support.waiting import until

pytestmark = pytest.mark.connected

NODES, DEVICES = 4, 3


def introductions() -> Sequence[FrozenModel]:
    return [
        event
        for node in range(NODES)
        for event in (
            NodeJoined(node_id=f"n{node}", boot_id="b", heartbeat_seconds=10),
            *(
                events.DeviceRegistered(node_id=f"n{node}", device=DeviceFacts(device_id=f"g{device}"))
                for device in range(DEVICES)
            ),
        )
    ]


def ticks(first: int, last: int, *, nodes: int = NODES) -> Sequence[FrozenModel]:
    return [
        DeviceGPUStateUpdated(
            node_id=f"n{number % nodes}",
            boot_id="b",
            tick=number,
            states=tuple(
                reading(f"g{device}", f"n{number % nodes}", memory_used_bytes=number) for device in range(DEVICES)
            ),
        )
        for number in range(first, last)
    ]


def link(to_node: str) -> GPUBandwidthMeasured:
    found = {"from": "n0", "to": to_node, "bandwidth_bytes_per_second": 1e9, "latency_seconds": 0.001}
    return GPUBandwidthMeasured.model_validate({**found, "measured_at": START})


async def say(bus: Bus, messages: Sequence[FrozenModel]) -> None:
    await bus.append_many(
        [outgoing(message, source="test", event_id=str(random.random()), occurred_at=START) for message in messages]
    )


@contextlib.asynccontextmanager
async def projected_fleet(nats_url: str, postgres_url: str, *, ticked: int = 200) -> AsyncGenerator[Bus]:
    """Yield a bus whose streams are in the read model; nobody projects any more."""
    async with bus_with_streams(nats_url) as bus:
        await say(bus, introductions())
        await say(bus, [*ticks(0, ticked), link("n1")])
        await bus.append(outgoing_nonsense())
        async with projector(bus, postgres_url):
            await until(lambda: dead_letters(postgres_url) == 1)
            await caught_up(bus, postgres_url)
        yield bus


def outgoing_nonsense():  # noqa: ANN201 -- short
    ready = outgoing(link("n1"), source="test", event_id="nonsense", occurred_at=START)
    return type(ready)(ready.subject, b"nonsense", ready.headers, None)


def dead_letters(postgres_url: str) -> int:
    return int(scalar(postgres_url, "SELECT count(*) FROM dead_letters")) if LIVE in schemas(postgres_url) else 0


def scalar(postgres_url: str, query: str, schema: str = LIVE) -> object:
    with open_engine(postgres_url, schema=schema).connect() as connection:
        return connection.scalar(text(query))


def execute(postgres_url: str, *statements: str) -> None:
    with open_engine(postgres_url).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def schemas(postgres_url: str) -> set[str]:
    query = "SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE nspname LIKE 'shardbus%'"
    return set(str(scalar(postgres_url, query) or "").split())


def test_the_rebuilt_read_model_is_the_fold_and_takes_the_place_of_the_live_one(
    nats_url: str, postgres_url: str
) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            execute(
                postgres_url, "UPDATE nodes SET hostname = 'wrong'", "DELETE FROM device_history WHERE sequence = 7"
            )
            seen: list[Sequence[Progress]] = []
            watch = Watch()
            watch.progress = seen.append
            done = await replay(bus, settings_for(postgres_url), watch=watch)
            assert done.messages == 16 + 202 + 1
            assert (done.switched, done.resumed) == (True, False)
            assert done.positions == {FLEET: 16, TELEMETRY: 202, DEAD: 1}
            assert {each.stream: each.sequence for each in seen[-1]} == done.positions
            assert schemas(postgres_url) == {LIVE}
            await assert_read_model_is_the_fold(bus, postgres_url)
            # And whoever projects next goes on where the replay ended.
            async with projector(bus, postgres_url):
                await say(bus, ticks(200, 210))
                await caught_up(bus, postgres_url)
                await assert_read_model_is_the_fold(bus, postgres_url)
            assert (await bus.info(DEAD)).last_sequence == 1, "a replay buries nothing"

    asyncio.run(scenario())


def test_a_replay_fills_an_empty_database(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions())
            await say(bus, ticks(0, 10))
            assert (await replay(bus, settings_for(postgres_url))).positions == {FLEET: 16, TELEMETRY: 10}
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


class Readers:
    """Readers in a loop, with prepared statements and in long transactions, each looking for a step back."""

    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url
        self._stop = threading.Event()
        self.errors: list[object] = []
        self.reads = 0

    @contextlib.contextmanager
    def reading(self) -> Generator[None]:
        threads = [threading.Thread(target=self._guarded, args=(each,)) for each in (self._prepared, self._console)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _guarded(self, read: Callable[[], None]) -> None:
        try:
            read()
        except Exception as error:  # noqa: BLE001 -- any at all is what the test looks for
            self.errors.append(error)

    def _seen(self, before: int, now: int, least: int = 0) -> int:
        if now < max(before, least):
            self.errors.append(f"{now} after {before}, {least}")
        self.reads += 1
        return max(before, now)

    def _prepared(self) -> None:
        import psycopg  # noqa: PLC0415 -- for this reader alone

        address = open_engine(self._url).url.set(drivername="postgresql").render_as_string(hide_password=False)
        position = 0
        with psycopg.connect(address, autocommit=True, options="-c search_path=shardbus") as connection:
            while not self._stop.is_set():
                # The newest reading and the position are of one statement: the one must not be without the other.
                row = connection.execute(
                    "SELECT max(checkpoints.sequence), count(*), (SELECT max(sequence) FROM device_history) "
                    "FROM checkpoints WHERE stream = 'TELEMETRY'",
                    prepare=True,
                ).fetchone()
                assert row is not None
                assert row[1] == 1
                position = self._seen(position, row[0], row[2])

    def _console(self) -> None:
        engine, position = open_engine(self._url), 0
        while not self._stop.is_set():
            with snapshot(engine) as connection:
                (first,) = [each.sequence for each in queries.checkpoints(connection) if each.stream == TELEMETRY]
                assert len(queries.devices(connection, START)) == NODES * DEVICES
                queries.activity(connection)
                queries.dead_letters(connection)
                (again,) = [each.sequence for each in queries.checkpoints(connection) if each.stream == TELEMETRY]
                if first != again:
                    self.errors.append(f"one transaction saw {first} and {again}")
                position = self._seen(position, first)


def test_readers_and_a_projector_go_on_over_the_switch(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus, projector(bus, postgres_url) as projecting:
            publishing = asyncio.create_task(flow(bus))
            readers = Readers(postgres_url)
            with readers.reading():
                for _ in range(3):
                    done = await replay(bus, settings_for(postgres_url))
                    assert done.switched
                    before = readers.reads
                    await until(lambda before=before: readers.reads > before + 20, what="readers")
            publishing.cancel()
            await asyncio.wait([publishing])
            assert readers.errors == []
            assert not projecting.done()
            await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)
            assert scalar(postgres_url, "SELECT count(*) FROM gaps") == 0
            assert schemas(postgres_url) == {LIVE}

    async def flow(bus: Bus) -> None:
        number = 1000
        while True:
            await say(bus, ticks(number, number + 5))
            number += 5
            await asyncio.sleep(0.005)

    asyncio.run(scenario())
