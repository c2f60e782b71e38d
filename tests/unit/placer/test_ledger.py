"""What is appended to the ledger: one after the other, each on what was seen."""

import asyncio
from collections.abc import Sequence

import pytest
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import ExpectedLast, WrongSequenceError
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET
from shardbus_placer import ledger
from shardbus_placer.telling import without_plan
from shardbus_schemas import events
from shardbus_schemas.placement import StatePosition
from support.answers import placed_event

EMPTY = ExpectedLast(ledger.LEDGER, 0)


def gives_way(instance: str) -> events.InstancePending:
    return events.InstancePending(
        instance_id=instance,
        reason="gave way",
        cause="preempted",
        result=without_plan(wanted="tiny", code="preempted", message="gave way"),
        position=StatePosition(),
    )


async def append(
    bus: MemoryBus, *changes: events.FleetEvent, expected: ExpectedLast | None, last_id: str | None = None
) -> None:
    await ledger.append(
        bus,
        changes,
        source="placer/test",
        correlation_id="story",
        causation_id="cause",
        expected=expected,
        last_id=last_id,
    )


def names(bus: MemoryBus) -> Sequence[str]:
    messages = [receive(stored).message for stored in bus.server.log(FLEET).messages]
    return [str(getattr(message, "instance_id", type(message).__name__)) for message in messages]


def test_a_chain_is_appended_in_order_with_its_cause_and_its_story() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await append(bus, gives_way("x"), gives_way("y"), placed_event("z", "n/g"), expected=EMPTY)
        assert names(bus) == ["x", "y", "z"]
        for stored in bus.server.log(FLEET).messages:
            envelope = receive(stored).envelope
            assert (envelope.causation_id, envelope.correlation_id) == ("cause", "story")

    asyncio.run(scenario())


def test_what_comes_between_ends_the_chain_and_what_was_appended_stays() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        original = bus.append

        async def somebody_comes_between(*given: object, **named: object) -> object:
            appended = await original(*given, **named)  # type: ignore[arg-type]  # as it was called
            if len(bus.server.log(FLEET).messages) == 1:
                await publish(bus, events.InstanceDeleted(instance_id="other"), source="rival")
            return appended

        bus.append = somebody_comes_between  # type: ignore[method-assign, assignment]  # the test comes between
        with pytest.raises(WrongSequenceError):
            await append(bus, gives_way("x"), placed_event("z", "n/g"), expected=EMPTY)
        assert names(bus) == ["x", "other"]

    asyncio.run(scenario())


def test_a_loser_never_takes_the_winners_events_for_its_own() -> None:
    """Both have the same instance placed after the same ledger, but each would have another one give way."""

    async def scenario() -> None:
        bus = MemoryBus()
        await append(bus, gives_way("x"), expected=EMPTY, last_id=None)
        with pytest.raises(WrongSequenceError):
            await append(bus, gives_way("y"), placed_event("z", "n/g"), expected=EMPTY, last_id="command/answer")
        assert names(bus) == ["x"]

    asyncio.run(scenario())


def test_of_two_answers_with_one_id_the_first_is_kept() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        for node in ("n", "m"):
            await append(bus, placed_event("z", f"{node}/g"), expected=EMPTY, last_id="command/answer")
        (stored,) = bus.server.log(FLEET).messages
        placed = receive(stored).message
        assert isinstance(placed, events.InstancePlaced)
        assert list(placed.plan.memory_by_device) == ["n/g"]

    asyncio.run(scenario())


def test_what_is_not_on_the_ledger_neither_needs_it_nor_moves_it() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        cordoned = events.Cordoned(node_id="n", drain=False, command_id="c")
        await append(bus, gives_way("x"), cordoned, gives_way("y"), cordoned, expected=EMPTY)
        assert names(bus) == ["x", "Cordoned", "y", "Cordoned"]
        await append(bus, cordoned, expected=EMPTY)
        assert len(names(bus)) == 5

    asyncio.run(scenario())
