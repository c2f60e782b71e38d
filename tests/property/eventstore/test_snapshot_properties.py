"""A snapshot holds all that the future depends on, and nothing depends on what it leaves out."""

from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.intake import take
from shardbus_eventstore.snapshot.codec import load, save
from shardbus_eventstore.state import FleetState, living_part
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import DEAD
from support.histories import START, histories

Streams = dict[str, list[Stored]]


def _folded(state: FleetState, streams: Streams) -> FleetState:
    for batch in streams.values():
        state = take(state, batch).state
    return state


@st.composite
def _cut(draw: st.DrawFn) -> tuple[Streams, Streams]:
    """Return the streams up to some moment, and what follows."""
    whole = draw(histories())
    cuts = {stream: draw(st.integers(0, len(batch))) for stream, batch in whole.items()}
    before = {stream: batch[: cuts[stream]] for stream, batch in whole.items()}
    return before, {stream: batch[cuts[stream] :] for stream, batch in whole.items()}


@given(_cut())
@settings(deadline=None, max_examples=15)
def test_folding_goes_on_from_a_snapshot_as_from_the_state(cut: tuple[Streams, Streams]) -> None:
    before, rest = cut
    state = _folded(FleetState(), before)
    resumed = load(save(living_part(state)))
    assert resumed == living_part(state)
    assert living_part(_folded(resumed, rest)) == living_part(_folded(state, rest))


@given(_cut())
@settings(deadline=None, max_examples=10)
def test_whoever_plans_on_a_snapshot_sees_the_same_fleet(cut: tuple[Streams, Streams]) -> None:
    state = _folded(FleetState(), cut[0])
    assert fleet_of(load(save(state)), START) == fleet_of(state, START)


@given(histories())
@settings(deadline=None, max_examples=10)
def test_what_a_snapshot_leaves_out_is_what_is_deleted_dead_or_counted(streams: Streams) -> None:
    state = _folded(FleetState(), streams)
    living = living_part(state)
    for kept in ("device_states", "node_heard", "links", "nodes", "devices", "models", "decisions"):
        assert getattr(living, kept) == getattr(state, kept), kept
    assert living.positions == {stream: at for stream, at in state.positions.items() if stream != DEAD}
    gone = state.instances.keys() - living.instances.keys()
    assert all(state.instances[name].status == "deleted" for name in gone)
    assert all(record.status != "deleted" for record in living.instances.values())
    assert (living.dead_letters, living.ignored, DEAD in living.positions) == ({}, {}, False)
