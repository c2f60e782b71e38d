"""Steps that a placer takes by itself, in a small world."""

from datetime import timedelta
from typing import Any

import pytest
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.reconcile import reconcile
from shardbus_placer.watch import Watch, look
from shardbus_schemas import commands, events
from shardbus_schemas.placement import Refused
from support.quick_planner import BARE, quick_plan
from support.small_world import Machine, World, knowledge_of, machine, model

MODELS = (model("m", 40), model("big", 80), model("whole", 100))


def world(*machines: Machine, rules: LifeRules | None = None, **more: Any) -> World:
    return World(machines, knowledge_of(*MODELS, rules=rules), **more)


def place(one: World, name: str = "m", **more: Any) -> str:
    answer = one.command(commands.Place(model_id=name, **more))
    assert isinstance(answer, events.InstancePlaced | events.InstancePending), answer
    return answer.instance_id


def test_what_was_lost_is_placed_elsewhere_with_the_message_that_led_to_it() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    one.leave("a")
    step = one.propose(one.placers[0])
    (change,) = step.changes
    assert isinstance(change, events.InstanceReplaced)
    assert (change.cause, list(change.plan.memory_by_device)) == ("device_lost", ["b/g0"])
    assert step.trigger == one.state.nodes["a"].sequence


def test_what_has_no_place_waits_with_its_reasons_and_is_placed_when_there_is_one() -> None:
    one = world(machine("a", 100))
    place(one)
    one.leave("a", "maintenance")
    one.settle()
    record = one.instance("m")
    assert record.status == "pending"
    assert record.reason is not None
    assert record.reason.startswith("a left: maintenance; no other place: ")
    one.pass_time(60)
    one.join(machine("b", 100))
    assert one.settle() == 1
    record = one.instance("m")
    assert (record.status, record.cause) == ("placed", "capacity")
    assert record.reason == "there is room for it, after 60 s without a place"


