"""Whole-fleet flows on fleets small enough to work the best one out in the head."""

import time
from typing import Any

import pytest
from shardbus_placer.fleet_flow.front import front
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures, MeasuredSpeed
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed
from support.broken_solver import Hang, solver_is
from support.flow_brute_force import flow_of_plan
from support.flow_fleets import MODEL, SEVEN_KINDS, THREE_KINDS, one_region, three_regions
from support.planning import PLAIN, ask, asked, device, fleet, link, model, placed, refused


def flow(where: Fleet, what: ModelProfile, **request: Any) -> Placed:
    """The verified plan, of which networkx finds the flow to be maximal."""
    found = placed(ask(where, what, objective="fleet_throughput", **request))
    assert verify(where, what, asked(what, objective="fleet_throughput", **request), PLAIN, found) == ()
    if request.get("max_stages") is None:
        assert flow_of_plan(where, what, found, PLAIN) == pytest.approx(found.objective.value)
    return found


def held(plan: Placed) -> dict[str, tuple[int, int]]:
    return {str(stage.devices[0]): (stage.start_layer, stage.end_layer) for stage in plan.stages}


# Ten layers of ten bytes: a device of 100 bytes/s takes 0.1 s for each.
TEN = model(10, 10)


def test_devices_that_hold_the_whole_model_serve_side_by_side() -> None:
    plan = flow(fleet(a=device("0", 100), b=device("0", 100, 50.0)), TEN)
    assert held(plan) == {"a/0": (0, 10), "b/0": (0, 10)}
    assert plan.objective.value == pytest.approx(1.5)
    assert plan.objective.gap == 0
    assert plan.depth == 1


def test_weak_devices_share_a_stage_with_a_strong_one_before_or_after() -> None:
    plan = flow(fleet(a=device("0", 50), b=device("0", 50, 50.0), c=device("0", 50, 50.0)), TEN)
    assert held(plan)["b/0"] == held(plan)["c/0"] != held(plan)["a/0"]
    assert plan.objective.value == pytest.approx(2.0)
    assert plan.objective.gap == 0
    assert plan.depth == 2
    assert plan.predicted.seconds_per_token == pytest.approx(0.5 + 1.0 + 0.01)


def test_two_pipelines_stand_beside_a_device_that_holds_all() -> None:
    plan = flow(fleet(a=device("0", 100), b=device("0", 50), c=device("0", 50)), TEN)
    assert plan.objective.value == pytest.approx(3.0)
    assert plan.objective.gap == 0


def test_more_sequences_a_step_are_more_tokens() -> None:
    plan = flow(fleet(a=device("0", 100)), TEN, concurrency=4)
    assert plan.objective.value == pytest.approx(4.0)


def test_a_depth_that_is_not_allowed_is_not_used() -> None:
    where = fleet(a=device("0", 100, 10.0), b=device("0", 60), c=device("0", 60))
    deep, flat = flow(where, TEN), flow(where, TEN, max_stages=1)
    assert deep.depth == 2
    assert held(flat) == {"a/0": (0, 10)}
    assert deep.objective.value > flat.objective.value == pytest.approx(0.1)
    assert flat.objective.gap == 0
    said = {verdict.device: verdict.why for verdict in flat.devices}
    assert said["b/0"] == "not used: it has room for 6 layers, and every chosen stage holds 10 or more"


def test_a_slow_link_limits_the_flow_and_its_bound() -> None:
    slow = LinkFigures(bandwidth_bytes_per_second=50.0, latency_seconds=0.01)
    what = model(10, 10, activation_bytes_per_token=100)
    plan = flow(fleet(slow, a=device("0", 60), b=device("0", 60)), what)
    assert plan.objective.value == pytest.approx(0.5)
    assert plan.objective.gap == pytest.approx(1.0)  # a link the other way would have carried as much
    assert [binding.kind for binding in plan.binding] == ["link"]


