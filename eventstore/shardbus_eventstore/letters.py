"""The dead letters as ``DEAD`` has them, and whether this program can read what the others could not."""

import base64
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shardbus_infra.bus.port import Log, Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, TELEMETRY
from shardbus_schemas.events import DeadLettered, DeadLetterRetried
from shardbus_schemas.registry import UnreadableMessageError
from shardbus_schemas.subjects import COMMANDS_ALL, matches

from shardbus_eventstore.intake import examine
from shardbus_eventstore.state import DeadLetterKey, DeadLetterRecord, RetriedLetter
from shardbus_eventstore.unknown_devices import CODE as UNKNOWN_DEVICE

FOLDED: Final = (FLEET, TELEMETRY)
"""The streams whose messages are folded: a letter of theirs is retried by a rebuild of the read model."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter by its number, which is its sequence in ``DEAD``."""

    record: DeadLetterRecord
    """Without its payload, of which there may be much."""
    payload_bytes: int
    retried: RetriedLetter | None

    @property
    def number(self) -> int:
        """What a person calls it by."""
        return self.record.sequence


async def letters(log: Log) -> Sequence[Letter]:
    """Return what lies in ``DEAD``, the oldest first; what was buried twice is there once."""
    info = await log.info(DEAD)
    records: dict[DeadLetterKey, tuple[DeadLetterRecord, int]] = {}
    retried: dict[DeadLetterKey, RetriedLetter] = {}
    if info.messages:
        async with contextlib.aclosing(log.follow(DEAD, max_batch=200, idle_seconds=0.5)) as batches:
            async for batch in batches:
                for received in examine(batch).received:
                    message = received.message
                    if isinstance(message, DeadLetterRetried):
                        done = RetriedLetter(message, received.sequence, received.recorded_at)
                        retried.setdefault(done.key, done)
                    elif isinstance(message, DeadLettered):
                        light = message.model_copy(update={"payload_base64": ""})
                        record = DeadLetterRecord(light, received.sequence, received.recorded_at)
                        records.setdefault(record.key, (record, len(message.payload_base64) * 3 // 4))
                if not batch or batch[-1].sequence >= info.last_sequence:
                    break
    return [Letter(record, size, retried.get(key)) for key, (record, size) in records.items()]


async def read_letter(log: Log, number: int) -> DeadLettered | None:
    """Return the letter of a number, whole; ``None`` if there is none."""
    stored = await log.get(DEAD, number)
    if stored is None:
        return None
    received = examine([stored]).received
    message = received[0].message if received else None
    return message if isinstance(message, DeadLettered) else None


def original_of(letter: DeadLettered) -> Stored:
    """Return the message that was buried, as far as the letter has it."""
    payload = base64.b64decode(letter.payload_base64)
    return Stored(letter.stream, letter.sequence, letter.subject, letter.headers, payload, letter.recorded_at)


async def why_not(log: Log, letter: DeadLettered) -> str | None:
    """Return why a letter cannot be retried now, for a person; ``None`` if it can."""
    if letter.stream in FOLDED:
        return await _why_not_folded(log, letter)
    if letter.stream == COMMANDS:
        return _why_not_published(letter)
    return f"nobody knows what to do with a message of {letter.stream}"


async def _why_not_folded(log: Log, letter: DeadLettered) -> str | None:
    if letter.code == UNKNOWN_DEVICE:
        return "its readings were folded: they are seen once the device is registered"
    held = await log.get(letter.stream, letter.sequence)
    if held is None:
        info = await log.info(letter.stream)
        readable = "could be read now, but " if _objection(original_of(letter)) is None else ""
        return f"it {readable}is gone from {letter.stream}, which begins at {info.first_sequence} by now"
    if held.recorded_at != letter.recorded_at:
        return f"{letter.stream} has another message at {letter.sequence}: it was made anew since"
    return _objection(held)


def _objection(stored: Stored) -> str | None:
    examined = examine([stored])
    refused = (*examined.rejected, *examined.skipped)
    return f"{refused[0].code}: {refused[0].reason}" if refused else None


def _why_not_published(letter: DeadLettered) -> str | None:
    if "are kept)" in letter.reason or "too long to be kept)" in letter.reason:
        return "it was too large to be kept whole"
    try:
        message = receive(original_of(letter)).message
    except UnreadableMessageError as error:
        return f"{error.code}: {error}"
    return None if matches(COMMANDS_ALL, letter.subject) else f"{type(message).__name__} is no command"


def without_server_headers(stored: Stored) -> Stored:
    """Return a message without what was said to the server when it was published: that is over."""
    headers = {name: value for name, value in stored.headers.items() if not name.lower().startswith("nats-")}
    return replace(stored, headers=headers)
