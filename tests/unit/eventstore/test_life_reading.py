"""A life read from the streams: its own events, and what led to them, found by their ids."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

from shardbus_eventstore.life import Life, Settled, Waiting
from shardbus_eventstore.life_reading import read_life
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Outgoing, Stored
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas import events, subjects
from support.answers import placed_event
from support.histories import START
from support.lives import NAME, SECOND, THIRD, Telling, eventful, refused, replaced


class Bus(MemoryBus):
    """Records each message when its story says, and notes what was read of which subjects."""

    def __init__(self, told: Telling) -> None:
        self.moment = START
        self.asked: list[tuple[int, Sequence[str]]] = []
        super().__init__(now=lambda: self.moment)
        self._told = told

    async def fill(self) -> None:
        for stored in self._told.stored:
            self.moment = stored.recorded_at
            await self.append(Outgoing(stored.subject, stored.payload, stored.headers))

    def follow(self, stream: str, **how: Any) -> AsyncGenerator[Sequence[Stored], None]:
        self.asked.append((how["start_sequence"], how["subjects"]))
        return super().follow(stream, **how)


def read(told: Telling, name: str = NAME) -> tuple[Life | None, Bus]:
    async def scenario() -> tuple[Life | None, Bus]:
        bus = Bus(told)
        await bus.fill()
        return await read_life(bus, name, told.stored[-1].recorded_at), bus

    return asyncio.run(scenario())


def test_what_is_read_is_what_the_events_tell() -> None:
    told = eventful()
    life, bus = read(told)
    assert life == told.life()
    assert life is not None
    own, led = bus.asked
    assert set(own[1]) == {subjects.event("instance", NAME), subjects.event("shard", NAME)}
    assert led[0] == 1, "what is near is looked at first, and holds all of it"


def test_what_led_from_before_its_birth_and_long_ago_is_found_at_last() -> None:
    told = Telling()
    cordoned = told.say(events.Cordoned(node_id="rig", drain=True), 0)
    told.say(placed_event(NAME), 1)
    for number in range(300):
        told.say(events.NodeJoined(node_id=f"n{number}", boot_id="b", heartbeat_seconds=10), 1)
    replaced(told, SECOND, 2, "drained", "rig is drained", because=cordoned)
    life, bus = read(told)
    assert life is not None
    assert [moment.kind for moment in life.moments] == ["elsewhere", "placed", "moved"]
    assert [start for start, _ in bus.asked] == [1, 303 - 200, 2, 1]


def test_an_answer_may_be_what_led_to_one_thing_and_say_who_asked_for_another() -> None:
    told = Telling()
    told.say(placed_event(NAME), 0)
    gone = events.InstancePending.model_validate(
        {
            "instance_id": NAME,
            "reason": "gave way",
            "cause": "preempted",
            "result": refused("no room"),
            "position": {},
            "gave_way_to": "vip",
        }
    )
    told.say(gone, 10, because="cli-vip")
    vip = told.say(placed_event("vip", asked=told.who(9, "console/ben")), 10.1, because="cli-vip")
    replaced(told, THIRD, 11, "capacity", "room", because=vip)
    life, _ = read(told)
    assert life is not None
    wait = next(one for one in life.moments if isinstance(one, Waiting))
    back = next(one for one in life.moments if isinstance(one, Settled) and one.cause == "capacity")
    assert wait.because is not None
    assert back.because is not None
    assert (wait.because.source, wait.because.stream) == ("console/ben", "COMMANDS")
    assert (back.because.sequence, back.because.seconds_before) == (3, 0.9)


def test_a_name_that_nothing_has_is_no_life_and_nothing_else_is_read() -> None:
    told = Telling()
    told.say(placed_event("another"), 0)
    life, bus = read(told)
    assert life is None
    assert bus.asked == []


def test_what_cannot_be_read_is_left_out_and_a_cause_that_is_gone_is_named() -> None:
    told = Telling()
    told.say(placed_event(NAME), 0)
    replaced(told, SECOND, 5, "moved", "why not", because="long-gone")

    async def scenario() -> Life | None:
        bus = Bus(told)
        await bus.fill()
        await bus.append(Outgoing(subjects.event("instance", NAME), b"nonsense", {"ce-type": "InstanceDeleted"}))
        assert (await bus.info(FLEET)).last_sequence == 3
        return await read_life(bus, NAME, START + timedelta(seconds=9))

    life = asyncio.run(scenario())
    assert life is not None
    assert (life.status, len(life.moments), life.totals.seconds) == ("placed", 2, 9)
    assert (life.moments[1].because, life.moments[1].causation_id) == (None, "long-gone")


def test_what_the_fold_refuses_is_no_part_of_the_life() -> None:
    told = Telling()
    told.say(placed_event(NAME), 0)
    replaced(told, SECOND, 5, "moved", "a \0 that no column holds", because="x")
    life, _ = read(told)
    assert life is not None
    assert [moment.kind for moment in life.moments] == ["placed"]
    assert told.state.instances[NAME].reason is None
