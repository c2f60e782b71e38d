"""Snapshots as a projector takes them from Postgres, and as a placer starts from them, on real servers."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from shardbus_eventstore import live
from shardbus_eventstore.live import read_state
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.snapshot.keeper import take_snapshot
from shardbus_eventstore.snapshot.store import newest_manifest, restore
from shardbus_eventstore.state import living_part
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import outgoing, publish
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, SNAPSHOTS, TELEMETRY, declared
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from sqlalchemy import text
from support.answers import placed_event
from support.histories import START, reading
from support.projecting import assert_read_model_is_the_fold, bus_with_streams, caught_up, projector
from support.waiting import until

pytestmark = pytest.mark.connected

SOON = {"snapshot_minutes": 0.001}


def tick(number: int) -> DeviceGPUStateUpdated:
    return DeviceGPUStateUpdated(node_id="n1", boot_id="b1", tick=number, states=(reading(memory_used_bytes=number),))


async def tell_of_a_fleet(bus: Bus, *, ticks: int = 5) -> None:
    await publish(bus, NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10), source="test")
    await publish(bus, DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1")), source="test")
    for name in ("kept", "deleted"):
        await publish(bus, placed_event(name), source="test")
    await publish(bus, events.InstanceDeleted(instance_id="deleted", command_id="by"), source="test")
    await bus.append_many(
        [outgoing(tick(number), source="test", event_id=str(number), occurred_at=START) for number in range(1, ticks)]
    )


def test_a_projector_publishes_what_it_wrote_and_who_starts_begins_there(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            async with projector(bus, postgres_url, **SOON):
                await tell_of_a_fleet(bus)
                await caught_up(bus, postgres_url)
                folded = await assert_read_model_is_the_fold(bus, postgres_url)

                async def reached() -> bool:
                    newest = await newest_manifest(bus)
                    return newest is not None and (newest.position(TELEMETRY), newest.position(FLEET)) == (4, 5)

                await until(reached, within=20, what="a snapshot of all there is")
                found = await restore(bus)
            assert found is not None
            assert found.state == living_part(folded)
            assert sorted(found.state.instances) == ["kept"]
            assert sorted(found.state.decisions) == sorted(["by", "command-kept", "command-deleted"])

    asyncio.run(scenario())


def test_a_polite_stop_leaves_a_snapshot_of_the_end(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            async with projector(bus, postgres_url):
                await tell_of_a_fleet(bus)
                await caught_up(bus, postgres_url)
                await until_held(postgres_url)
            newest = await newest_manifest(bus)
            assert newest is not None
            assert (newest.position(TELEMETRY), newest.position(FLEET)) == (4, 5)
            async with projector(bus, postgres_url):
                await until_held(postgres_url)
            assert await newest_manifest(bus) == newest, "nothing happened since, so there is nothing to say"

    asyncio.run(scenario())


def test_of_several_projectors_one_takes_snapshots(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus, projector(bus, postgres_url, **SOON):
            await until_held(postgres_url)
            async with projector(bus, postgres_url, **SOON):
                await tell_of_a_fleet(bus)
                await caught_up(bus, postgres_url)
                await until(lambda: _taken(bus), within=20, what="a snapshot")
                assert await asyncio.to_thread(_holders, postgres_url) == 1

    asyncio.run(scenario())


async def _taken(bus: Bus) -> bool:
    return await newest_manifest(bus) is not None


async def until_held(postgres_url: str) -> None:
    """Return when a projector's keeper has the lock: before, a stop would leave no snapshot."""
    await until(lambda: asyncio.to_thread(_holders, postgres_url), within=20, what="somebody to keep snapshots")


def _holders(postgres_url: str) -> int:
    query = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database()) AND "
        "((classid::bigint << 32) | objid::bigint) = hashtextextended('shardbus/snapshots/shardbus', 0)"
    )
    with open_engine(postgres_url).connect() as connection:
        return int(connection.scalar(text(query)) or 0)


def test_what_age_took_from_telemetry_is_still_the_present(nats_restartable: EmbeddedNats, postgres_url: str) -> None:
    async def scenario() -> None:
        bus = await connect(nats_restartable.url, name="test")
        try:
            await reconcile(bus)
            async with projector(bus, postgres_url):
                await tell_of_a_fleet(bus)
                await caught_up(bus, postgres_url)
                await until_held(postgres_url)
            second = timedelta(seconds=1)
            await reconcile(bus, [replace(declared(telemetry_max_age=second)[0], duplicate_window=second)])

            async def expired() -> bool:
                return (await bus.info(TELEMETRY)).messages == 0

            await until(expired, within=20, what="the readings to expire")
            state = await read_state(bus)
            assert state.positions == {TELEMETRY: 4, FLEET: 5}
            assert state.device_states["n1/g1"].reading.memory_used_bytes == 4
            day = timedelta(days=1)
            await reconcile(bus, declared(telemetry_max_age=day)[:1])
            await bus.append(outgoing(tick(7), source="test", event_id="7", occurred_at=START))
            state = await read_state(bus)
            assert (state.node_heard["n1"].tick, state.node_heard["n1"].missed_ticks) == (7, 2)
        finally:
            await bus.close()

    asyncio.run(scenario())


def test_a_snapshot_is_of_one_moment_of_the_read_model(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus, projector(bus, postgres_url):
            await tell_of_a_fleet(bus)
            await caught_up(bus, postgres_url)
            taken = await asyncio.to_thread(take_snapshot, open_engine(postgres_url))
            assert {stream: mark.sequence for stream, mark in taken.streams.items()} == {TELEMETRY: 4, FLEET: 5}
            for stream, mark in taken.streams.items():
                held = await bus.get(stream, mark.sequence)
                assert held is not None
                assert (mark.recorded_at, mark.created) == (held.recorded_at, (await bus.info(stream)).created)
            assert taken.unread == {}
            await asyncio.to_thread(_skip_a_type, postgres_url)
            again = await asyncio.to_thread(take_snapshot, open_engine(postgres_url))
            assert again.unread == {"Teleported.v1": 3}

    asyncio.run(scenario())


def _skip_a_type(postgres_url: str) -> None:
    with open_engine(postgres_url).begin() as connection:
        connection.execute(text("ALTER TABLE checkpoints ADD COLUMN IF NOT EXISTS unread jsonb"))
        connection.execute(text("""UPDATE checkpoints SET unread = '{"Teleported.v1": 3}' WHERE stream = 'FLEET'"""))


def test_a_placer_starts_while_the_bus_is_away(nats_restartable: EmbeddedNats) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_restartable.url) as bus:
            await tell_of_a_fleet(bus)
            await asyncio.to_thread(nats_restartable.stop)
            following, stop = live.LiveState(bus), asyncio.Event()
            running = asyncio.create_task(following.run(stop))
            await asyncio.to_thread(nats_restartable.start)
            await following.wait_until(FLEET, 5, 30)
            await following.wait_until(TELEMETRY, 4, 30)
            stop.set()
            await running
            assert (await bus.info(SNAPSHOTS)).messages == 0

    asyncio.run(scenario())
