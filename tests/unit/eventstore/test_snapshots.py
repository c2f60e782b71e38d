"""Snapshots on a bus in memory: which one is used, and what happens to those that cannot be."""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from shardbus_eventstore.live import LiveState, read_state
from shardbus_eventstore.snapshot import store
from shardbus_eventstore.snapshot.codec import VERSION, SnapshotError, load
from shardbus_eventstore.snapshot.manifest import Manifest, StreamMark, is_due, unreadable
from shardbus_eventstore.snapshot.store import CHUNK_BYTES, newest_manifest, publish_snapshot, restore
from shardbus_eventstore.state import living_part
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import FLEET, SNAPSHOTS, STREAMS, TELEMETRY
from shardbus_schemas import subjects
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from support.histories import reading
from support.snapshots import take_snapshot_of

JOINED = NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10)
REGISTERED = DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1"))


def tick(number: int, **readings: object) -> DeviceGPUStateUpdated:
    return DeviceGPUStateUpdated(node_id="n1", boot_id="b1", tick=number, states=(reading(**readings),))


async def fleet_on(bus: MemoryBus, *, ticks: int = 3) -> None:
    await publish(bus, JOINED, source="test")
    await publish(bus, REGISTERED, source="test")
    for number in range(1, ticks + 1):
        await publish(bus, tick(number, memory_used_bytes=number), source="test")


async def forget(bus: MemoryBus, stream: str, *sequences: int) -> None:
    for sequence in sequences:
        bus.server.log(stream).remove(sequence)


def test_whoever_starts_from_a_snapshot_reads_only_what_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus)
        await take_snapshot_of(bus)
        await publish(bus, tick(4, memory_used_bytes=4), source="test")
        started: dict[str, int] = {}
        follow = bus.follow

        def noted(stream: str, **more: object) -> object:
            started.setdefault(stream, int(str(more["start_sequence"])) if "start_sequence" in more else 1)
            return follow(stream, **more)  # pyright: ignore[reportArgumentType]  # handed on as they came

        monkeypatch.setattr(bus, "follow", noted)
        state = await read_state(bus)
        assert (started[TELEMETRY], started[FLEET]) == (4, 3)
        assert state.device_states["n1/g1"].reading.memory_used_bytes == 4
        assert state.node_heard["n1"].missed_ticks == 0

    asyncio.run(scenario())


def test_what_retention_took_from_telemetry_is_still_known() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus)
        whole = await read_state(bus)
        await take_snapshot_of(bus)
        await forget(bus, TELEMETRY, 1, 2, 3)
        assert await read_state(bus) == living_part(whole)
        await publish(bus, tick(4, device_id="g2"), source="test")
        state = await read_state(bus)
        assert sorted(state.device_states) == ["n1/g1", "n1/g2"]

    asyncio.run(scenario())


def test_a_live_state_tells_of_its_snapshot_those_who_wait() -> None:
    async def scenario() -> None:
        bus, stop = MemoryBus(), asyncio.Event()
        await fleet_on(bus)
        await take_snapshot_of(bus)
        await forget(bus, TELEMETRY, 1, 2, 3)
        live = LiveState(bus)
        waiting = asyncio.create_task(live.wait_until(TELEMETRY, 3))
        await asyncio.sleep(0)
        running = asyncio.create_task(live.run(stop))
        await waiting
        stop.set()
        await running

    asyncio.run(scenario())


def test_a_stop_before_the_first_message_is_heeded() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        stop.set()
        await asyncio.wait_for(LiveState(MemoryBus()).run(stop), 1)

    asyncio.run(scenario())


