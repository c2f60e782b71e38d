"""What is near an old plan is looked at first, however large the fleet and late the hour."""

from collections.abc import Sequence

import pytest
from shardbus_placer.candidates import survey
from shardbus_placer.links import links_of
from shardbus_placer.movement import Holding, Moves, held_by
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.problem import Problem, Unit, device_scores, formulate, with_movement
from shardbus_placer.standing import standing
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from support import speed_fleets
from support.planning import PLAIN, asked, device, fleet, model, placed


def priced(where: Fleet, what: ModelProfile, held: dict[DeviceKey, Holding], **request: object) -> Problem:
    """The problem of placing a model again."""
    wanted = asked(what, **request)
    surveyed, links = survey(where, what, wanted, PLAIN), links_of(where, PLAIN)
    problem = formulate(surveyed, links, what, wanted, device_scores(surveyed, links, PLAIN), held)
    return with_movement(problem, Moves(held, links, what, problem.memory, PLAIN), 1.0)


def key(name: str) -> DeviceKey:
    return DeviceKey(name)


def names(order: Sequence[Unit]) -> list[str]:
    return ["+".join(unit.devices) for unit in order]


THREE = fleet(a=device("0", 60), b=device("0", 60), c=device("0", 60, 50.0), d=device("0", 10))


def test_the_old_cut_comes_first() -> None:
    held = {key("b/0"): Holding(0, 4), key("a/0"): Holding(4, 10)}
    near = standing(priced(THREE, model(), held), held)
    assert [(names(cut.order), cut.bounds) for cut in near.cuts] == [(["b/0", "a/0"], (0, 4, 10))]
    assert names(near.orders[0]) == ["b/0", "a/0"]


def test_in_the_place_of_a_lost_device_each_that_has_room_is_put() -> None:
    held = {key("a/0"): Holding(4, 10)}
    near = standing(priced(THREE, model(), held), held)
    assert [(names(cut.order), cut.bounds) for cut in near.cuts] == [
        (["b/0", "a/0"], (0, 4, 10)),
        (["c/0", "a/0"], (0, 4, 10)),
    ]
    assert [names(order) for order in near.orders] == [["a/0"], ["b/0", "a/0"], ["c/0", "a/0"], ["d/0", "a/0"]]


def test_several_gaps_are_filled_at_once() -> None:
    held = {key("a/0"): Holding(4, 6)}
    near = standing(priced(THREE, model(), held), held)
    assert [(names(cut.order), cut.bounds) for cut in near.cuts] == [(["b/0", "a/0", "c/0"], (0, 4, 6, 10))]


def test_what_is_left_of_a_broken_group_stands_alone() -> None:
    what = model(10, 10, supports_tensor=True, hidden_size=8, num_attention_heads=8, num_key_value_heads=8)
    where = fleet(a=(device("0", 60), device("1", 60)), b=device("0", 60))
    whole = {key("a/0"): Holding(0, 6, 2), key("a/1"): Holding(0, 6, 2), key("b/0"): Holding(6, 10)}
    assert names(standing(priced(where, what, whole), whole).orders[0]) == ["a/0+a/1", "b/0"]
    broken = {name: holding for name, holding in whole.items() if name != "a/1"}
    assert names(standing(priced(where, what, broken), broken).orders[0]) == ["a/0", "b/0"]


def test_where_nothing_is_left_nothing_stands() -> None:
    near = standing(priced(THREE, model(), {}), {})
    assert near.orders == ()


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_however_late_it_is_a_large_fleet_moves_little_more_than_what_was_lost(objective: str) -> None:
    where = speed_fleets.unequal_links(16, 3)
    what = speed_fleets.model_of_80_layers(where, 3)
    request = PlacementRequest.model_validate(
        {"model": what, "objective": objective, "sharding": "pipeline", "deadline_ms": 1000}
    )
    old = placed(plan(where, what, request, Policy()))
    stage = old.stages[len(old.stages) // 2]
    (lost,) = stage.devices
    nodes = tuple(
        node.model_copy(
            update={
                "devices": tuple(
                    one.model_copy(update={"status": "lost"})
                    if DeviceKey.of(node.node_id, one.device_id) == lost
                    else one
                    for one in node.devices
                )
            }
        )
        for node in where.nodes
    )
    after, held = where.model_copy(update={"nodes": nodes}), held_by(old.stages, {lost})
    hurried = request.model_copy(update={"deadline_ms": 0.01})
    answer = placed(plan(after, what, hurried, Policy(), held=held, horizon_tokens=1e4))
    assert verify(after, what, hurried, Policy(), answer, held=held, horizon_tokens=1e4) == ()
    assert answer.movement is not None
    ends = what.embedding_bytes + what.head_bytes
    assert answer.movement.moved_bytes <= sum(what.bytes_by_layer[stage.start_layer : stage.end_layer]) + ends