def test_devices_of_two_nodes_share_the_link_between_these() -> None:
    slow = LinkFigures(bandwidth_bytes_per_second=50.0, latency_seconds=0.01)
    what = model(10, 10, activation_bytes_per_token=100)
    pair = (device("0", 50), device("1", 50))
    plan = flow(fleet(slow, a=pair, b=pair), what)
    # Each node holds the whole model: tokens stay inside, where the link is faster.
    assert plan.objective.value == pytest.approx(4.0)


def test_tokens_go_the_way_that_a_link_goes() -> None:
    plan = flow(fleet(None, (link("b", "a"),), a=device("0", 60), b=device("0", 60)), TEN)
    assert held(plan) == {"b/0": (0, 5), "a/0": (5, 10)}
    handed = [(flow.from_device, flow.to_device) for flow in plan.flows]
    assert handed == [(None, "b/0"), ("b/0", "a/0"), ("a/0", None)]


def test_measured_rates_by_number_of_layers_are_believed() -> None:
    rates = (9.0, 9.0, 9.0, 1.0, 8.0, 1.0, 1.0, 1.0, 1.0, 0.5)
    speed = (MeasuredSpeed(model_id="small", tokens_per_second_by_layers=rates),)
    plan = flow(fleet(a=device("0", 100, measured=speed), b=device("0", 100, measured=speed)), TEN)
    assert {stage.layers for stage in plan.stages} == {5}
    assert plan.objective.value == pytest.approx(8.0)


def test_the_head_is_the_last_stage_s_in_time_and_memory() -> None:
    what = model(4, 10, head_bytes=20)
    plan = flow(fleet(a=device("0", 40), b=device("0", 60)), what)
    assert held(plan) == {"a/0": (0, 3), "b/0": (3, 4)}
    assert plan.objective.value == pytest.approx(100 / 30)


def test_unequal_layers_are_cut_by_what_they_are() -> None:
    plan = flow(fleet(a=device("0", 60), b=device("0", 60)), model(4, (30, 10, 10, 30)))
    assert sorted(held(plan).values()) == [(0, 2), (2, 4)]
    assert plan.objective.value == pytest.approx(2.5)
    assert plan.objective.gap == 0


def test_tensor_groups_hold_what_no_device_can() -> None:
    what = model(
        2, 16, supports_tensor=True, num_attention_heads=4, num_key_value_heads=2, hidden_size=8,
        activation_bytes_per_token=0,
    )  # fmt: skip
    quick = LinkFigures(bandwidth_bytes_per_second=1e6, latency_seconds=0.0)
    where = fleet(quick, a=(device("0", 10), device("1", 10)), b=(device("0", 10), device("1", 10)))
    plan = flow(where, what)
    assert {len(stage.devices) for stage in plan.stages} == {2}
    assert plan.depth == 2


def test_a_tensor_placement_has_no_device_alone() -> None:
    what = model(4, 10, supports_tensor=True, num_attention_heads=4, num_key_value_heads=2, hidden_size=8)
    where = fleet(a=(device("0", 100), device("1", 100)), b=device("0", 100))
    plan = flow(where, what, sharding="tensor")
    assert held(plan) == {"a/0": (0, 4)}


FOUR = fleet(**{name: device("0", 100, speed) for name, speed in zip("abcd", (100.0, 90.0, 50.0, 10.0), strict=True)})


@pytest.mark.parametrize(
    ("request_", "used"),
    [
        ({}, {"a/0", "b/0", "c/0", "d/0"}),
        ({"max_devices": 2}, {"a/0", "b/0"}),
        ({"max_nodes": 3}, {"a/0", "b/0", "c/0"}),
        ({"exclude": ("a",)}, {"b/0", "c/0", "d/0"}),
        ({"include": ("a", "d/0")}, {"a/0", "d/0"}),
        ({"max_devices": 2, "min_nodes": 2, "exclude": ("a",)}, {"b/0", "c/0"}),
    ],
)
def test_conditions_hold(request_: dict[str, Any], used: set[str]) -> None:
    assert held(flow(FOUR, TEN, **request_)).keys() == used


