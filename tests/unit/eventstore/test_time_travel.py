"""Looking back on a bus in memory, also past what retention has left."""

import asyncio
from datetime import datetime, timedelta

import pytest
from shardbus_eventstore.moments import MomentError, Place
from shardbus_eventstore.time_travel import resolve, state_at, with_deleted
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, InstanceDeleted, NodeJoined
from shardbus_schemas.model import FrozenModel
from support.answers import placed_event
from support.histories import START, reading
from support.snapshots import take_snapshot_of


class Clocked:
    """A bus whose clock is told; a fleet of one device that tells a reading a second, from the third second on."""

    def __init__(self) -> None:
        self.clock = START
        self.bus = MemoryBus(now=lambda: self.clock)

    def at(self, second: float) -> datetime:
        return START + timedelta(seconds=second)

    async def tell(self, second: float, message: FrozenModel) -> None:
        self.clock = self.at(second)
        await publish(self.bus, message, source="test", occurred_at=self.clock)

    async def fleet(self, *, until: int, snapshot_at: int | None = None) -> None:
        await self.tell(1, NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10))
        await self.tell(2, DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1")))
        for second in range(3, until + 1):
            await self.tell(second, tick(second))
            if second == snapshot_at:
                await take_snapshot_of(self.bus)

    def forget(self, *sequences: int) -> None:
        for sequence in sequences:
            self.bus.server.log(TELEMETRY).remove(sequence)


def tick(second: int) -> DeviceGPUStateUpdated:
    states = (reading(memory_used_bytes=second),)
    return DeviceGPUStateUpdated(node_id="n1", boot_id="b1", tick=second, states=states)


def test_a_place_and_a_time_name_the_same_moment() -> None:
    async def scenario() -> None:
        told = Clocked()
        await told.fleet(until=9)
        now = told.at(100)
        by_time = await resolve(told.bus, told.at(5.5), now)
        assert (by_time.fleet, by_time.telemetry, by_time.time) == (2, 3, told.at(5.5))
        by_place = await resolve(told.bus, Place(TELEMETRY, 3), now)
        assert (by_place.fleet, by_place.telemetry, by_place.time) == (2, 3, told.at(5))
        first = await resolve(told.bus, Place(FLEET, 1), now)
        assert (first.fleet, first.telemetry) == (1, 0)
        ends = await resolve(told.bus, now, now)
        assert (ends.fleet, ends.telemetry) == (2, 7)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Place(FLEET, 99), "there is no message FLEET:99: FLEET holds 1 to 2"),
        (Place(FLEET, 0), "there is no message FLEET:0"),
        (Place(TELEMETRY, 2), "there is no message TELEMETRY:2: TELEMETRY holds 3 to 7"),
    ],
)
def test_a_place_that_is_not_there_is_said_with_what_is(place: Place, said: str) -> None:
    async def scenario() -> None:
        told = Clocked()
        await told.fleet(until=9)
        told.forget(1, 2)
        with pytest.raises(MomentError, match=said):
            await resolve(told.bus, place, told.at(100))

    asyncio.run(scenario())


def test_what_telemetry_forgot_is_shown_as_a_snapshot_had_it() -> None:
    async def scenario() -> None:
        told = Clocked()
        await told.fleet(until=9, snapshot_at=5)
        told.forget(1, 2, 3, 4, 5)
        moment = await resolve(told.bus, told.at(6.5), told.at(100))
        assert moment.telemetry is None
        past = await state_at(told.bus, moment)
        assert past.state.device_states["n1/g1"].reading.memory_used_bytes == 5
        (note,) = past.notes
        assert note.startswith("TELEMETRY no longer reaches back to 2026-11-20 10:00:06 UTC: ")
        assert note.endswith("the readings are those of 2026-11-20 10:00:05 UTC, from a snapshot")
        before = await state_at(told.bus, await resolve(told.bus, told.at(4.5), told.at(100)))
        assert before.state.device_states == {}
        (note,) = before.notes
        assert note.startswith("TELEMETRY no longer reaches back to 2026-11-20 10:00:04 UTC, and no snapshot does")
        assert sorted(before.state.devices) == ["n1/g1"]

    asyncio.run(scenario())


def test_a_gap_between_a_snapshot_and_what_telemetry_holds_is_told() -> None:
    async def scenario() -> None:
        told = Clocked()
        await told.fleet(until=9, snapshot_at=5)
        told.forget(1, 2, 3, 4, 5)
        past = await state_at(told.bus, await resolve(told.bus, told.at(9), told.at(100)))
        assert past.state.device_states["n1/g1"].reading.memory_used_bytes == 9
        assert past.notes == (
            "TELEMETRY no longer holds its messages 4 to 5: what was told only there is missing or older than it was",
        )

    asyncio.run(scenario())


def test_of_what_expired_altogether_the_last_snapshot_is_known() -> None:
    async def scenario() -> None:
        told = Clocked()
        await told.fleet(until=9, snapshot_at=9)
        told.forget(*range(1, 8))
        past = await state_at(told.bus, await resolve(told.bus, told.at(20), told.at(100)))
        assert past.state.device_states["n1/g1"].reading.memory_used_bytes == 9
        assert len(past.notes) == 1

    asyncio.run(scenario())


def test_whoever_waits_is_told_how_far_it_is() -> None:
    async def scenario() -> None:
        told = Clocked()
        await told.fleet(until=9)
        heard: list[tuple[int, int]] = []
        moment = await resolve(told.bus, told.at(6), told.at(100))
        await state_at(told.bus, moment, progress=lambda done, total: heard.append((done, total)))
        assert heard == [(2, 2), (4, 4)]

    asyncio.run(scenario())


def test_why_an_instance_was_deleted_is_known_over_a_snapshot() -> None:
    async def scenario() -> None:
        told = Clocked()
        await told.fleet(until=3)
        await told.tell(4, placed_event("i1"))
        await told.tell(5, placed_event("i2"))
        await told.tell(6, InstanceDeleted(instance_id="i1", command_id="d", reason="enough"))
        await take_snapshot_of(told.bus)
        before = await state_at(told.bus, await resolve(told.bus, told.at(5), told.at(100)))
        after = await state_at(told.bus, await resolve(told.bus, told.at(7), told.at(100)))
        assert sorted(after.state.instances) == ["i2"]
        whole = await with_deleted(told.bus, before, after)
        assert {name: (one.status, one.reason) for name, one in whole.state.instances.items()} == {
            "i1": ("deleted", "enough"),
            "i2": ("placed", None),
        }

    asyncio.run(scenario())
