"""The life of an instance: what befell it, what led to it, how long it was what."""

from datetime import timedelta
from typing import get_args

import pytest
from shardbus_eventstore.intake import examine
from shardbus_eventstore.life import Because, Elsewhere, Ended, Life, Settled, ShardTold, Waiting
from shardbus_eventstore.life_telling import ids_to_find
from shardbus_schemas import events
from support.answers import placed_event
from support.histories import START
from support.lives import FIRST, NAME, NOWHERE, SECOND, THIRD, WINNER, Telling, eventful, plan, refused, replaced


def lived(told: Telling) -> Life:
    life = told.life()
    assert life is not None
    return life


def born(told: Telling, at: float = 0) -> None:
    told.say(placed_event(NAME).model_copy(update={"plan": FIRST}), at, because="cli-1")


def waiting(cause: events.ChangeCause = "drained") -> events.InstancePending:
    return events.InstancePending(
        instance_id=NAME, cause=cause, reason="no room", result=refused("1 byte is missing"), position=NOWHERE
    )


def test_a_life_is_told_in_order_with_what_led_to_it() -> None:
    life = lived(eventful())
    assert (life.status, life.priority, life.plan) == ("deleted", 5, None)
    assert [moment.sequence for moment in life.moments] == sorted({moment.sequence for moment in life.moments})
    assert [moment.kind for moment in life.moments] == [
        "placed", "shard", "shard", "shard", "shard", "elsewhere", "moved", "shard", "shard", "pending", "elsewhere",
        "placed", "pending", "elsewhere", "placed", "elsewhere", "moved", "moved", "moved", "deleted",
    ]  # fmt: skip
    assert [moment.text for moment in life.moments if isinstance(moment, Elsewhere)] == [
        "rig/cuda:1 lost: XID 79: the GPU has fallen off the bus",
        "qwen3-32b-aa: deleted",
        "rig/cuda:1 is there, NVIDIA RTX 3090",
        "rig drained by console/anna: new power supply",
    ]
    assert all(moment.because is not None for moment in life.moments if isinstance(moment, Settled | Waiting | Ended))


def test_what_it_comes_to_adds_up() -> None:
    totals = lived(eventful()).totals
    assert totals.seconds == pytest.approx(180_000.02 - 60.142)
    assert totals.without_place_seconds == pytest.approx((1500.3 - 931.2) + (90_000.4 - 4000.2))
    assert totals.longest_without_place_seconds == pytest.approx(90_000.4 - 4000.2)
    assert totals.placed_seconds + totals.without_place_seconds == pytest.approx(totals.seconds)
    assert (totals.times_without_place, totals.moves, totals.shard_failures) == (2, 6, 1)
    assert totals.ready_seconds == pytest.approx(902.31 - 83.904), "its shards were ready until one had to move"


def test_shards_say_how_long_they_took_and_when_all_are_ready() -> None:
    first, second, third, fourth, *_ = (one for one in lived(eventful()).moments if isinstance(one, ShardTold))
    assert (first.state, first.memory_used_bytes, first.message) == ("loading", 9 * 2**30, "44 %")
    assert (second.took_seconds, second.promised_bytes) == (None, 20 * 2**30)
    assert (third.took_seconds, third.took_from, third.all_ready_seconds) == (pytest.approx(18.2), "loading", None)
    assert fourth.all_ready_seconds == pytest.approx(83.904 - 60.142)


def test_who_gave_way_is_told_by_what_the_others_command_asked() -> None:
    gave = next(one for one in lived(eventful()).moments if isinstance(one, Waiting) and one.gave_way_to)
    assert gave.gave_way_to == WINNER
    assert gave.because is not None
    assert (gave.because.stream, gave.because.source, gave.because.type) == ("COMMANDS", "console/ben", "Place")
    assert gave.because.text == "place deepseek-r1-distill with priority 10"
    assert gave.placed_seconds == pytest.approx(4000.2 - 1500.3)


def test_a_rebalance_is_known_by_the_answer_that_came_after_the_move() -> None:
    moved = [one for one in lived(eventful()).moments if isinstance(one, Settled)][-1]
    assert moved.because is not None
    assert moved.because.text == "rebalance the fleet where that gains over 10%"
    assert moved.because.seconds_before == pytest.approx(0.2)


@pytest.mark.parametrize("cause", get_args(events.ChangeCause))
def test_every_cause_of_a_move_and_of_a_wait_is_told(cause: events.ChangeCause) -> None:
    told = Telling()
    born(told)
    because = told.say(events.NodeLeft(node_id="rig", boot_id="b1"), 10)
    replaced(told, SECOND, 11, cause, "so it is", because=because)
    told.say(waiting(cause), 12, because=because)
    life = lived(told)
    _, left, moved, wait = life.moments
    assert isinstance(left, Elsewhere)
    assert isinstance(moved, Settled)
    assert isinstance(wait, Waiting)
    assert (moved.cause, moved.reason, wait.cause) == (cause, "so it is", cause)
    assert moved.because == Because(
        event_id=because,
        type="NodeLeft",
        text="node rig left: stopped",
        source="placer/attic",
        stream="FLEET",
        sequence=2,
        recorded_at=START + timedelta(seconds=10),
        seconds_before=1,
    )
    assert (moved.left, moved.layers_moved, moved.placed_seconds) == (
        "rig/cuda:0 [0-39], rig/cuda:1 [40-79]",
        40,
        11,
    )