def test_more_nodes_than_layers_can_take_part_side_by_side() -> None:
    one_layer = model(1, 10)
    assert len(flow(FOUR, one_layer, min_nodes=4).nodes) == 4


def test_nodes_that_are_asked_for_take_part_even_if_nothing_gets_faster() -> None:
    # b alone passes what a passes; c can only stand beside one of them, and no more gets through.
    where = fleet(a=device("0", 50), b=device("0", 50), c=device("0", 50, 10.0))
    assert set(flow(where, TEN, min_nodes=3).nodes) == {"a", "b", "c"}


def test_devices_that_would_be_idle_are_left_out() -> None:
    where = fleet(a=device("0", 50), b=device("0", 50), c=device("0", 9, 50.0))
    assert held(flow(where, TEN)).keys() == {"a/0", "b/0"}


def test_what_cannot_be_placed_in_one_pipeline_cannot_in_several() -> None:
    answer = refused(ask(fleet(a=device("0", 40), b=device("0", 50)), TEN, objective="fleet_throughput"))
    assert answer.refusal.code == "insufficient_memory"
    assert answer.refusal.missing_bytes == 10


@pytest.mark.parametrize("way", ["waiting", "looping", "raising"])
def test_a_broken_solver_costs_neither_the_answer_nor_the_deadline(way: str) -> None:
    hang = Hang()
    where = one_region(THREE_KINDS, 0)
    began = time.monotonic()
    try:
        with solver_is(hang.way(way)):
            answer = placed(
                ask(where, MODEL, objective="fleet_throughput", concurrency=16, max_stages=8, deadline_ms=1500.0)
            )
    finally:
        hang.release()
        hang.settle()
    assert time.monotonic() - began < 4
    assert hang.began > 0
    assert answer.strategy == "greedy"
    assert answer.objective.gap is not None
    assert answer.objective.gap < 0.05
    assert ("the solver failed" in answer.strategy_reason) == (way == "raising")


@pytest.mark.parametrize(
    ("where", "most_gap"), [(one_region(THREE_KINDS, 1), 0.03), (one_region(SEVEN_KINDS, 1), 0.05)]
)
def test_fleets_of_a_few_kinds_come_near_the_bound(where: Fleet, most_gap: float) -> None:
    plan = flow(where, MODEL, concurrency=16, context_tokens=1024, deadline_ms=3000.0)
    assert plan.objective.gap is not None
    assert plan.objective.gap < most_gap


def test_slow_links_between_regions_cost_little_when_teams_follow_them() -> None:
    where = three_regions(0, LinkFigures(bandwidth_bytes_per_second=1.25e6, latency_seconds=0.05))
    plan = flow(where, MODEL, concurrency=16, context_tokens=1024, deadline_ms=3000.0)
    assert plan.objective.gap is not None
    assert plan.objective.gap < 0.25


def test_the_front_has_more_tokens_for_every_stage_more() -> None:
    where = fleet(a=device("0", 100, 10.0), b=device("0", 60), c=device("0", 60), d=device("0", 40, 300.0))
    plans = front(where, TEN, asked(TEN), PLAIN)
    assert isinstance(plans, tuple)
    assert [plan.depth for plan in plans] == sorted({plan.depth for plan in plans})
    values = [plan.objective.value for plan in plans]
    assert values == sorted(values)
    assert len(plans) > 1
    assert plans[0].depth == 1
    best = placed(ask(where, TEN, objective="fleet_throughput"))
    assert plans[-1].objective.value == pytest.approx(best.objective.value)


def test_a_front_of_nothing_is_a_refusal() -> None:
    assert refused(front(fleet(a=device("0", 40)), TEN, asked(TEN), PLAIN)).refusal.code == "insufficient_memory"
