"""Past decisions get the states that they saw: exactly those, in one pass, or the reason why not."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.intake import take
from shardbus_eventstore.past_decisions import EVERYTHING, PastDecision, Span, _nearly_sorted, past_decisions
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Log
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_placer.knowledge import Knowledge
from support.placing import placed_on
from support.simulated_decisions import KNOWLEDGE, START, Day

SIMPLE = Knowledge(KNOWLEDGE.catalogue, KNOWLEDGE.policy, placed_on)
"""Quick to decide: here only the states matter."""


def day(seed: int = 1, decisions: int = 120) -> Day:
    simulated = Day(seed, SIMPLE)
    simulated.run(decisions)
    return simulated


def found(log: Log, span: Span = EVERYTHING, **more: Any) -> list[PastDecision]:
    async def collect() -> list[PastDecision]:
        async with aclosing(past_decisions(log, span, **more)) as decisions:
            return [one async for one in decisions]

    return asyncio.run(collect())


def states(bus: MemoryBus, stream: str) -> list[FleetState]:
    """Return the state after each message of a stream: the first is the empty one."""
    found = [FleetState()]
    for stored in bus.server.log(stream).messages:
        found.append(take(found[-1], (stored,)).state)
    return found


@pytest.mark.parametrize("window", [1, 2, 64])
def test_each_decision_gets_the_fleet_that_it_saw(window: int) -> None:
    simulated = day()
    decisions = found(simulated.bus, window=window)
    assert len(decisions) == simulated.answers.total()
    assert len({one.sequence for one in decisions}) == len(decisions)
    readings, events = states(simulated.bus, TELEMETRY), states(simulated.bus, FLEET)
    for one in decisions:
        at = one.event.position
        assert one.state is not None
        assert one.as_of == at.as_of or at.as_of is None
        heard = readings[at.telemetry_sequence]
        told = replace(
            events[at.fleet_sequence],
            device_states=heard.device_states,
            node_heard=heard.node_heard,
            links=heard.links,
            positions={TELEMETRY: at.telemetry_sequence, FLEET: at.fleet_sequence},
        )
        assert fleet_of(one.state, one.as_of) == fleet_of(told, one.as_of)
        assert one.state.models == told.models


def test_only_a_window_of_decisions_is_held() -> None:
    simulated = day()
    in_order = [one.sequence for one in found(simulated.bus)]
    assert in_order != sorted(in_order)  # several placers: what they saw is not in the order of their answers
    assert sorted(in_order) == sorted(one.sequence for one in found(simulated.bus, window=1))


def test_a_span_is_of_sequences_or_of_times_and_holds_both_ends() -> None:
    simulated = day()
    everything = {one.sequence: one for one in found(simulated.bus)}
    sequences = sorted(everything)
    low, high = sequences[20], sequences[40]
    wanted = sequences[20:41]
    assert sorted(one.sequence for one in found(simulated.bus, Span(low, high))) == wanted
    times = Span(everything[low].recorded_at, everything[high].recorded_at)
    assert sorted(one.sequence for one in found(simulated.bus, times)) == wanted
    assert found(simulated.bus, Span(10**9)) == []
    assert found(simulated.bus, Span(START + timedelta(days=99))) == []
    assert found(simulated.bus, Span(until=START)) == []


def test_an_empty_system_has_no_decisions() -> None:
    assert found(MemoryBus()) == []


def test_what_is_not_wanted_costs_no_state() -> None:
    simulated = day(decisions=30)
    assert found(simulated.bus, wanted=lambda _: False) == []


def trim(bus: MemoryBus, stream: str, first: int) -> None:
    log = bus.server.log(stream)
    del log.messages[: log.index_of(first)]


def test_where_readings_were_trimmed_the_state_is_not_made_up() -> None:
    simulated = day()
    decisions = {one.sequence: one for one in found(simulated.bus)}
    half = simulated.bus.server.log(TELEMETRY).last_sequence // 2
    trim(simulated.bus, TELEMETRY, half)
    after = found(simulated.bus)
    assert {one.sequence for one in after} == set(decisions)
    for one in after:
        seen = one.event.position.telemetry_sequence
        assert one.missing == (None if seen == 0 else "telemetry_gone")
        assert (one.state is None) == (seen > 0)
    # Nor where only later readings are asked for: what was trimmed may have told of links and devices since silent.
    late = [sequence for sequence, one in decisions.items() if one.event.position.telemetry_sequence > half]
    assert {one.missing for one in found(simulated.bus, Span(max(late)))} == {"telemetry_gone"}


def test_a_state_to_begin_with_makes_up_for_what_was_trimmed() -> None:
    simulated = day()
    middle = simulated.bus.server.log(TELEMETRY).last_sequence // 2
    before = found(simulated.bus)
    base = states(simulated.bus, TELEMETRY)[middle]
    trim(simulated.bus, TELEMETRY, middle + 1)
    after = {one.sequence: one for one in found(simulated.bus, base=base)}
    for one in before:
        if one.event.position.telemetry_sequence >= middle:
            assert after[one.sequence].state == one.state
        else:
            assert after[one.sequence].missing == "telemetry_gone"


def test_a_hole_in_the_readings_makes_what_follows_unknown() -> None:
    simulated = day()
    hole = simulated.bus.server.log(TELEMETRY).last_sequence // 2
    simulated.bus.server.log(TELEMETRY).remove(hole)
    for one in found(simulated.bus):
        assert (one.missing is None) == (one.event.position.telemetry_sequence < hole)


def test_a_trimmed_tail_ends_the_wait() -> None:
    simulated = day()
    log = simulated.bus.server.log(TELEMETRY)
    end = log.last_sequence
    del log.messages[log.index_of(end - 9) :]
    for one in found(simulated.bus):
        assert (one.missing is None) == (one.event.position.telemetry_sequence < end - 9)


def test_readings_that_came_after_the_decision_were_not_what_it_saw() -> None:
    simulated = day()
    log = simulated.bus.server.log(TELEMETRY)
    log.messages[:] = [replace(stored, recorded_at=START + timedelta(days=9)) for stored in log.messages]
    for one in found(simulated.bus):
        assert one.missing == ("telemetry_replaced" if one.event.position.telemetry_sequence else None)


def test_nothing_is_known_of_events_that_an_archive_lacks() -> None:
    simulated = day()
    simulated.bus.server.log(FLEET).remove(2)
    decisions = found(simulated.bus)
    assert decisions
    assert {one.missing for one in decisions} == {"fleet_gone"}


def test_decisions_of_older_placers_are_judged_at_the_time_that_their_event_names() -> None:
    simulated = day(decisions=5)
    log = simulated.bus.server.log(FLEET)

    def without_time(payload: bytes) -> bytes:
        return payload.replace(b'"as_of"', b'"as_of_nothing"')

    log.messages[:] = [replace(stored, payload=without_time(stored.payload)) for stored in log.messages]
    occurred = {stored.sequence: datetime.fromisoformat(stored.headers["ce-time"]) for stored in log.messages}
    decisions = found(simulated.bus)
    assert decisions
    for one in decisions:
        assert one.event.position.as_of is None
        assert one.as_of == occurred[one.sequence]


@pytest.mark.parametrize("window", [0, 1, 3, 100])
def test_sorting_gives_all_in_order_or_gives_them_away(window: int) -> None:
    async def items(numbers: Sequence[int]) -> AsyncGenerator[int, None]:
        for number in numbers:
            yield number

    async def scenario() -> None:
        late: list[int] = []
        numbers = [3, 1, 2, 2, 9, 4, 8, 0, 5]
        kept = [one async for one in _nearly_sorted(items(numbers), lambda one: one, window, late.append)]
        assert kept == sorted(kept)
        assert sorted(kept + late) == sorted(numbers)
        assert bool(late) == (window < 7)

    asyncio.run(scenario())