async def _tampered_chunk(bus: MemoryBus, manifest: Manifest) -> None:
    log = bus.server.log(SNAPSHOTS)
    index = log.index_of(manifest.first_chunk)
    payload = bytearray(log.messages[index].payload)
    payload[len(payload) // 2] ^= 1
    log.messages[index] = replace(log.messages[index], payload=bytes(payload))


async def _lost_chunk(bus: MemoryBus, manifest: Manifest) -> None:
    await forget(bus, SNAPSHOTS, manifest.first_chunk)


async def _told_again(bus: MemoryBus, manifest: Manifest, **changes: object) -> None:
    changed = manifest.model_copy(update=changes)
    await bus.append(Outgoing(subjects.SNAPSHOT_MANIFEST, changed.model_dump_json().encode()))


async def _of_the_future(bus: MemoryBus, manifest: Manifest) -> None:
    await _told_again(bus, manifest, version=99)


async def _nonsense(bus: MemoryBus, manifest: Manifest) -> None:
    del manifest
    await bus.append(Outgoing(subjects.SNAPSHOT_MANIFEST, b"nonsense"))


async def _another_fleet(bus: MemoryBus, manifest: Manifest) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    marks = {**manifest.streams, FLEET: manifest.streams[FLEET].model_copy(update={"created": long_ago})}
    await _told_again(bus, manifest, streams=marks)


async def _another_message(bus: MemoryBus, manifest: Manifest) -> None:
    mark = manifest.streams[FLEET]
    assert mark.recorded_at
    earlier = mark.model_copy(update={"recorded_at": mark.recorded_at - timedelta(seconds=1)})
    await _told_again(bus, manifest, streams={**manifest.streams, FLEET: earlier})


async def _ahead(bus: MemoryBus, manifest: Manifest) -> None:
    ahead = manifest.streams[FLEET].model_copy(update={"sequence": 99, "recorded_at": None})
    await _told_again(bus, manifest, streams={**manifest.streams, FLEET: ahead})


async def _readable_by_now(bus: MemoryBus, manifest: Manifest) -> None:
    await _told_again(bus, manifest, unread={"NodeJoined.v1": 1})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_tampered_chunk, "do not give the bytes"),
        (_lost_chunk, "its parts are gone"),
        (_of_the_future, "it is of version 99; this program reads version 2"),
        (_nonsense, "cannot be read"),
        (_another_fleet, "it is of the one made 2020"),
        (_another_message, "it is of one recorded"),
        (_ahead, "FLEET ends at 2; it is of 99"),
        (_readable_by_now, "could not read NodeJoined.v1; this one can"),
    ],
)
def test_a_snapshot_that_cannot_be_used_is_logged_and_an_older_one_taken(
    spoil: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus, ticks=1)
        older = await take_snapshot_of(bus)
        await publish(bus, tick(2, memory_used_bytes=2), source="test")
        newer = await take_snapshot_of(bus)
        whole = await read_state(bus)
        assert callable(spoil)
        await spoil(bus, newer)
        with caplog.at_level(logging.INFO):
            found = await restore(bus)
        assert found is not None
        # Where the newest manifest is a changed copy, the newest good snapshot is still the newer one.
        assert found.manifest.id in {older.id, newer.id}
        assert found.manifest.id == older.id or spoil not in {_tampered_chunk, _lost_chunk}
        assert said in caplog.text
        assert living_part(await read_state(bus)) == living_part(whole)

    asyncio.run(scenario())


def test_without_any_good_snapshot_the_streams_are_folded_from_their_beginning() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus)
        whole = await read_state(bus)
        await _lost_chunk(bus, await take_snapshot_of(bus))
        assert await restore(bus) is None
        assert await read_state(bus) == whole

    asyncio.run(scenario())


def test_of_a_snapshot_that_does_not_reach_what_telemetry_holds_the_fleet_is_used() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus)
        await take_snapshot_of(bus)
        for number in (4, 5, 6):
            await publish(bus, tick(number, memory_used_bytes=number), source="test")
        await forget(bus, TELEMETRY, 1, 2, 3, 4)
        found = await restore(bus)
        assert found is not None
        assert (found.state.positions, dict(found.state.device_states)) == ({FLEET: 2}, {})
        lenient = await restore(bus, bridging=False)
        assert lenient is not None
        assert lenient.state.positions == {FLEET: 2, TELEMETRY: 3}
        assert (await read_state(bus)).positions == {FLEET: 2, TELEMETRY: 6}

    asyncio.run(scenario())


