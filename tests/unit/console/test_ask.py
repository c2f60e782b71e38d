"""Asking the placer: the answer that is ours is found, and silence and burial are said."""

import asyncio

import pytest
from shardbus_console.ask import ask
from shardbus_console.exits import CommandError, Exit
from shardbus_infra.bus.dead_letters import bury
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import COMMANDS
from shardbus_schemas.commands import Delete, Place
from shardbus_schemas.events import CommandRejected, InstanceDeleted
from shardbus_schemas.ids import CommandId, InstanceId, ModelId
from support.waiting import until


def deleted(command_id: str) -> InstanceDeleted:
    return InstanceDeleted(instance_id=InstanceId("tiny-1"), command_id=CommandId(command_id))


def test_the_answer_to_our_command_is_returned_and_others_are_not() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        command = Delete(instance_id=InstanceId("tiny-1"))
        asking = asyncio.create_task(ask(bus, command, timeout_seconds=10))
        log = bus.server.log(COMMANDS)
        await until(lambda: log.messages, what="the command")
        ours = log.messages[0].headers["ce-id"]
        await publish(bus, deleted("somebody-elses"), source="test")
        rejected = CommandRejected(
            command_id=CommandId(ours), command_type="Delete", code="unknown_instance", message="no such instance"
        )
        await publish(bus, rejected, source="test")
        assert await asking == rejected

    asyncio.run(scenario())


def test_a_command_id_that_was_answered_long_ago_gets_the_same_answer() -> None:
    """The queue has forgotten it: what is acknowledged is gone, and its id with it."""

    async def scenario() -> None:
        bus = MemoryBus()
        await publish(bus, deleted("mine"), source="test")
        command = Delete(instance_id=InstanceId("tiny-1"), command_id=CommandId("mine"))
        assert await ask(bus, command, timeout_seconds=10) == deleted("mine")

    asyncio.run(scenario())


def test_silence_is_said_and_the_command_stays_in_the_queue() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        with pytest.raises(CommandError, match=r"no placer answered within 0\.05 s") as caught:
            await ask(bus, Place(model_id=ModelId("tiny")), timeout_seconds=0.05)
        assert caught.value.code == Exit.UNREACHABLE
        assert len(bus.server.log(COMMANDS).messages) == 1

    asyncio.run(scenario())


def test_a_command_that_the_placer_could_not_read_is_said_with_the_reason() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        asking = asyncio.create_task(ask(bus, Place(model_id=ModelId("tiny")), timeout_seconds=10))
        log = bus.server.log(COMMANDS)
        await until(lambda: log.messages, what="the command")
        await bury(bus, log.messages[0], code="invalid", reason="model_id: of a newer kind", seen_by="test")
        with pytest.raises(CommandError, match="could not read the command: model_id: of a newer kind") as caught:
            await asking
        assert caught.value.code == Exit.REFUSED

    asyncio.run(scenario())