def test_one_that_waits_says_since_when_and_why_and_looking_again_is_not_a_second_wait() -> None:
    told = Telling()
    born(told)
    told.say(waiting(), 10)
    told.say(waiting("no_room"), 25)
    life = told.life(now=START + timedelta(seconds=70))
    assert life is not None
    assert (life.status, life.since, life.reason) == ("pending", START + timedelta(seconds=10), "no room")
    assert life.refusal is not None
    assert [one.still for one in life.moments if isinstance(one, Waiting)] == [False, True]
    assert (life.totals.times_without_place, life.totals.without_place_seconds) == (1, 60)


def test_shards_that_stay_where_they_are_stay_ready() -> None:
    told = Telling()
    born(told)
    told.shard("rig/cuda:0", "ready", 5, 0, 40)
    told.shard("rig/cuda:1", "ready", 5, 40, 80)
    replaced(told, SECOND, 10, "moved", "cooler", because="cli-2")
    told.shard("desk/mlx:0", "ready", 20, 40, 80)
    replaced(told, THIRD, 30, "moved", "quicker", because="cli-3")
    told.shard("rig/cuda:0", "ready", 40, 44, 80)
    life = lived(told)
    ready = [one for one in life.moments if isinstance(one, ShardTold)]
    assert [one.all_ready_seconds for one in ready] == [None, pytest.approx(5.004), pytest.approx(10.004), None]
    assert ready[-1].device == "rig/cuda:0", "told anew, since it holds other layers now"
    assert life.totals.ready_seconds == pytest.approx((10 - 5.004) + (30 - 20.004))


def test_what_the_fold_ignores_is_not_told() -> None:
    told = Telling()
    replaced(told, FIRST, 0, "moved", "before it was there", because="x")
    assert told.life() is None
    born(told, 1)
    born(told, 2)
    told.say(events.InstanceDeleted(instance_id=NAME), 3)
    told.say(events.InstanceDeleted(instance_id=NAME), 4)
    replaced(told, FIRST, 5, "moved", "after it was gone", because="x")
    life = told.life(now=START + timedelta(seconds=60))
    assert life is not None
    assert [moment.kind for moment in life.moments] == ["placed", "deleted"]
    assert (life.totals.seconds, life.totals.gone_seconds) == (2, 0), "what comes after its end is no part of it"


def test_one_that_is_placed_anew_under_its_name_was_gone_between() -> None:
    told = Telling()
    born(told)
    told.say(events.InstanceDeleted(instance_id=NAME), 10)
    born(told, 40)
    life = told.life(now=START + timedelta(seconds=45))
    assert life is not None
    assert (life.status, life.totals.gone_seconds, life.totals.placed_seconds, life.totals.seconds) == (
        "placed",
        30,
        15,
        45,
    )


def test_one_that_was_gone_begins_without_a_past() -> None:
    told = Telling()
    born(told)
    told.say(events.InstanceDeleted(instance_id=NAME), 10)
    born(told, 40)
    again = lived(told).moments[-1]
    assert isinstance(again, Settled)
    assert (again.kind, again.left, again.without_place_seconds) == ("placed", None, None)


def test_shards_have_to_speak_again_after_a_wait_even_if_it_ends_where_it_was() -> None:
    told = Telling()
    born(told)
    told.shard("rig/cuda:0", "ready", 1, 0, 40)
    told.shard("rig/cuda:1", "ready", 1, 40, 80)
    told.say(waiting(), 11.004)
    replaced(told, FIRST, 20, "capacity", "room", because="x")
    replaced(told, FIRST, 30, "moved", "the same again", because="x")
    life = lived(told)
    assert (life.shards, life.totals.ready_seconds) == ({}, pytest.approx(10))
    assert life.totals.moves == 0, "it lies where it lay"
    assert life.since == START + timedelta(seconds=30)


def test_only_what_events_do_not_say_themselves_is_looked_for() -> None:
    told = Telling()
    born(told)
    room = told.say(events.NodeJoined(node_id="rig", boot_id="b", heartbeat_seconds=1), 1)
    replaced(told, SECOND, 2, "moved", "asked", because="cli-2", asked=told.who(1))
    replaced(told, FIRST, 3, "capacity", "room", because=room)
    own = examine(told.stored).received
    assert ids_to_find(NAME, own) == {"cli-1", room}


def test_a_clock_that_is_set_back_takes_no_time_away() -> None:
    told = Telling()
    born(told, 100)
    told.say(waiting(), 40)
    replaced(told, plan(1, ("desk/mlx:0", 0, 80)), 110, "capacity", "room", because="x")
    life = lived(told)
    assert life.totals.seconds == life.totals.placed_seconds + life.totals.without_place_seconds == 10


def test_a_cause_that_the_stream_does_not_hold_is_named_by_its_id() -> None:
    told = Telling()
    born(told)
    moment = lived(told).moments[0]
    assert (moment.because, moment.causation_id) == (None, "cli-1")
