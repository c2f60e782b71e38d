"""Places apart from siblings, and over lower priorities: who gives way, and who does not."""

from random import Random

import pytest
from shardbus_placer.finding import find_place
from shardbus_placer.gain import gain_of, is_same_place
from shardbus_placer.planning import planned
from shardbus_placer.wanted import wanted_of
from shardbus_schemas import commands, events
from shardbus_schemas.placement import Placed
from support.small_world import Machine, World, knowledge_of, machine, model

MODELS = (model("m", 40), model("big", 80), model("whole", 100))


def world(*machines: Machine) -> World:
    return World(machines, knowledge_of(*MODELS))


def place(one: World, name: str = "m", **more: object) -> events.InstancePlaced:
    answer = one.command(commands.Place.model_validate({"model_id": name, **more}))
    assert isinstance(answer, events.InstancePlaced), answer
    return answer


def test_nobody_gives_way_where_there_is_room() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    assert place(one, "whole", priority=9).gave_way == ()


def test_the_lower_gives_way_is_told_why_and_is_placed_elsewhere() -> None:
    one = world(machine("a", 100), machine("b", 60))
    low = place(one, include=("a",)).instance_id
    high = place(one, "whole", priority=1, include=("a",))
    assert high.gave_way == (low,)
    told = one.instance(low)
    assert (told.status, told.cause, told.gave_way_to) == ("pending", "preempted", high.instance_id)
    assert told.reason == (
        f"gave way to {high.instance_id} (priority 1 over 0), which takes 40 B of its memory on a/g0"
    )
    assert told.refusal is not None
    assert told.refusal.refusal.code == "preempted"


def test_an_equal_never_gives_way() -> None:
    one = world(machine("a", 100))
    place(one, priority=3)
    answer = one.command(commands.Place(model_id="whole", priority=3))
    assert isinstance(answer, events.PlacementRejected)
    assert one.where("m") == ["a/g0"]


def test_the_least_important_and_youngest_gives_way_first() -> None:
    one = world(machine("a", 120))
    middle, old, young = (place(one, priority=priority).instance_id for priority in (1, 0, 0))
    assert place(one, priority=2).gave_way == (young,)
    one.settle()
    assert one.instance(old).status == one.instance(middle).status == "placed"


def test_who_is_not_in_the_way_stays() -> None:
    one = world(machine("a", 100), *(machine(f"z{number:02}", 40) for number in range(12)))
    in_the_way = place(one, include=("a",)).instance_id
    others = [place(one, include=(f"z{number:02}",)).instance_id for number in range(12)]
    high = place(one, "whole", priority=1, include=("a",))
    assert high.gave_way == (in_the_way,)
    assert all(one.instance(name).status == "placed" for name in others)


@pytest.mark.parametrize("seed", range(20))
def test_nobody_leaves_who_could_have_stayed(seed: int) -> None:
    random = Random(seed)
    one = world(*(machine(f"n{number}", random.choice((60, 100, 140))) for number in range(3)))
    for _ in range(7):
        one.command(commands.Place(model_id="m", priority=random.randrange(2)))
    before = one.state
    answer = one.command(commands.Place(model_id=random.choice(("big", "whole")), priority=2))
    if not isinstance(answer, events.InstancePlaced) or not answer.gave_way:
        return
    wanted = wanted_of(one.state.instances[answer.instance_id])
    for spared in answer.gave_way:
        fewer = [name for name in answer.gave_way if name != spared]
        found = planned(wanted, before, one.now, one.knowledge, without=fewer)
        assert not isinstance(found, Placed), f"{spared} need not have left"


def test_replicas_keep_to_themselves_in_racks_then_nodes_then_share() -> None:
    machines = [machine(f"n{number}", 100, rack=f"r{number // 2}") for number in range(4)]
    one = world(*machines)
    one.command(commands.Scale(model_id="m", replicas=2, spread_by="rack"))
    one.settle()
    racks = {name: node.joined.labels["rack"] for name, node in one.state.nodes.items()}
    taken = [key.node_id for record in one.instances() for key in record.promised]
    assert sorted(racks[node] for node in taken) == ["r0", "r1"]
    one.command(commands.Scale(model_id="m", replicas=4))
    one.settle()
    assert sorted(key.node_id for record in one.instances() for key in record.promised) == ["n0", "n1", "n2", "n3"]
    notes = [note for record in one.instances() if record.plan for note in record.plan.notes]
    assert sum("shares a failure domain" in note for note in notes) == 2
    one.command(commands.Scale(model_id="m", replicas=5))
    one.settle()
    notes = [note for record in one.instances() if record.plan for note in record.plan.notes]
    assert sum("shares a node" in note for note in notes) == 1


def test_a_node_without_the_label_is_a_domain_of_its_own() -> None:
    one = world(machine("a", 100, rack="r"), machine("b", 100, rack="r"), machine("c", 100))
    one.command(commands.Scale(model_id="m", replicas=2, spread_by="rack"))
    one.settle()
    nodes = {key.node_id for record in one.instances() for key in record.promised}
    assert "c" in nodes
    assert len(nodes) == 2


def test_gain_is_relative_to_what_the_place_is_worth_now() -> None:
    one = world(machine("a", 100), machine("b", 100, speed=500.0))
    place(
        one,
        include=(
            "a",
            "b",
        ),
    )
    one.device("a/g0").is_throttling = True
    one.heartbeat()
    record = one.instance("m")
    better = planned(wanted_of(record), one.state, one.now, one.knowledge, barred=["a"])
    assert isinstance(better, Placed)
    assert gain_of(record, better, one.state, one.now, one.knowledge) == 0.0  # half as quick is what b is anyway
    one.device("b/g0").bytes_per_second = 2000.0
    one.find_device("b/g0")
    better = planned(wanted_of(record), one.state, one.now, one.knowledge, barred=["a"])
    assert isinstance(better, Placed)
    gain = gain_of(record, better, one.state, one.now, one.knowledge)
    assert gain == pytest.approx(0.75)
    assert record.plan is not None
    assert not is_same_place(better, record.plan)
    assert is_same_place(record.plan, record.plan)


def test_a_place_that_is_not_there_any_more_has_no_gain() -> None:
    one = world(machine("a", 100), machine("b", 100))
    place(one)
    one.leave("a")
    record = one.instance("m")
    found = find_place(wanted_of(record), one.state, one.now, one.knowledge)
    assert isinstance(found.result, Placed)
    assert gain_of(record, found.result, one.state, one.now, one.knowledge) is None
