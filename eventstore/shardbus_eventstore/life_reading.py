"""The life of an instance read from the streams: its own events, and then, in one pass, what led to them."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from typing import Final

from shardbus_infra.bus.port import Log, Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas import subjects
from shardbus_schemas.envelope import CAUSATION_ID, ID
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received, UnreadableMessageError

from shardbus_eventstore.life import Led, Life, asked_of, ids_to_find, life_of

_PATIENCE_SECONDS: Final = 2.0
_CAUSES: Final = tuple(
    subjects.any_event(kind) for kind in ("instance", "shard", "node", "cordon", "deployment", "command")
)
"""Where what leads to an instance's events is, and what answers commands that do."""
_AFTER: Final = 1000
"""How far behind its last event the answer to the command that led to it may be."""

Progress = Callable[[int, int], None]
"""Is told how many messages were looked at, and of how many."""


async def read_life(reading: Log, instance_id: str, now: datetime, progress: Progress | None = None) -> Life | None:
    """Return the life of an instance up to ``now``; ``None`` if there never was one of this name. Raises BusError.

    All of ``FLEET`` since its first event is looked at where something led to its events that they do not name
    themselves, and what was before only if that was not found there; no message is decoded that is not told.
    """
    about = (subjects.event("instance", instance_id), subjects.event("shard", instance_id))
    async with contextlib.aclosing(messages_on(reading, FLEET, about)) as told:
        own = [received async for stored in told if (received := read(stored)) is not None]
    if not own:
        return None
    led = await _led(reading, ids_to_find(instance_id, own), own[0].sequence, own[-1].sequence, progress)
    return life_of(instance_id, own, led, now=now)


async def _led(reading: Log, wanted: set[str], first: int, last: int, progress: Progress | None) -> Led:
    """Return what has these ids, and what answered commands of these ids."""
    led: dict[str, Received[FrozenModel]] = {}
    answers: dict[str, Received[FrozenModel]] = {}
    for start, end in ((first, last + _AFTER), (1, first - 1)):
        missing = wanted - led.keys() - answers.keys()
        if not missing or end < start:
            continue
        async with contextlib.aclosing(messages_on(reading, FLEET, _CAUSES, start=start, end=end)) as told:
            async for stored in told:
                name, cause = stored.headers.get(ID), stored.headers.get(CAUSATION_ID)
                wanted_here = missing & {name, cause}
                if wanted_here and (received := read(stored)) is not None:
                    if name in wanted_here:
                        led[name] = received
                    if cause in wanted_here and asked_of(received) is not None:
                        answers[cause] = received
                    missing -= led.keys() | answers.keys()
                if progress is not None:
                    progress(stored.sequence - start, end - start)
                if not missing:
                    break
    return Led(led, answers)


async def messages_on(
    reading: Log, stream: str, wanted: Sequence[str], *, start: int = 1, end: int | None = None
) -> AsyncGenerator[Stored]:
    """Yield the messages on subjects ``wanted`` that the stream has now, from ``start`` on, and up to ``end``."""
    newest = [await reading.last(stream, pattern) for pattern in wanted]
    there = max((stored.sequence for stored in newest if stored is not None), default=0)
    stop = there if end is None else min(end, there)
    if stop < start:
        return
    batches = reading.follow(stream, start_sequence=start, subjects=wanted, idle_seconds=_PATIENCE_SECONDS)
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for stored in batch:
                if stored.sequence > stop:
                    return
                yield stored
            if not batch or batch[-1].sequence >= stop:
                return


def read(stored: Stored) -> Received[FrozenModel] | None:
    """Return what a message means; ``None`` if that cannot be read."""
    try:
        return receive(stored)
    except UnreadableMessageError:
        return None
