"""How far what was asked for is: what ends a wait, what does not, and the line that says it."""

import pytest
from shardbus_console.progress import (
    QUIET_SECONDS,
    SETTLED_SECONDS,
    STOP_SECONDS,
    InstancesRun,
    Reached,
    ReplicasRun,
    TargetEmpty,
    placed_on,
    shards_text,
)
from shardbus_eventstore.state import FleetState
from shardbus_schemas.ids import DeploymentId, InstanceId
from shardbus_schemas.model import FrozenModel
from support.histories import History
from support.wanted import deleted, moved, node, placed, said, scaled, waits

ATTIC, DESK = node("attic", "g0", "g1"), node("desk", "g0")
LONG = 60.0
ONE = InstancesRun((InstanceId("one"),))


def after(*added: FrozenModel) -> FleetState:
    history = History()
    history.add(*ATTIC, *DESK, *added)
    return history.state


def test_what_is_placed_waits_a_moment_for_a_runtimes_first_word_and_ends_without_one() -> None:
    state = after(placed("one", "attic/g0", "attic/g1"))
    assert ONE(state, 0) == Reached("one is placed, shards 0/2 ready")
    end = ONE(state, QUIET_SECONDS)
    assert end == Reached("one is placed, shards 0/2 ready; no runtime reports its shards", "reached")


def test_once_a_runtime_says_anything_all_shards_must_be_ready() -> None:
    began = (placed("one", "attic/g0", "attic/g1"), said("one", "attic/g0", "loading"))
    assert ONE(after(*began), LONG) == Reached("one is placed, shards 0/2 ready (1 loading)")
    half = (*began, said("one", "attic/g0", "ready"))
    assert ONE(after(*half), LONG) == Reached("one is placed, shards 1/2 ready")
    all_ready = (*half, said("one", "attic/g1", "ready"))
    assert ONE(after(*all_ready), 0) == Reached("one is placed, shards 2/2 ready", "reached")


def test_where_a_neighbours_runtime_reports_this_ones_is_waited_for() -> None:
    neighbour = (placed("two", "attic/g1"), said("two", "attic/g1", "ready"))
    assert ONE(after(*neighbour, placed("one", "attic/g0")), LONG).end is None
    elsewhere = (placed("two", "desk/g0"), said("two", "desk/g0", "ready"))
    assert ONE(after(*elsewhere, placed("one", "attic/g0")), LONG).end == "reached"
    stopped = (placed("two", "attic/g1"), said("two", "attic/g1", "stopped"))
    assert ONE(after(*stopped, placed("one", "attic/g0")), LONG).end == "reached"


def test_a_place_is_enough_if_that_is_asked_and_no_place_is_never_ready() -> None:
    name = (InstanceId("one"),)
    state = after(placed("one", "attic/g0"))
    assert InstancesRun(name, "placed")(state, 0).end == "reached"
    assert InstancesRun(name, "ready")(state, LONG).end is None


def test_a_failed_shard_is_said_with_its_words_and_goes_on_since_it_is_placed_anew() -> None:
    state = after(placed("one", "attic/g0"), said("one", "attic/g0", "failed", message="out of memory"))
    assert ONE(state, LONG) == Reached("one is placed, shards 0/1 ready (1 failed), attic/g0 failed: out of memory")


def test_a_shard_of_an_earlier_plan_is_not_this_plans() -> None:
    ready = said("one", "attic/g0", "ready", start_layer=0, end_layer=2)
    state = after(placed("one", "attic/g0", "attic/g1"), ready, moved("one", "desk/g0", "attic/g0"))
    assert ONE(state, LONG).text == "one is placed, shards 0/2 ready"


def test_what_has_no_place_ends_with_the_reason_unless_a_place_is_waited_for() -> None:
    state = after(waits("one", "4 GiB missing"))
    text = "1 instance waits for a place: one: 4 GiB missing"
    assert ONE(state, 0) == Reached(text)
    assert ONE(state, SETTLED_SECONDS) == Reached(text, "pending")
    patient = InstancesRun((InstanceId("one"),), patient=True)
    assert patient(state, LONG) == Reached(text)
    assert patient(after(waits("one"), moved("one", "attic/g0")), LONG).end == "reached"


@pytest.mark.parametrize("gone", [(), (placed("one", "attic/g0"), deleted("one"))])
def test_what_is_deleted_meanwhile_will_not_be(gone: tuple[FrozenModel, ...]) -> None:
    assert ONE(after(*gone), 0) == Reached("one is deleted", "failed")


