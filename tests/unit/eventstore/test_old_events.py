"""What was once written is folded for ever: the golden message of every version of every event."""

import json
from datetime import UTC, datetime

import pytest
from shardbus_eventstore.intake import take
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Stored
from shardbus_schemas.registry import COMMAND_TYPES, MESSAGE_TYPES, encode, type_of, version_of
from support.golden import GOLDEN, Golden
from support.histories import STREAM_OF

EVENTS = {key: golden for key, golden in GOLDEN.items() if MESSAGE_TYPES[golden.type] not in COMMAND_TYPES}
RECORDED_AT = datetime(2027, 1, 1, tzinfo=UTC)


def as_stored(golden: Golden, payload: bytes, sequence: int = 1) -> Stored:
    stream = STREAM_OF[MESSAGE_TYPES[golden.type]]
    return Stored(stream, sequence, golden.subject, golden.headers, payload, RECORDED_AT)


def original(golden: Golden, sequence: int = 1) -> Stored:
    return as_stored(golden, json.dumps(golden.payload).encode(), sequence)


@pytest.mark.parametrize("key", EVENTS)
def test_an_event_of_any_version_is_folded(key: str) -> None:
    taken = take(FleetState(), [original(EVENTS[key])])
    (received,) = taken.examined.received
    assert (taken.examined.rejected, taken.examined.skipped) == ((), ())
    assert type_of(received.message) == EVENTS[key].type


@pytest.mark.parametrize("key", EVENTS)
def test_an_old_version_folds_like_the_same_event_written_today(key: str) -> None:
    golden = EVENTS[key]
    old = take(FleetState(), [original(golden)])
    message = old.examined.received[0].message
    current = str(version_of(message))
    today = as_stored(golden._replace(headers={**golden.headers, "ce-typeversion": current}), encode(message))
    assert take(FleetState(), [today]).state == old.state


def test_all_that_was_ever_written_makes_one_history() -> None:
    places: dict[str, int] = {}
    state = FleetState()
    for golden in EVENTS.values():
        stream = STREAM_OF[MESSAGE_TYPES[golden.type]]
        places[stream] = places.get(stream, 0) + 1
        state = take(state, [original(golden, places[stream])]).state
    assert state.positions == places
    for part in ("device_states", "links", "nodes", "models", "decisions", "dead_letters"):
        assert getattr(state, part), part
