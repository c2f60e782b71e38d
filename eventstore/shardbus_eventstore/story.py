"""A decision's whole story, from the streams: who asked for what, what was known, what was answered, what followed."""

import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Literal

from shardbus_infra.bus.port import Log, Stored, StreamMissingError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, TELEMETRY
from shardbus_schemas import commands, events, subjects
from shardbus_schemas.envelope import TYPE
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import Placed, PlacementRequest, Refused, StatePosition
from shardbus_schemas.registry import Received, UnreadableMessageError

from shardbus_eventstore.life_reading import messages_on, read
from shardbus_eventstore.live import read_state
from shardbus_eventstore.selection import correlation_of
from shardbus_eventstore.wording import asked_for, summary


class CommandPart(FrozenModel):
    """Who asked, and for what."""

    command_id: str | None
    type: str
    asked: events.Asked | None = None
    """``None``: not noted. The queue forgets a command once it is answered, and older answers did not say."""
    request: PlacementRequest | None = None
    """As it was decided on; for a placement."""
    deployment_id: str | None = None
    """Whose replica it is that nobody asked for by itself."""
    fate: Literal["answered", "waiting", "buried"] = "answered"
    why: str | None = None
    """Why it was buried."""


class StreamUsed(FrozenModel):
    """How far a stream was folded when the decision was taken."""

    stream: str
    sequence: int
    recorded_at: datetime | None
    """Of the message at ``sequence``; ``None`` if the stream does not hold it any more, or there was none."""
    age_seconds: float | None
    """How old it was when the answer was recorded."""


class StatePart(FrozenModel):
    """What the decision was taken on."""

    streams: tuple[StreamUsed, ...]
    considered: tuple[DeviceKey, ...]
    """The devices that were judged."""
    chosen: tuple[DeviceKey, ...]


class AnswerPart(FrozenModel):
    """What was decided."""

    type: str
    source: str
    sequence: int
    recorded_at: datetime
    seconds_after_command: float | None
    text: str
    instance_id: str | None = None
    plan: Placed | None = None
    refused: Refused | None = None


class StoryEvent(FrozenModel):
    """Something that followed."""

    sequence: int
    recorded_at: datetime
    type: str
    source: str
    text: str


class Story(FrozenModel):
    """All that the streams say of one decision."""

    name: str
    command: CommandPart
    state: StatePart | None = None
    """``None`` for an answer that looks at no device."""
    answer: AnswerPart | None = None
    """``None`` while it waits in the queue, or if it was buried."""
    followed: tuple[StoryEvent, ...] = ()


async def tell_story(reading: Log, name: str) -> Story | None:
    """Return the story of an instance or of a command; ``None`` if nothing is named so. Raises BusError."""
    answer = await _answer(reading, name)
    if answer is not None:
        return await _of_answer(reading, name, answer)
    return await _of_unanswered(reading, name)


async def _answer(reading: Log, name: str) -> Received[FrozenModel] | None:
    """Return what placed the instance ``name``, or the first answer to the command ``name``."""
    if not _is_token(name):
        return None
    if await reading.last(FLEET, subjects.event("instance", name)) is not None:
        async with contextlib.aclosing(messages_on(reading, FLEET, (subjects.event("instance", name),))) as told:
            async for stored in told:
                if (received := read(stored)) is not None:
                    return received
    # Only the state knows where a command that placed something was answered: its subject names the instance.
    sequence = (await read_state(reading)).decisions.get(name)  # pyright: ignore[reportArgumentType]  # ids are text
    stored = None if sequence is None else await reading.get(FLEET, sequence)
    return None if stored is None else read(stored)


def _is_token(name: str) -> bool:
    try:
        subjects.encode_token(name)
    except subjects.SubjectError:
        return False
    return True


async def _of_answer(reading: Log, name: str, received: Received[FrozenModel]) -> Story:
    message = received.message
    asked: events.Asked | None = getattr(message, "asked", None)
    result = getattr(message, "plan", None) or getattr(message, "result", None)
    position: StatePosition | None = getattr(message, "position", None)
    instance_id: str | None = getattr(message, "instance_id", None)
    return Story(
        name=name,
        command=CommandPart(
            command_id=getattr(message, "command_id", None),
            type=asked_for(message)[0],
            asked=asked,
            request=getattr(message, "request", None),
            deployment_id=getattr(message, "deployment_id", None) if asked is None else None,
        ),
        state=None if position is None else await _state_part(reading, received, position, result),
        answer=AnswerPart(
            type=received.envelope.type,
            source=received.envelope.source,
            sequence=received.sequence,
            recorded_at=received.recorded_at,
            seconds_after_command=None if asked is None else (received.recorded_at - asked.recorded_at).total_seconds(),
            text=summary(message),
            instance_id=instance_id,
            plan=result if isinstance(result, Placed) else None,
            refused=result if isinstance(result, Refused) else None,
        ),
        followed=await _followed(reading, received, instance_id, alone=instance_id == name),
    )


