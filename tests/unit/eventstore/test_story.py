"""A decision's story as the streams tell it."""

import asyncio
from datetime import timedelta

import pytest
from shardbus_eventstore.story import Story, tell_story
from shardbus_infra.bus.dead_letters import bury
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import COMMANDS, TELEMETRY
from shardbus_schemas import commands, events, subjects
from shardbus_schemas.events import Asked, DeviceGPUStateUpdated, NodeJoined
from shardbus_schemas.ids import CommandId
from shardbus_schemas.placement import StatePosition
from support.answers import placed_event, plan_on, refused_event
from support.histories import START, reading
from support.snapshots import take_snapshot_of

ASKED = Asked(source="console", occurred_at=START, recorded_at=START + timedelta(seconds=9), sequence=4)
POSITION = StatePosition(telemetry_sequence=1, fleet_sequence=1)


class Bus(MemoryBus):
    """Each message is recorded a second after the one before."""

    def __init__(self) -> None:
        self.clock = START

        def now() -> object:
            self.clock += timedelta(seconds=1)
            return self.clock

        super().__init__(now=now)  # pyright: ignore[reportArgumentType]  # it returns times

    async def say(self, message: object, *, correlation_id: str | None = None) -> None:
        await publish(
            self,
            message,  # pyright: ignore[reportArgumentType]  # a message of the bus
            source="placer/test",
            correlation_id=correlation_id,
            occurred_at=START,
        )


async def fleet_on(bus: Bus) -> None:
    await bus.say(NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10))
    await bus.say(DeviceGPUStateUpdated(node_id="n1", states=(reading(),)))


async def told(bus: Bus, name: str) -> Story:
    story = await tell_story(bus, name)
    assert story is not None
    return story


@pytest.mark.parametrize("name", ["i1", "command-i1"])
def test_an_instance_and_its_command_have_one_story(name: str) -> None:
    async def scenario() -> None:
        bus = Bus()
        await fleet_on(bus)
        await bus.say(placed_event("i1", asked=ASKED, position=POSITION), correlation_id="command-i1")
        await bus.say(placed_event("i2"))
        await bus.say(events.InstanceReplaced(instance_id="i1", plan=plan_on("n1/g2"), reason="hot", position=POSITION))
        await bus.say(events.InstanceDeleted(instance_id="i1", command_id="c2", reason="enough"))
        story = await told(bus, name)
        assert (story.command.type, story.command.asked, story.command.command_id) == ("Place", ASKED, "command-i1")
        assert story.command.request is not None
        assert story.state is not None
        assert [(used.stream, used.sequence) for used in story.state.streams] == [("TELEMETRY", 1), ("FLEET", 1)]
        assert all(used.age_seconds and used.age_seconds > 0 for used in story.state.streams)
        assert story.state.considered == story.state.chosen == ("n1/g1",)
        assert story.answer is not None
        assert (story.answer.type, story.answer.sequence, story.answer.source) == ("InstancePlaced", 2, "placer/test")
        assert story.answer.plan == plan_on("n1/g1")
        assert story.answer.seconds_after_command is not None
        assert [(event.type, event.text) for event in story.followed] == [
            ("InstanceReplaced", "moved to n1/g2 [0-0]: hot"),
            ("InstanceDeleted", "deleted: enough"),
        ]

    asyncio.run(scenario())


def test_a_refusal_has_a_story_with_what_the_same_command_led_to() -> None:
    async def scenario() -> None:
        bus = Bus()
        await fleet_on(bus)
        await bus.say(refused_event("c1", position=POSITION), correlation_id="story")
        await bus.say(placed_event("i1"), correlation_id="story")
        await take_snapshot_of(bus)
        story = await told(bus, "c1")
        assert story.command.asked is None
        assert story.answer is not None
        assert story.answer.refused is not None
        assert story.answer.text == "refused (insufficient_memory): 1 byte is missing"
        assert [event.type for event in story.followed] == ["InstancePlaced"]

    asyncio.run(scenario())


def test_what_a_stream_forgot_is_said() -> None:
    async def scenario() -> None:
        bus = Bus()
        await fleet_on(bus)
        await bus.say(placed_event("i1", position=POSITION))
        bus.server.log(TELEMETRY).remove(1)
        story = await told(bus, "i1")
        assert story.state is not None
        assert (story.state.streams[0].recorded_at, story.state.streams[0].age_seconds) == (None, None)

    asyncio.run(scenario())


def test_other_answers_have_stories_too() -> None:
    async def scenario() -> None:
        bus = Bus()
        await fleet_on(bus)
        await bus.say(
            events.CommandRejected(command_id="c1", command_type="Drain", code="unsupported_command", message="not yet")
        )
        await bus.say(placed_event("i1"))
        await bus.say(events.InstanceDeleted(instance_id="i1", command_id="c2"))
        drain = await told(bus, "c1")
        assert (drain.command.type, drain.state) == ("Drain", None)
        delete = await told(bus, "c2")
        assert delete.answer is not None
        assert (delete.command.type, delete.answer.text, delete.followed) == ("Delete", "deleted", ())

    asyncio.run(scenario())


def test_a_command_that_waits_and_one_that_was_buried_are_told() -> None:
    async def scenario() -> None:
        bus = Bus()
        await publish(
            bus, commands.Place(model_id="tiny", command_id="c1"), source="console", event_id="c1", occurred_at=START
        )
        waiting = await told(bus, "c1")
        assert (waiting.command.fate, waiting.answer) == ("waiting", None)
        assert waiting.command.asked is not None
        assert (waiting.command.asked.source, waiting.command.asked.sequence) == ("console", 1)
        nonsense = await bus.append(Outgoing(subjects.command("place"), b"nonsense", {"ce-id": "c2"}))
        stored = await bus.get(COMMANDS, nonsense.sequence)
        assert stored is not None
        await bury(bus, stored, code="not_json", reason="not JSON", seen_by="placer/test")
        buried = await told(bus, "c2")
        assert (buried.command.fate, buried.command.why) == ("buried", "not JSON")

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["nobody", "", "x" * 500])
def test_nobody_has_no_story(name: str) -> None:
    async def scenario() -> None:
        bus = Bus()
        await fleet_on(bus)
        assert await tell_story(bus, CommandId(name)) is None

    asyncio.run(scenario())
