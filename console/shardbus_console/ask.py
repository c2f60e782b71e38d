"""Sending a command and waiting for its answer."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence

from shardbus_infra.bus.port import Bus, Stored
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET
from shardbus_schemas import events, subjects
from shardbus_schemas.commands import Command
from shardbus_schemas.ids import CommandId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import UnreadableMessageError

from shardbus_console.exits import CommandError, Exit

Answer = events.Answer


async def ask(bus: Bus, command: Command, *, timeout_seconds: float) -> Answer:
    """Append ``command`` and return the event that answers it.

    Raises CommandError when nobody answers in time; the command then stays in the queue.
    """
    command_id = command.command_id or CommandId(f"cli-{uuid.uuid4()}")
    start = (await bus.info(FLEET)).last_sequence + 1
    dead_start = (await bus.info(DEAD)).last_sequence + 1
    sent = command.model_copy(update={"command_id": command_id})
    appended = await publish(bus, sent, source="console", event_id=command_id)
    # The same id again is the same command: its answer may be older than this question. The queue alone does not tell:
    # it forgets the ids of what was answered.
    first = 1 if command.command_id else start
    return await wait_for_answer(
        bus,
        lambda answered: answered == command_id,
        command_sequence=appended.sequence,
        fleet_start=first,
        dead_start=dead_start,
        timeout_seconds=timeout_seconds,
    )


async def wait_for_answer(
    bus: Bus,
    is_ours: Callable[[str], bool],
    *,
    command_sequence: int,
    fleet_start: int,
    dead_start: int,
    timeout_seconds: float,
) -> Answer:
    """Return the event that answers the command whose id ``is_ours``, from ``fleet_start`` on.

    Raises CommandError if the command was buried, or nobody answers in time; then it stays in the queue.
    """
    watches: list[asyncio.Task[Answer] | asyncio.Task[events.DeadLettered]] = [
        asyncio.create_task(_answer(bus, is_ours, fleet_start)),
        asyncio.create_task(_burial(bus, command_sequence, dead_start)),
    ]
    try:
        done, _ = await asyncio.wait(watches, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.wait(watches)
    if not done:
        raise CommandError(
            f"no placer answered within {timeout_seconds:g} s. The command stays in the queue and is "
            "answered when a placer runs: start one with `shardbus placer`, or all of it with `shardbus up`",
            Exit.UNREACHABLE,
        )
    answer = done.pop().result()
    if isinstance(answer, events.DeadLettered):
        raise CommandError(f"the placer could not read the command: {answer.reason}", Exit.REFUSED)
    return answer


async def _answer(bus: Bus, is_ours: Callable[[str], bool], start: int) -> Answer:
    async for message in _messages(bus, FLEET, start, subjects.ANSWERS):
        if isinstance(message, Answer) and message.command_id is not None and is_ours(message.command_id):
            return message
    raise AssertionError("a stream is followed for ever")


async def _burial(bus: Bus, command_sequence: int, start: int) -> events.DeadLettered:
    async for message in _messages(bus, DEAD, start, ()):
        if (
            isinstance(message, events.DeadLettered)
            and message.stream == COMMANDS
            and message.sequence == command_sequence
        ):
            return message
    raise AssertionError("a stream is followed for ever")


async def _messages(bus: Bus, stream: str, start: int, wanted: Sequence[str]) -> AsyncGenerator[FrozenModel]:
    """Yield what can be read of ``stream``, from ``start``, for ever."""
    batches = bus.follow(stream, start_sequence=start, subjects=wanted)
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for stored in batch:
                if (message := _read(stored)) is not None:
                    yield message


def _read(stored: Stored) -> FrozenModel | None:
    try:
        return receive(stored).message
    except UnreadableMessageError:
        return None  # a newer producer's; not an answer this program could understand