def test_who_waits_for_capacity_is_pending_and_not_planned_again_until_there_is_more() -> None:
    asked = 0

    def counting(*args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        return quick_plan(*args, **more)

    one = World([machine("a", 60)], knowledge_of(*MODELS, plan=counting))
    place(one, "big", wait_for_capacity=True)
    one.settle()
    before = asked
    one.pass_time(600)
    assert asked == before
    one.join(machine("b", 100))
    one.settle()
    assert one.where("big") == ["b/g0"]


def test_who_could_not_displace_others_before_is_tried_when_it_could() -> None:
    one = world(machine("a", 100))
    equal = place(one, "whole", priority=1)
    waiting = place(one, "whole", priority=1, wait_for_capacity=True)
    one.settle()
    one.command(commands.Delete(instance_id=equal))
    one.command(commands.Place(model_id="whole", priority=0))
    one.settle()
    assert one.instance(waiting).status == "placed"


def test_a_refusal_for_want_of_time_is_tried_again() -> None:
    late = True

    def slow(fleet: Any, wanted: Any, request: Any, policy: Any, **more: Any) -> Any:
        found = quick_plan(fleet, wanted, request, policy, **more)
        if not late:
            return found
        refusal = {"code": "deadline_without_answer", "message": "no time", "proved": False}
        return Refused.model_validate(
            {"model_id": "m", "strategy": "ilp", "strategy_reason": "test", "refusal": refusal}
        )

    one = World([machine("a", 100)], knowledge_of(*MODELS, plan=slow), again=False)
    place(one, wait_for_capacity=True)
    one.settle()
    assert one.instance("m").status == "pending"
    assert one.placers[0].next_at is not None
    late = False
    one.settle()
    assert one.instance("m").status == "pending", "not at once"
    one.rest()
    assert one.instance("m").status == "placed"


def test_a_drained_node_is_emptied_and_taken_again_afterwards() -> None:
    one = world(machine("a", 100), machine("b", 60))
    names = [place(one, include=("a", "b")) for _ in range(2)]
    one.command(commands.Drain(node_id="a", reason="new fans"))
    one.settle()
    by_status = {one.instance(name).status for name in names}
    assert by_status == {"placed", "pending"}
    assert {key.node_id for record in one.instances() for key in record.promised} == {"b"}
    assert all("a is drained: new fans" in (record.reason or "") for record in one.instances())
    one.command(commands.Uncordon(node_id="a"))
    one.settle()
    assert {one.instance(name).status for name in names} == {"placed"}


def test_a_cordoned_device_keeps_what_it_has_and_takes_nothing() -> None:
    one = world(machine("a", 100, 100))
    place(one, include=("a/g0",))
    one.command(commands.Cordon(node_id="a", device_id="g0"))
    assert one.settle() == 0
    other = place(one)
    assert list(one.instance(other).promised) == ["a/g1"]


def test_a_failed_shard_leads_to_another_device_and_bars_this_one_for_a_while() -> None:
    one = world(machine("a", 100), machine("b", 60, speed=500.0))
    name = place(one)
    one.pass_time(60)
    one.fail(one.instance(name).instance_id, "a/g0", "CUDA error 719")
    one.settle()
    assert one.where(name) == ["b/g0"]
    assert one.instance(name).reason == "its shard on a/g0 failed: CUDA error 719"
    answer = one.command(commands.Move(instance_id=one.instance(name).instance_id))
    assert isinstance(answer, events.CommandRejected)
    one.pass_time(LifeRules().shard_bar_seconds)
    answer = one.command(commands.Move(instance_id=one.instance(name).instance_id, away_from=("b",)))
    assert isinstance(answer, events.InstanceReplaced)


def test_where_every_start_fails_there_are_few_and_fewer_tries() -> None:
    one = world(machine("a", 100))
    place(one)
    one.device("a/g0").is_broken = True
    one.pass_time(2 * 3600)
    # Bars of 300, 600, 1200, 2400, 3600 s: within two hours at most five tries.
    assert 3 <= one.counts["InstancePending shard_failed"] <= 5
    one.device("a/g0").is_broken = False
    one.rest()
    assert one.running() == {"a/g0": {one.instance("m").instance_id: 40}}


def test_others_that_take_promised_memory_are_given_a_minute() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    one.pass_time(20)
    one.device("a/g0").others_bytes = 75
    one.pass_time(60)
    assert one.where("m") == ["a/g0"]
    one.pass_time(20)
    assert one.where("m") == ["b/g0"]
    assert one.instance("m").cause == "memory_taken"


@pytest.mark.parametrize(("speed", "leaves"), [(540.0, False), (700.0, True)])
def test_a_hot_device_is_left_after_five_minutes_where_that_gains_enough(speed: float, leaves: bool) -> None:
    one = world(machine("a", 100), machine("b", 100, speed=speed))
    place(one)
    one.device("a/g0").is_throttling = True
    one.pass_time(290)
    assert one.where("m") == ["a/g0"]
    one.pass_time(30)
    assert one.where("m") == (["b/g0"] if leaves else ["a/g0"])
    moves = one.counts["InstanceReplaced"]
    one.pass_time(3600)
    assert one.counts["InstanceReplaced"] == moves


def test_a_device_that_has_cooled_down_since_is_looked_at_again() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    one.device("a/g0").is_throttling = one.device("b/g0").is_throttling = True
    one.pass_time(400)
    assert one.where("m") == ["a/g0"]
    one.device("b/g0").is_throttling = False
    one.pass_time(20)
    assert one.where("m") == ["b/g0"]


def test_the_second_time_within_the_window_it_waits() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    one.leave("a")
    one.settle()
    one.come_back("a")
    one.pass_time(10)
    one.leave("b")
    one.settle()
    record = one.instance("m")
    assert record.status == "pending"
    assert record.refusal is not None
    assert record.refusal.refusal.code == "back_off"
    assert record.refusal.refusal.message == "displaced 2 times lately, so it waits for 5 s before it is placed again"
    assert one.placers[0].next_at == one.now + timedelta(seconds=5)
    one.pass_time(10)
    assert one.where("m") == ["a/g0"]


def test_a_placer_that_begins_anew_knows_who_was_displaced() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    one.leave("a")
    one.settle()
    one.come_back("a")
    one.restart()
    one.leave("b")
    one.settle()
    assert one.instance("m").status == "pending"


def test_no_more_than_so_many_are_moved_in_a_minute_and_drains_do_not_count() -> None:
    one = world(machine("a", 400), machine("b", 400), machine("c", 400), rules=LifeRules(moves_per_minute=3))
    for _ in range(8):
        place(one)
    one.command(commands.Drain(node_id="a"))
    one.settle()
    assert one.counts["InstanceReplaced drained"] == 8
    one.leave("b")
    one.settle()
    assert one.counts["InstanceReplaced device_lost"] == 3
    one.pass_time(55, step=5)
    assert one.counts["InstanceReplaced device_lost"] == 3
    one.pass_time(10, step=5)
    assert one.counts["InstanceReplaced device_lost"] == 6
    one.rest()
    one.check_quiet()


def test_a_deployment_has_as_many_as_are_wanted_and_what_goes_first_is_who_waits() -> None:
    one = world(machine("a", 100))
    one.command(commands.Scale(model_id="m", replicas=4))
    one.settle()
    assert sorted(record.status for record in one.instances()) == ["pending", "pending", "placed", "placed"]
    pending = [record for record in one.instances() if record.status == "pending"]
    assert pending[-1].reason is not None
    assert pending[-1].reason.startswith("no room for replica 4 of 4: ")
    one.command(commands.Scale(model_id="m", replicas=2))
    one.settle()
    assert [record.status for record in one.instances()] == ["placed", "placed"]
    one.join(machine("b", 100))
    one.command(commands.Scale(model_id="m", replicas=3))
    one.settle()
    assert sum(key.node_id == "b" for record in one.instances() for key in record.promised) == 1
    one.command(commands.Scale(model_id="m", replicas=0))
    one.settle()
    assert list(one.instances()) == []


def test_a_replica_that_somebody_deletes_comes_again() -> None:
    one = world(machine("a", 100))
    one.command(commands.Scale(model_id="m", replicas=1))
    one.settle()
    first = one.instance("m").instance_id
    one.command(commands.Delete(instance_id=first))
    one.settle()
    assert one.instance("m").instance_id != first


def test_only_the_number_changes_unless_conditions_are_given() -> None:
    one = world(machine("a", 100), machine("b", 100))
    one.command(commands.Scale(model_id="m", replicas=1, include=("b",), priority=2, spread_by="rack"))
    one.command(commands.Scale(model_id="m", replicas=2))
    deployment = one.state.deployments["m"]
    assert (deployment.request.include, deployment.request.priority, deployment.spread_by) == (("b",), 2, "rack")
    one.command(commands.Scale(model_id="m", replicas=2, include=("a",)))
    deployment = one.state.deployments["m"]
    assert (deployment.request.include, deployment.request.priority, deployment.spread_by) == (("a",), 0, None)


def test_two_placers_that_plan_at_once_take_one_step() -> None:
    one = world(machine("a", 100), machine("b", 100), placers=2)
    place(one)
    one.leave("a")
    one.settle_in_a_race()
    assert one.counts["InstanceReplaced"] == 1
    one.command(commands.Scale(model_id="m", replicas=1, deployment_id="d"))
    one.settle_in_a_race()
    assert sum(record.deployment_id == "d" for record in one.instances()) == 1


def test_what_lost_the_race_halfway_leaves_nothing_that_is_not_mended() -> None:
    one = world(machine("a", 100), machine("b", 40))
    low = place(one, include=("a",))
    seen, ledger = one.state, one.ledger
    high = one.sent(commands.Place(model_id="whole", priority=1, command_id="high", include=("a",)))
    one.command(commands.Place(model_id="m", include=("b",)))  # another placer is quicker
    one.answer(high, seen, ledger)
    one.settle()
    assert one.instance("whole").status == "placed"
    assert one.instance(low).status == "pending"
    one.check_streams()


def test_a_flapping_node_causes_few_moves() -> None:
    rules = LifeRules()
    one = world(machine("a", 200), machine("b", 60, speed=500.0), rules=rules)
    place(one, "big", include=("a",))
    place(one)
    for _ in range(100):  # away for three seconds and back for three, for ten minutes
        one.leave("a")
        one.pass_time(3, step=3)
        one.come_back("a")
        one.pass_time(3, step=3)
    # The free one moves away once, and stays. The other waits 5, 10, 20, ... s from its second time on, and the
    # device takes nothing for 30, 60, 120, ... s: of each no more than doublings fit into the time.
    doublings = 1 + int(600 / rules.back_off_seconds).bit_length()
    assert one.where("m") == ["b/g0"]
    assert one.counts["InstanceReplaced device_lost"] == 1
    assert 1 <= one.counts["InstancePending device_lost"] <= doublings
    assert one.counts["InstanceReplaced capacity"] <= doublings
    one.rest()
    one.check_quiet()
    assert one.instance("big").status == "placed"


def test_the_same_arguments_give_the_same_step() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    one.leave("a")
    watch = look(Watch(), one.fleet, one.now)
    steps = [reconcile(one.state, one.fleet, watch, {}, one.now, one.knowledge) for _ in range(2)]
    assert steps[0] == steps[1]
    assert one.knowledge.policy == BARE
