"""The life of an instance read from the streams: its own events, and then, in one pass, what led to them."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from typing import Final

from shardbus_infra.bus.port import Log, Stored
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas import subjects
from shardbus_schemas.envelope import CAUSATION_ID, ID
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received

from shardbus_eventstore.intake import examine
from shardbus_eventstore.life import Life
from shardbus_eventstore.life_telling import Led, asked_of, ids_to_find, life_of

_PATIENCE_SECONDS: Final = 2.0
_CAUSES: Final = tuple(
    subjects.any_event(kind) for kind in ("instance", "shard", "node", "cordon", "deployment", "command")
)
"""Where what leads to an instance's events is, and what answers commands that do."""
_BEFORE: Final = 200
"""How far before an event what led to it is looked for first: a placer acts at once."""
_AFTER: Final = 50
"""How far behind an event the answer to the command that led to it is looked for first: it is appended last."""
_MOST_WINDOWS: Final = 100

Progress = Callable[[int, int], None]
"""Is told how many messages were looked at, and of how many."""


async def read_life(reading: Log, instance_id: str, now: datetime, progress: Progress | None = None) -> Life | None:
    """Return the life of an instance up to ``now``; ``None`` if there never was one of this name. Raises BusError.

    What led to its events, and is not said by themselves, is looked for around them; then in all of ``FLEET`` since the
    first of them, and at last before it. No message is decoded that is not told.
    """
    about = (subjects.event("instance", instance_id), subjects.event("shard", instance_id))
    async with contextlib.aclosing(messages_on(reading, FLEET, about)) as told:
        own = [received async for stored in told if (received := read(stored)) is not None]
    if not own:
        return None
    return life_of(instance_id, own, await _led(reading, instance_id, own, progress), now=now)


async def _led(reading: Log, instance_id: str, own: Sequence[Received[FrozenModel]], progress: Progress | None) -> Led:
    """Return what led to these events, and what answered the commands that did."""
    wanted = ids_to_find(instance_id, own)
    led: dict[str, Received[FrozenModel]] = {}
    answers: dict[str, Received[FrozenModel]] = {}
    first = own[0].sequence
    end_of_all = (await reading.info(FLEET)).last_sequence
    for start, end in (*_windows(own, wanted), (first, end_of_all), (1, first - 1)):
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


def _windows(own: Sequence[Received[FrozenModel]], wanted: set[str]) -> Sequence[tuple[int, int]]:
    """Return the sequences around the events that something ``wanted`` led to, those that overlap as one."""
    windows: list[tuple[int, int]] = []
    for received in own:
        if received.envelope.causation_id not in wanted:
            continue
        start, end = max(1, received.sequence - _BEFORE), received.sequence + _AFTER
        if windows and start <= windows[-1][1]:
            windows[-1] = (windows[-1][0], end)
        else:
            windows.append((start, end))
    return windows[:_MOST_WINDOWS]


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
    """Return what a message means; ``None`` if the fold refuses it, or does not know it."""
    return next(iter(examine((stored,)).received), None)
