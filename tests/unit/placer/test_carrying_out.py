"""Commands that change where instances are, and what nodes take."""

from dataclasses import replace
from typing import Any

import pytest
from shardbus_schemas import commands, events
from support.access_tokens import TRUSTING, claims_with, token_of
from support.small_world import Machine, World, knowledge_of, machine, model

MODELS = (model("m", 40), model("big", 80))


def world(*machines: Machine) -> World:
    return World(machines, knowledge_of(*MODELS))


def place(one: World, name: str = "m", **more: Any) -> str:
    answer = one.command(commands.Place(model_id=name, **more))
    assert isinstance(answer, events.InstancePlaced | events.InstancePending), answer
    return answer.instance_id


def refusal(answer: object) -> tuple[str, str]:
    assert isinstance(answer, events.CommandRejected), answer
    return answer.code, answer.message


def test_an_instance_moves_to_a_better_place_and_stays_where_it_is_best() -> None:
    one = world(machine("a", 100))
    name = place(one)
    assert refusal(one.command(commands.Move(instance_id=name)))[0] == "nothing_to_do"
    one.join(machine("b", 100, speed=2000.0))
    one.command(commands.Cordon(node_id="a"))
    answer = one.command(commands.Move(instance_id=name, away_from=("a/g0",), reason="noise"))
    assert isinstance(answer, events.InstanceReplaced)
    assert (answer.cause, answer.reason) == ("moved", "a command asked for it: noise")
    assert one.where(name) == ["b/g0"]


def test_who_cannot_leave_stays_and_is_told_why() -> None:
    one = world(machine("a", 100))
    name = place(one)
    code, message = refusal(one.command(commands.Move(instance_id=name, away_from=("a",))))
    assert code == "no_place"
    assert message.startswith(f"{name} stays where it is: ")
    assert one.instance(name).status == "placed"


def test_a_pending_instance_can_be_moved_into_a_place() -> None:
    one = world(machine("a", 60))
    name = place(one, "big", wait_for_capacity=True)
    assert refusal(one.command(commands.Move(instance_id=name)))[0] == "no_place"
    one.join(machine("b", 100))
    assert isinstance(one.command(commands.Move(instance_id=name)), events.InstanceReplaced)


@pytest.mark.parametrize("kind", [commands.Delete, commands.Move])
def test_unknown_instances_are_suggested_from_the_living(kind: Any) -> None:
    one = world(machine("a", 100))
    name = place(one)
    wrong = name[:-1] + "x"
    code, message = refusal(one.command(kind(instance_id=wrong)))
    assert code == "unknown_instance"
    assert name in message
    one.command(commands.Delete(instance_id=name))
    assert refusal(one.command(kind(instance_id=name)))[0] == "unknown_instance"


@pytest.mark.parametrize("kind", [commands.Cordon, commands.Drain, commands.Uncordon])
def test_unknown_nodes_and_devices_are_suggested(kind: Any) -> None:
    one = world(machine("attic", 100))
    code, message = refusal(one.command(kind(node_id="attik")))
    assert code == "unknown_target"
    assert "attic" in message
    assert refusal(one.command(kind(node_id="attic", device_id="g1")))[0] == "unknown_target"


def test_nobody_moves_away_from_what_nobody_knows() -> None:
    one = world(machine("attic", 100))
    name = place(one)
    assert refusal(one.command(commands.Move(instance_id=name, away_from=("attik",))))[0] == "unknown_target"


def test_what_is_so_already_is_refused_and_one_becomes_the_other() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    cordon, drain, lift = commands.Cordon(node_id="a"), commands.Drain(node_id="a"), commands.Uncordon(node_id="a")
    assert refusal(one.command(lift))[0] == "nothing_to_do"
    assert isinstance(one.command(cordon), events.Cordoned)
    assert refusal(one.command(cordon)) == ("nothing_to_do", "a is cordoned already")
    assert isinstance(one.command(drain), events.Cordoned)
    assert refusal(one.command(drain)) == ("nothing_to_do", "a is drained already")
    one.settle()
    assert one.where("m") == ["b/g0"]
    assert isinstance(one.command(lift), events.Uncordoned)
    assert refusal(one.command(lift))[0] == "nothing_to_do"


def test_a_device_of_a_drained_node_is_not_lifted_alone_and_a_node_lifts_all() -> None:
    one = world(machine("a", 100, 100))
    one.command(commands.Drain(node_id="a"))
    code, message = refusal(one.command(commands.Uncordon(node_id="a", device_id="g0")))
    assert (code, message) == ("nothing_to_do", "a/g0 is not cordoned by itself, but all of a is")
    one.command(commands.Cordon(node_id="a", device_id="g1"))
    one.command(commands.Uncordon(node_id="a"))
    assert all(cordon.lifted_at is not None for cordon in one.state.cordons.values())


def test_a_rebalance_moves_whom_it_helps_enough_and_no_others() -> None:
    one = world(machine("a", 100), machine("b", 60, speed=500.0))
    first, second = place(one), place(one)
    third = place(one)
    assert one.where(third) == ["b/g0"]
    assert refusal(one.command(commands.Rebalance()))[0] == "nothing_to_do"
    one.command(commands.Delete(instance_id=first))
    one.settle()
    code, message = refusal(one.command(commands.Rebalance(threshold=0.6)))
    assert code == "nothing_to_do"
    assert f"the most is 50.0%, for {third}" in message
    answer = one.command(commands.Rebalance(reason="friday"))
    assert isinstance(answer, events.FleetRebalanced)
    assert answer.moved == {third: 0.5}
    assert one.where(third) == one.where(second) == ["a/g0"]
    assert one.instance(third).reason == "50% better for it: friday"
    assert refusal(one.command(commands.Rebalance()))[0] == "nothing_to_do"


def test_two_that_want_the_same_place_do_not_both_get_it_in_one_rebalance() -> None:
    one = World([machine("a", 90), machine("b", 100, speed=500.0)], knowledge_of(*MODELS))
    blocks = place(one, "big")
    names = [place(one), place(one)]
    assert [one.where(name) for name in names] == [["b/g0"], ["b/g0"]]
    one.command(commands.Delete(instance_id=blocks))
    one.device("a/g0").others_bytes = 20
    one.heartbeat()
    answer = one.command(commands.Rebalance())
    assert isinstance(answer, events.FleetRebalanced)
    assert list(answer.moved) == names[:1]


def test_what_a_token_placed_is_its_subject_s_alone() -> None:
    may = {"operations": ["place", "delete", "move", "scale"]}
    ann, bob = (token_of(claims_with(sub=name, exp=2**32, shardbus=may)) for name in ("ann", "bob"))
    one = World([machine("a", 100), machine("b", 100)], replace(knowledge_of(*MODELS), access=TRUSTING))
    name = place(one, access_token=ann)
    owners = place(one)
    for kind in (commands.Delete, commands.Move):
        assert refusal(one.command(kind(instance_id=name, access_token=bob)))[0] == "access_denied"
        assert refusal(one.command(kind(instance_id=owners, access_token=ann)))[0] == "access_denied"
    one.command(commands.Scale(model_id="m", replicas=1, access_token=ann))
    answer = one.command(commands.Scale(model_id="m", replicas=0, access_token=bob))
    assert refusal(answer)[0] == "access_denied"
    one.settle()
    assert {record.grant.subject for record in one.instances() if record.grant is not None} == {"ann"}
    assert isinstance(one.command(commands.Move(instance_id=name, away_from=("a",))), events.InstanceReplaced)
    assert isinstance(one.command(commands.Delete(instance_id=name, access_token=ann)), events.InstanceDeleted)