def test_of_several_the_ones_that_wait_do_not_end_what_the_others_still_do() -> None:
    both = InstancesRun((InstanceId("one"), InstanceId("two")))
    begun = (placed("one", "attic/g0"), said("one", "attic/g0", "loading"), waits("two"))
    assert both(after(*begun), LONG).end is None
    assert both(after(*begun, said("one", "attic/g0", "ready")), LONG).end == "pending"


def test_replicas_are_there_when_as_many_as_wanted_run_and_the_rest_is_told_with_its_reasons() -> None:
    goal = ReplicasRun(DeploymentId("tiny"))
    first = (scaled("tiny", 2), placed("one", "attic/g0", deployment="tiny"))
    assert goal(after(*first), LONG) == Reached("tiny: 1 of 2 placed, 1 more to make")
    second = placed("two", "desk/g0", deployment="tiny")
    assert goal(after(*first, second, placed("other", "attic/g1")), LONG).end == "reached"
    some = goal(after(*first, waits("two", "no other site", deployment="tiny")), LONG)
    assert some.end == "pending"
    assert "1 of 2 placed" in some.text
    assert "two: no other site" in some.text


def test_fewer_replicas_are_there_when_the_others_are_deleted() -> None:
    goal = ReplicasRun(DeploymentId("tiny"))
    two = (scaled("tiny", 2), placed("one", "attic/g0", deployment="tiny"), placed("two", "desk/g0", deployment="tiny"))
    assert goal(after(*two, scaled("tiny", 1)), LONG) == Reached("tiny: 2 of 1 placed, 1 more to delete")
    assert goal(after(*two, scaled("tiny", 1), deleted("two")), LONG).end == "reached"
    none = (scaled("tiny", 0), deleted("one"), deleted("two"))
    assert goal(after(*two, *none), 0) == Reached("tiny has no replica any more", "reached")


def test_a_node_is_drained_when_nothing_is_placed_there_any_more() -> None:
    there = (placed("one", "attic/g0", "desk/g0"), placed("two", "attic/g1"), placed("far", "desk/g0"))
    before = after(*there)
    goal = TargetEmpty("attic", placed_on(before, "attic"))
    assert goal(before, LONG) == Reached("attic: 2 instances to move: one, two")
    assert goal(after(*there, moved("one", "desk/g0")), LONG) == Reached("attic: 1 instance to move: two")
    left = (*there, moved("one", "desk/g0"), moved("two", "desk/g0"))
    assert goal(after(*left), 0) == Reached("attic is empty, 2 instances moved", "reached")
    stuck = (*there, moved("one", "desk/g0"), waits("two", "desk is full"))
    assert goal(after(*stuck), 0).end is None
    assert goal(after(*stuck), SETTLED_SECONDS) == Reached(
        "attic is empty, 1 instance moved; 1 instance waits for a place: two: desk is full", "pending"
    )
    assert goal(after(*there, moved("one", "desk/g0"), deleted("two")), 0).end == "reached"


def test_one_device_is_drained_when_that_one_is_empty_and_a_runtime_that_goes_on_there_is_told() -> None:
    there = (placed("one", "attic/g0"), placed("two", "attic/g1"), said("one", "attic/g0", "ready"))
    goal = TargetEmpty("attic/g0", placed_on(after(*there), "attic/g0"))
    not_yet = "attic/g0 is empty, but 1 shard not yet stopped there, 1 instance moved"
    assert goal(after(*there, moved("one", "desk/g0")), 0) == Reached(not_yet)
    assert goal(after(*there, moved("one", "desk/g0")), STOP_SECONDS) == Reached(not_yet, "reached")
    over = (*there, moved("one", "desk/g0"), said("one", "attic/g0", "stopped"))
    assert goal(after(*over), 0) == Reached("attic/g0 is empty, 1 instance moved", "reached")


def test_shards_are_counted_by_what_they_do() -> None:
    assert shards_text(["ready", "wanted", "failed", "ready"]) == "2/4 ready (1 failed)"
    assert shards_text(["ready"]) == "1/1 ready"


def test_what_was_deleted_is_not_said_to_go_on() -> None:
    over = (placed("one", "attic/g0"), said("one", "attic/g0", "ready"), deleted("one"))
    assert TargetEmpty("attic", frozenset())(after(*over), 0) == Reached("attic is empty", "reached")
