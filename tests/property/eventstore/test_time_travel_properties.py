"""Every moment of any history, with any snapshots: the fold of what the streams had then."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_eventstore.differences import differences
from shardbus_eventstore.intake import take
from shardbus_eventstore.moments import Place
from shardbus_eventstore.state import FleetState, living_part
from shardbus_eventstore.time_travel import resolve, state_at
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Outgoing, Stored
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from support.histories import START, histories
from support.snapshots import take_snapshot_of

Told = list[tuple[Stored, datetime]]


@st.composite
def _told(draw: st.DrawFn) -> Told:
    """Return messages of both streams in some order, each with when it is recorded: several at once, too."""
    streams = draw(histories(most=8))
    left = {stream: list(streams[stream]) for stream in (TELEMETRY, FLEET)}
    told: Told = []
    now = START
    while any(left.values()):
        stream = draw(st.sampled_from([stream for stream, batch in left.items() if batch]))
        now += timedelta(seconds=draw(st.integers(0, 2)))
        told.append((left[stream].pop(0), now))
    return told


def _fold_of(told: Told, positions: dict[str, int]) -> FleetState:
    state = FleetState()
    for stream, end in positions.items():
        batch: Sequence[Stored] = [stored for stored, _ in told if stored.stream == stream][:end]
        for index, stored in enumerate(batch, 1):
            moment = [when for one, when in told if one.stream == stream][index - 1]
            again = Stored(stream, index, stored.subject, stored.headers, stored.payload, moment)
            state = take(state, [again]).state
    return living_part(state)


def _count(told: Told, stream: str, until: datetime) -> int:
    return sum(1 for stored, when in told if stored.stream == stream and when <= until)


@given(_told(), st.data())
@settings(deadline=None, max_examples=12)
def test_the_state_of_a_moment_is_the_fold_of_what_the_streams_had_then(told: Told, data: st.DataObject) -> None:
    snapshots = data.draw(st.sets(st.integers(0, max(0, len(told) - 1)), max_size=3))
    times = [when for _, when in told] or [START]
    at = data.draw(st.sampled_from(times)) + timedelta(seconds=data.draw(st.sampled_from([0, 0.5])))
    places = [
        Place(stored.stream, _count(told[: index + 1], stored.stream, when))
        for index, (stored, when) in enumerate(told)
    ]
    place = data.draw(st.sampled_from(places)) if places else None

    async def scenario() -> None:
        clock = [START]
        bus = MemoryBus(now=lambda: clock[0])
        for index, (stored, when) in enumerate(told):
            clock[0] = when
            await bus.append(Outgoing(stored.subject, stored.payload, stored.headers))
            if index in snapshots:
                await take_snapshot_of(bus)
        now = times[-1] + timedelta(seconds=1)
        moment = await resolve(bus, at, now)
        expected = {stream: _count(told, stream, at) for stream in (FLEET, TELEMETRY)}
        assert (moment.fleet, moment.telemetry) == (expected[FLEET], expected[TELEMETRY])
        past = await state_at(bus, moment)
        assert past.notes == ()
        assert living_part(past.state) == _fold_of(told, expected)
        present = await resolve(bus, now, now)
        later = await state_at(bus, present, earlier=past)
        assert living_part(later.state) == living_part((await state_at(bus, present)).state)
        assert differences(past.state, moment.time, past.state, moment.time) == ()
        if place is not None:
            there = await resolve(bus, place, now)
            assert there.position(place.stream) == place.sequence
            other = FLEET if place.stream == TELEMETRY else TELEMETRY
            assert there.position(other) == _count(told, other, there.time)
            assert living_part((await state_at(bus, there)).state) == _fold_of(
                told, {FLEET: there.fleet, TELEMETRY: there.telemetry or 0}
            )

    asyncio.run(scenario())