async def _state_part(
    reading: Log, received: Received[FrozenModel], position: StatePosition, result: Placed | Refused | None
) -> StatePart:
    used: list[StreamUsed] = []
    for stream, sequence in ((TELEMETRY, position.telemetry_sequence), (FLEET, position.fleet_sequence)):
        held = await reading.get(stream, sequence) if sequence else None
        age = None if held is None else (received.recorded_at - held.recorded_at).total_seconds()
        recorded_at = None if held is None else held.recorded_at
        used.append(StreamUsed(stream=stream, sequence=sequence, recorded_at=recorded_at, age_seconds=age))
    verdicts = () if result is None else result.devices
    return StatePart(
        streams=tuple(used),
        considered=tuple(verdict.device for verdict in verdicts),
        chosen=tuple(verdict.device for verdict in verdicts if verdict.chosen),
    )


async def _followed(
    reading: Log, answer: Received[FrozenModel], instance_id: str | None, *, alone: bool
) -> tuple[StoryEvent, ...]:
    """Return what came after the answer: about its instance, or, unless that ``alone``, because of the same command."""
    correlation = None if alone else answer.envelope.correlation_id
    about = None if instance_id is None else subjects.event("instance", instance_id)
    wanted = (about,) if alone and about is not None else subjects.ANSWERS
    found: list[StoryEvent] = []
    async for stored in messages_on(reading, FLEET, wanted, start=answer.sequence + 1):
        same = correlation is not None and correlation_of(stored.headers) == correlation
        if (stored.subject == about or same) and (received := read(stored)) is not None:
            found.append(
                StoryEvent(
                    sequence=received.sequence,
                    recorded_at=received.recorded_at,
                    type=received.envelope.type,
                    source=received.envelope.source,
                    text=summary(received.message),
                )
            )
    return tuple(found)


async def _of_unanswered(reading: Log, name: str) -> Story | None:
    command = await _waiting(reading, name) or await _buried(reading, name)
    return None if command is None else Story(name=name, command=command)


async def _waiting(reading: Log, name: str) -> CommandPart | None:
    async with contextlib.aclosing(_messages_of_queue(reading)) as queue:
        async for stored in queue:
            received = _understood(stored)
            if received is None or not isinstance(received.message, commands.Command):
                continue
            if name in {received.message.command_id, received.envelope.event_id}:
                asked = events.Asked(
                    source=received.envelope.source,
                    occurred_at=received.envelope.occurred_at,
                    recorded_at=received.recorded_at,
                    sequence=received.sequence,
                )
                return CommandPart(command_id=name, type=received.envelope.type, asked=asked, fate="waiting")
    return None


async def _buried(reading: Log, name: str) -> CommandPart | None:
    async with contextlib.aclosing(messages_on(reading, DEAD, (subjects.dead(COMMANDS),))) as letters:
        async for stored in letters:
            received = _understood(stored)
            letter = None if received is None else received.message
            if isinstance(letter, events.DeadLettered) and name in letter.headers.values():
                kind = letter.headers.get(TYPE, "a command")
                return CommandPart(command_id=name, type=kind, fate="buried", why=letter.reason)
    return None


async def _messages_of_queue(reading: Log) -> AsyncGenerator[Stored]:
    with contextlib.suppress(StreamMissingError):  # an archive has no queue
        info = await reading.info(COMMANDS)
        # A work queue takes no second reader: it is looked at message by message.
        for sequence in range(max(1, info.first_sequence), info.last_sequence + 1):
            if (stored := await reading.get(COMMANDS, sequence)) is not None:
                yield stored


def _understood(stored: Stored) -> Received[FrozenModel] | None:
    """Return what a message means that no fold takes in: a command, or a letter; ``None`` if that cannot be read."""
    try:
        return receive(stored)
    except UnreadableMessageError:
        return None
