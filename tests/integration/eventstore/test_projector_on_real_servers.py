"""The projector on a real NATS and a real Postgres."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from shardbus_eventstore.errors import DatabaseUnreachableError, HistoryDivergedError, HistoryLostError
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.projector import run
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Bus, Outgoing, StreamInfo
from shardbus_infra.bus.publish import outgoing, publish
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined
from shardbus_schemas.model import FrozenModel
from sqlalchemy import Engine, text
from support.histories import START, reading
from support.jetstream import jetstream
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

NODES = 4
DEVICES = 3
DEATHS = 6


def introductions() -> Sequence[FrozenModel]:
    return [
        event
        for node in range(NODES)
        for event in (
            NodeJoined(node_id=f"n{node}", boot_id="b", heartbeat_seconds=10, labels={"rack": str(node)}),
            *(
                events.DeviceRegistered(
                    node_id=f"n{node}", device=DeviceFacts(device_id=f"g{device}", peak_flops={"float16": 71e12})
                )
                for device in range(DEVICES)
            ),
        )
    ]


def tick(number: int, seed: random.Random) -> DeviceGPUStateUpdated:
    node = f"n{seed.randrange(NODES)}"
    chosen = seed.sample(range(DEVICES), seed.randint(1, DEVICES))
    states = [reading(f"g{device}", node, memory_used_bytes=seed.randrange(2**34)) for device in chosen]
    return DeviceGPUStateUpdated(node_id=node, boot_id="b", tick=number, states=tuple(states))


async def say(bus: Bus, messages: Sequence[FrozenModel]) -> None:
    await bus.append_many(
        [outgoing(message, source="test", event_id=f"{id(message)}", occurred_at=START) for message in messages]
    )


def test_the_read_model_is_the_fold_of_the_streams(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        seed = random.Random(1)
        async with bus_with_streams(nats_url) as bus, projector(bus, postgres_url):
            await say(bus, introductions())
            await say(bus, [tick(number, seed) for number in range(500)])
            await say(bus, [tick(400, seed), events.DeviceLost(node_id="n1", device_id="g1", reason="hangs")])
            await caught_up(bus, postgres_url)
            state = await assert_read_model_is_the_fold(bus, postgres_url)
            assert len(state.device_states) == NODES * DEVICES
            assert sum(heard.repeated_ticks for heard in state.node_heard.values()) == 1

    asyncio.run(scenario())


FAILPOINTS = """
CREATE FUNCTION fail_sometimes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < TG_ARGV[0]::float THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER fail AFTER UPDATE ON checkpoints FOR EACH STATEMENT EXECUTE FUNCTION fail_sometimes(0.15);
CREATE TRIGGER fail AFTER INSERT ON device_history FOR EACH STATEMENT EXECUTE FUNCTION fail_sometimes(0.05);
CREATE TRIGGER fail AFTER INSERT ON device_states FOR EACH STATEMENT EXECUTE FUNCTION fail_sometimes(0.05);
CREATE TRIGGER fail AFTER INSERT ON devices FOR EACH STATEMENT EXECUTE FUNCTION fail_sometimes(0.05);
CREATE CONSTRAINT TRIGGER fail_at_commit AFTER UPDATE ON checkpoints DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fail_sometimes(0.15);
"""
"""The connection is cut at random: after the position moved, between the rows, and in the commit itself."""


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_comes_twice_when_projectors_die(nats_url: str, postgres_url: str) -> None:
    """Projectors are stopped and cut off in the middle of what they do, at random, while messages flow."""
    upgrade(postgres_url)
    with open_engine(postgres_url).begin() as connection:
        connection.execute(text(FAILPOINTS))

    async def scenario() -> None:
        seed = random.Random(2)
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions())
            enough = asyncio.Event()
            flowing = asyncio.create_task(flow(bus, seed, enough))
            for _ in range(DEATHS):
                before = max(epochs(postgres_url), default=0)
                dying = asyncio.create_task(run(bus, settings_for(postgres_url), asyncio.Event()))
                # A projector that never had its turn would not die of anything.
                await until(lambda before=before: max(epochs(postgres_url), default=0) > before, within=60)
                await asyncio.sleep(seed.uniform(0.1, 0.8))
                dying.cancel()
                await asyncio.gather(dying, return_exceptions=True)
            enough.set()
            await flowing
            async with projector(bus, postgres_url):
                await caught_up(bus, postgres_url, within=60)
            assert max(epochs(postgres_url)) > DEATHS + 1, "connections were cut beside the deaths"
            await assert_read_model_is_the_fold(bus, postgres_url)

    async def flow(bus: Bus, seed: random.Random, enough: asyncio.Event) -> None:
        for number in itertools.count(step=20):
            if enough.is_set():
                return
            await say(bus, [tick(number + index, seed) for index in range(20)])
            await say(bus, [events.DeviceRegistered(node_id="n0", device=DeviceFacts(device_id=f"x{number}"))])
            await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_of_two_projectors_one_works_and_the_other_takes_over(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        seed = random.Random(3)
        async with bus_with_streams(nats_url) as bus:
            stop_first = asyncio.Event()
            first = asyncio.create_task(run(bus, settings_for(postgres_url), stop_first))
            await say(bus, introductions())
            await caught_up(bus, postgres_url)
            async with projector(bus, postgres_url):
                await say(bus, [tick(number, seed) for number in range(100)])
                await caught_up(bus, postgres_url)
                assert epochs(postgres_url) == {1}, "the second one stood by"
                stop_first.set()
                await asyncio.wait_for(first, 10)
                await until(lambda: epochs(postgres_url) == {2}, what="the second to take over")
                await say(bus, [tick(number, seed) for number in range(100, 200)])
                await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


def epochs(postgres_url: str) -> set[int]:
    with open_engine(postgres_url).connect() as connection:
        return {checkpoint.epoch for checkpoint in queries.checkpoints(connection)}


def test_what_cannot_be_read_is_buried_and_the_rest_flows(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus, projector(bus, postgres_url):
            await say(bus, introductions())
            subject = "shardbus.v1.telemetry.n0"
            for payload in (b"nonsense", b"\xff\xfe", b'{"states": 3}', b'{"node_id": "n0", "states": [[[['):
                await bus.append(
                    Outgoing(subject, payload, {"ce-type": "DeviceGPUStateUpdated", "ce-typeversion": "2"})
                )
            await bus.append(Outgoing(subject, b"{}", {"ce-type": "FromTheFuture"}))
            await publish(bus, DeviceGPUStateUpdated(node_id="n0", states=(reading("g0", "n0"),)), source="test")
            await until(
                lambda: positions(postgres_url).get("DEAD") == 5, what="the dead letters to be in the read model"
            )
            await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)
        with open_engine(postgres_url).connect() as connection:
            letters = queries.dead_letters(connection)
            telemetry = next(row for row in queries.checkpoints(connection) if row.stream == TELEMETRY)
        codes = ["invalid", "not_json", "not_json", "not_utf8", "unknown_type"]
        assert sorted(letter.code for letter in letters) == codes
        assert {letter.stream_sequence for letter in letters} == {1, 2, 3, 4, 5}
        assert (telemetry.folded, telemetry.rejected, telemetry.skipped) == (1, 4, 1)

    asyncio.run(scenario())


def test_a_device_that_nobody_registered_is_reported_once_and_not_seen(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus, projector(bus, postgres_url):
            await say(bus, introductions())
            for _ in range(3):
                states = (reading("g0", "n0"), reading("ghost", "n0"))
                await publish(bus, DeviceGPUStateUpdated(node_id="n0", states=states), source="test")
            await until(lambda: positions(postgres_url).get("DEAD"), what="the report")
            await publish(bus, DeviceGPUStateUpdated(node_id="n0", states=(reading("ghost", "n0"),)), source="test")
            await caught_up(bus, postgres_url)
            await asyncio.sleep(1.2)  # one more round of housekeeping, which must say nothing more
        with open_engine(postgres_url).connect() as connection:
            (letter,) = queries.dead_letters(connection)
            assert letter.code == "unknown_device"
            assert "device n0/ghost, which never joined" in letter.reason
            assert "n0/ghost" not in {device.key for device in queries.devices(connection, START)}
            assert "n0/g0" in {device.key for device in queries.devices(connection, START)}

    asyncio.run(scenario())


def test_a_stream_that_was_made_anew_is_refused_with_a_remedy(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            async with projector(bus, postgres_url):
                await say(bus, introductions())
                await caught_up(bus, postgres_url)
            async with jetstream(nats_url) as server:
                await server.delete_stream(FLEET)
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions() * 2)
            with pytest.raises(
                HistoryDivergedError, match=r"BEGIN; TRUNCATE shardbus\.nodes, shardbus\.devices"
            ) as refused:
                await asyncio.wait_for(run(bus, settings_for(postgres_url), asyncio.Event()), 20)
            remedy = str(refused.value).partition("from its beginning by: ")[2]
            with open_engine(postgres_url).connect() as connection:
                for statement in remedy.removeprefix("BEGIN; ").removesuffix(" COMMIT;").split(";"):
                    connection.execute(text(statement or "SELECT 1"))
                connection.commit()
            async with projector(bus, postgres_url):
                await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [FLEET, TELEMETRY])
def test_a_position_that_another_reached_meanwhile_is_not_taken_for_a_lost_tail(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    """Between a look at the stream and its turn, a projector may wait; then what it saw is older than the position."""
    opened, open_now = [stream], Projection.open

    async def scenario() -> None:
        bus, loop, seed = MemoryBus(), asyncio.get_running_loop(), random.Random(8)

        async def another_works() -> None:
            await say(bus, [*introductions(), *(tick(number, seed) for number in range(3, 6))])
            async with projector(bus, postgres_url):
                await caught_up(bus, postgres_url)

        def open_late(engine: Engine, info: StreamInfo, **options: Any) -> Projection | None:
            if info.name in opened:
                opened.clear()
                asyncio.run_coroutine_threadsafe(another_works(), loop).result(30)
            return open_now(engine, info, **options)

        monkeypatch.setattr(Projection, "open", open_late)
        await say(bus, [tick(number, seed) for number in range(3)])
        async with projector(bus, postgres_url):
            await until(lambda: not opened, within=30)
            await caught_up(bus, postgres_url)
            await say(bus, [tick(9, seed)])
            await caught_up(bus, postgres_url)
        assert max(epochs(postgres_url)) > 1
        with open_engine(postgres_url).connect() as connection:
            assert not queries.gaps(connection)
        await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


def test_readings_that_expired_unread_are_noted_as_a_gap(postgres_url: str) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await say(bus, [tick(number, random.Random(4)) for number in range(6)])
        for sequence in (1, 2, 5):
            bus.server.log(TELEMETRY).remove(sequence)
        async with projector(bus, postgres_url):
            await caught_up(bus, postgres_url)
            await say(bus, [tick(7, random.Random(4))])
            await caught_up(bus, postgres_url)
        with open_engine(postgres_url).connect() as connection:
            gaps = [(gap.from_sequence, gap.to_sequence) for gap in queries.gaps(connection)]
        assert gaps == [(5, 5), (1, 2)]

    asyncio.run(scenario())


def test_a_hole_in_the_fleets_history_is_refused(postgres_url: str) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await say(bus, introductions())
        bus.server.log(FLEET).remove(2)
        with pytest.raises(HistoryLostError, match="lost its messages 2 to 2"):
            await asyncio.wait_for(run(bus, settings_for(postgres_url), asyncio.Event()), 20)
        assert FLEET not in positions(postgres_url)

    asyncio.run(scenario())


def test_postgres_may_go_away_and_come_back(postgres_restartable: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        bus, seed, url = MemoryBus(), random.Random(5), postgres_restartable.url
        async with projector(bus, url) as running:
            await say(bus, introductions())
            await caught_up(bus, url)
            for _ in range(2):
                await asyncio.to_thread(postgres_restartable.kill)
                await say(bus, [tick(number, seed) for number in range(50)])
                await asyncio.sleep(0.3)
                assert not running.done()
                await asyncio.to_thread(postgres_restartable.start)
                await caught_up(bus, url)
        await assert_read_model_is_the_fold(bus, url)

    asyncio.run(scenario())


def test_nats_may_go_away_and_come_back(nats_restartable: EmbeddedNats, postgres_url: str) -> None:
    async def scenario() -> None:
        seed = random.Random(6)
        async with bus_with_streams(nats_restartable.url) as bus, projector(bus, postgres_url) as running:
            await say(bus, introductions())
            await caught_up(bus, postgres_url)
            await asyncio.to_thread(nats_restartable.kill)
            await asyncio.sleep(1.5)  # long enough for a round of housekeeping to fail
            assert not running.done()
            await asyncio.to_thread(nats_restartable.start)
            await until(lambda: bus_answers(bus), within=20)
            await say(bus, [tick(number, seed) for number in range(50)])
            await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)

    async def bus_answers(bus: Bus) -> bool:
        try:
            await bus.info(FLEET)
        except Exception:  # noqa: BLE001 -- whatever it is, the server is not back yet
            return False
        return True

    asyncio.run(scenario())


def test_no_postgres_at_the_start_is_said_plainly() -> None:
    async def scenario() -> None:
        nowhere = settings_for("postgresql://shardbus:secret@127.0.0.1:9/shardbus", postgres_wait_seconds=0.1)
        with pytest.raises(DatabaseUnreachableError, match=r"127\.0\.0\.1:9.*SHARDBUS_POSTGRES_URL") as refused:
            await asyncio.wait_for(run(MemoryBus(), nowhere, asyncio.Event()), 10)
        assert "secret" not in str(refused.value)

    asyncio.run(scenario())