def test_a_snapshot_is_found_by_what_is_wanted_of_it() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus, ticks=1)
        older = await take_snapshot_of(bus)
        await publish(bus, tick(2), source="test")
        await take_snapshot_of(bus)
        found = await restore(bus, wanted=lambda manifest: manifest.position(TELEMETRY) <= 1)
        assert found is not None
        assert found.manifest == older
        assert await restore(bus, wanted=lambda _: False) is None

    asyncio.run(scenario())


def test_a_large_snapshot_travels_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus)
        whole = await read_state(bus)
        monkeypatch.setattr(store, "CHUNK_BYTES", 100)
        manifest = await take_snapshot_of(bus)
        assert manifest.chunks > 3
        assert all(len(stored.payload) <= CHUNK_BYTES for stored in bus.server.log(SNAPSHOTS).messages)
        found = await restore(bus)
        assert found is not None
        assert found.state == living_part(whole)

    asyncio.run(scenario())


def test_a_snapshot_that_was_cut_short_is_as_if_it_never_was() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus)
        await take_snapshot_of(bus)
        log = bus.server.log(SNAPSHOTS)
        log.remove(log.last_sequence)  # what says that it is whole
        assert await newest_manifest(bus) is None
        assert await restore(bus) is None
        assert (await read_state(bus)).positions == {FLEET: 2, TELEMETRY: 3}

    asyncio.run(scenario())


def test_a_server_without_the_stream_has_no_snapshots() -> None:
    async def scenario() -> None:
        bus = MemoryBus([spec for spec in STREAMS if spec.name != SNAPSHOTS])
        assert await restore(bus) is None
        assert await newest_manifest(bus) is None
        await fleet_on(bus)
        assert (await read_state(bus)).positions == {FLEET: 2, TELEMETRY: 3}

    asyncio.run(scenario())


def test_a_manifest_whose_state_is_another_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await fleet_on(bus)
        manifest = await take_snapshot_of(bus)
        chunk = await bus.get(SNAPSHOTS, manifest.first_chunk)
        assert chunk is not None
        marks = {FLEET: manifest.streams[FLEET]}
        await publish_snapshot(bus, chunk.payload, marks, taken_at=datetime.now(UTC), unread={})
        with caplog.at_level(logging.INFO):
            found = await restore(bus)
        assert found is not None
        assert found.manifest == manifest
        assert "its state is of" in caplog.text

    asyncio.run(scenario())


def test_bytes_that_are_no_snapshot_are_refused() -> None:
    with pytest.raises(SnapshotError, match="cannot be read"):
        load(b"nonsense")


def test_types_that_are_still_unknown_do_no_harm() -> None:
    mark = StreamMark(created=datetime.now(UTC), sequence=1)
    manifest = Manifest(
        version=VERSION,
        id="a",
        taken_at=datetime.now(UTC),
        streams={FLEET: mark},
        bytes=1,
        sha256="",
        chunks=1,
        first_chunk=1,
        unread={"NodeJoined.v99": 1, "Teleported.v1": 3, "nonsense": 2},
    )
    assert unreadable(manifest) is None


@pytest.mark.parametrize(
    ("positions", "seconds", "due"),
    [
        ({TELEMETRY: 10, FLEET: 5}, 1e9, False),
        ({TELEMETRY: 11, FLEET: 5}, 599.0, False),
        ({TELEMETRY: 11, FLEET: 5}, 600.0, True),
        ({TELEMETRY: 110, FLEET: 5}, 59.0, False),
        ({TELEMETRY: 110, FLEET: 5}, 60.0, True),
        ({TELEMETRY: 0, FLEET: 1}, 600.0, True),
    ],
)
def test_a_snapshot_is_due_by_time_or_by_what_happened(positions: dict[str, int], seconds: float, *, due: bool) -> None:
    taken = {TELEMETRY: 10, FLEET: 5}
    assert is_due(taken, positions, seconds, every_seconds=600, events=100) == due
