"""The state as it was: any moment of the streams, folded from the nearest snapshot before it.

The shell of ``moments.py``, over whatever can be read like the bus.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from shardbus_infra.bus.port import Log, Stored
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas import subjects

from shardbus_eventstore.intake import advance, take
from shardbus_eventstore.moments import Moment, MomentError, Place
from shardbus_eventstore.snapshot.manifest import Manifest
from shardbus_eventstore.snapshot.store import restore
from shardbus_eventstore.state import FleetState

_IDLE_SECONDS: Final = 1.0
_BATCH: Final = 5000

Progress = Callable[[int, int], None]
"""Is told how many messages were folded, and of how many."""


@dataclass(frozen=True, slots=True)
class Past:
    """The state of a moment."""

    moment: Moment
    state: FleetState
    """``positions`` say what was folded: of ``TELEMETRY`` it may be less than the moment asks for."""
    notes: tuple[str, ...] = ()
    """What of it cannot be known any more, for a person."""


async def resolve(reading: Log, at: Place | datetime, now: datetime) -> Moment:
    """Return the moment of ``at``: of a place, when its message was recorded, and where the other stream was then.

    Raises MomentError if there is no such place, and BusError. Times are those of the bus, and never go back in a
    stream.
    """
    if isinstance(at, datetime):
        if at >= now:
            ends = {stream: (await reading.info(stream)).last_sequence for stream in (FLEET, TELEMETRY)}
            return Moment(now, ends[FLEET], ends[TELEMETRY])
        return Moment(at, await position_at(reading, FLEET, at) or 0, await position_at(reading, TELEMETRY, at))
    info = await reading.info(at.stream)
    held = await reading.get(at.stream, at.sequence) if 1 <= at.sequence <= info.last_sequence else None
    if held is None:
        holds = f"{info.first_sequence} to {info.last_sequence}" if info.messages else "nothing"
        raise MomentError(f"there is no message {at}: {at.stream} holds {holds}")
    if at.stream == FLEET:
        return Moment(held.recorded_at, at.sequence, await position_at(reading, TELEMETRY, held.recorded_at))
    return Moment(held.recorded_at, await position_at(reading, FLEET, held.recorded_at) or 0, at.sequence)


async def position_at(reading: Log, stream: str, time: datetime) -> int | None:
    """Return the last sequence that ``stream`` had at ``time``; ``None`` if it no longer reaches back so far.

    A binary search: twenty messages are looked at in a stream of a million.
    """
    info = await reading.info(stream)
    if info.last_sequence == 0:
        return 0
    first = await _held(reading, stream, info.first_sequence, info.last_sequence)
    if first is None or first.recorded_at > time:
        return 0 if info.first_sequence <= 1 and first is not None else None
    low, high = first.sequence, info.last_sequence + 1
    while high - low > 1:
        middle = (low + high) // 2
        found = await _held(reading, stream, middle, high - 1)
        if found is None:
            high = middle
        elif found.recorded_at <= time:
            low = found.sequence
        else:
            high = middle
    return low


async def _held(reading: Log, stream: str, sequence: int, last: int) -> Stored | None:
    """Return the first message that the stream still holds from ``sequence`` to ``last``."""
    for candidate in range(sequence, last + 1):
        if (stored := await reading.get(stream, candidate)) is not None:
            return stored
    return None


async def state_at(
    reading: Log, moment: Moment, *, earlier: Past | None = None, progress: Progress | None = None
) -> Past:
    """Return the state of ``moment``, from the nearest snapshot before it, or from ``earlier`` if that is nearer.

    Of ``TELEMETRY`` what retention left is folded; the notes say what is missing. Raises BusError.
    """

    def is_before(manifest: Manifest) -> bool:
        if manifest.position(FLEET) > moment.fleet:
            return False
        if moment.telemetry is not None:
            return manifest.position(TELEMETRY) <= moment.telemetry
        recorded_at = manifest.recorded_at(TELEMETRY)
        return manifest.position(TELEMETRY) == 0 or (recorded_at is not None and recorded_at <= moment.time)

    snapshot = await restore(reading, wanted=is_before, bridging=False)
    state = FleetState() if snapshot is None else snapshot.state
    told_at = None if snapshot is None or TELEMETRY not in state.positions else snapshot.manifest.recorded_at(TELEMETRY)
    if earlier is not None and _is_nearer(earlier.state, state, moment):
        state = earlier.state
    notes = await _notes(reading, moment, state, told_at)
    for stream in (FLEET, TELEMETRY):
        end = moment.position(stream)
        if end is not None:
            state = await _fold_to(reading, state, stream, end, progress)
    return Past(moment, state, notes)


async def with_deleted(reading: Log, before: Past, after: Past) -> Past:
    """Return ``after`` with what was deleted since ``before`` and why, which a snapshot between them left out."""
    instances = dict(after.state.instances)
    for name, record in before.state.instances.items():
        if name not in instances:
            last = await reading.last(FLEET, subjects.event("instance", name))
            if last is not None and last.sequence <= after.moment.fleet:
                alone = take(FleetState(instances={name: record}), (last,)).state
                instances[name] = alone.instances[name]
    return replace(after, state=replace(after.state, instances=instances))


def _is_nearer(state: FleetState, other: FleetState, moment: Moment) -> bool:
    for stream in (FLEET, TELEMETRY):
        position, end = state.positions.get(stream, 0), moment.position(stream)
        if end is None or not other.positions.get(stream, 0) <= position <= end:
            return False
    return True


async def _notes(reading: Log, moment: Moment, state: FleetState, told_at: datetime | None) -> tuple[str, ...]:
    """Return what of ``TELEMETRY`` is not known between ``state``, told at ``told_at``, and ``moment``."""
    position = state.positions.get(TELEMETRY, 0)
    info = await reading.info(TELEMETRY)
    gone = min(info.first_sequence - 1, info.last_sequence)
    if moment.telemetry is None:
        lost = f"TELEMETRY no longer reaches back to {moment.time:%Y-%m-%d %H:%M:%S} UTC"
        if told_at is None:
            return (f"{lost}, and no snapshot does: no reading is known from then",)
        return (f"{lost}: the readings are those of {told_at:%Y-%m-%d %H:%M:%S} UTC, from a snapshot",)
    if position < min(gone, moment.telemetry):
        lost = f"TELEMETRY no longer holds its messages {position + 1} to {min(gone, moment.telemetry)}"
        return (f"{lost}: what was told only there is missing or older than it was",)
    return ()


async def _fold_to(reading: Log, state: FleetState, stream: str, end: int, progress: Progress | None) -> FleetState:
    begin = state.positions.get(stream, 0)
    info = await reading.info(stream)
    if begin >= end or info.first_sequence > end or not info.messages:
        return advance(state, stream, end)
    batches = reading.follow(stream, start_sequence=begin + 1, max_batch=_BATCH, idle_seconds=_IDLE_SECONDS)
    async with contextlib.aclosing(batches):
        async for batch in batches:
            if batch:
                state = take(state, [stored for stored in batch if stored.sequence <= end]).state
                if progress is not None:
                    progress(min(batch[-1].sequence, end) - begin, end - begin)
                if batch[-1].sequence >= end:
                    break
            elif await reading.get(stream, end) is None:
                break  # it expired meanwhile
    return advance(state, stream, end)
