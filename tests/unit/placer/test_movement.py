"""What a re-plan moves, from where, how long that takes, and when it is worth it."""

from collections.abc import Mapping
from typing import Any

import pytest
from shardbus_placer.movement import Held, Holding, held_by
from shardbus_placer.planner import plan
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Movement, Placed, Transfer
from support.planning import LINK, PLAIN, asked, device, fleet, layers, link, model, placed

POLICY = PLAIN.model_copy(update={"model_source_bandwidth_bytes_per_second": 100.0})
"""A layer of 10 bytes takes 0.1 s from where models are kept, and 0.01 s over ``LINK``."""


def again(
    where: Fleet,
    held: Mapping[str, Any],
    what: ModelProfile | None = None,
    horizon: float | None = 1.0,
    **request: object,
) -> Placed:
    """The verified re-plan of a model of ten layers of 10 bytes, unless told otherwise."""
    what = what or model(10, 10)
    wanted = asked(what, **{"objective": "latency", **request})
    known: Held = {DeviceKey(key): value for key, value in held.items()}
    answer = placed(plan(where, what, wanted, POLICY, held=known, horizon_tokens=horizon))
    assert verify(where, what, wanted, POLICY, answer, held=known, horizon_tokens=horizon) == ()
    return answer


def movement(answer: Placed) -> Movement:
    assert answer.movement is not None
    return answer.movement


def fetched(answer: Placed) -> list[tuple[object, ...]]:
    """Who fetches how many bytes from whom, in how many seconds."""
    return [(t.device, t.from_device, t.weight_bytes, pytest.approx(t.seconds)) for t in movement(answer).transfers]


def test_nothing_is_said_where_nobody_says_what_lies_where() -> None:
    where = fleet(a=device("0", 200), b=device("0", 200))
    assert placed(plan(where, model(), asked(model()), POLICY)).movement is None


def test_what_a_lost_device_held_comes_from_where_models_are_kept() -> None:
    where = fleet(a=device("0", 60), b=device("0", 60), c=device("0", 60))
    answer = again(where, {"a/0": (0, 6)})
    assert layers(answer) == {"a/0": 6, "b/0": 4}
    assert fetched(answer) == [("b/0", None, 40, 0.4)]
    found = movement(answer)
    assert (found.moved_bytes, found.moved_seconds, found.downtime_seconds) == (40, 0.4, 0.4)
    steady = 1.0 + LINK.latency_seconds
    assert found.steady_value == pytest.approx(steady)
    assert answer.objective.value == pytest.approx(steady + 0.4)
    assert answer.predicted.seconds_per_token == pytest.approx(steady)
    assert answer.objective.gap == 0


def test_layers_come_over_the_quickest_link_from_who_has_them() -> None:
    links = (link("a", "d", bandwidth=200.0), link("b", "d", bandwidth=500.0))
    a, b = (device("0", 200, status="cordoned") for _ in range(2))
    where = fleet(LINK, links, a=a, b=b, d=device("0", 200))
    assert fetched(again(where, {"a/0": (0, 10), "b/0": (0, 5)})) == [("d/0", "b/0", 50, 0.1), ("d/0", "a/0", 50, 0.25)]


def test_a_link_slower_than_where_models_are_kept_is_not_used() -> None:
    where = fleet(LINK, (link("a", "b", bandwidth=99.0),), a=device("0", 200, status="cordoned"), b=device("0", 200))
    assert fetched(again(where, {"a/0": (0, 10)})) == [("b/0", None, 100, 1.0)]


def test_devices_of_a_node_give_each_other_layers_over_what_joins_them() -> None:
    where = fleet(a=(device("0", 200, status="cordoned"), device("1", 200)))
    node = where.nodes[0].model_copy(
        update={"device_link": LinkFigures(bandwidth_bytes_per_second=5000.0, latency_seconds=0.0)}
    )
    answer = again(where.model_copy(update={"nodes": (node,)}), {"a/0": (0, 10)})
    assert fetched(answer) == [("a/1", "a/0", 100, 0.02)]


def test_nodes_fetch_at_once_and_one_thing_after_the_other() -> None:
    where = fleet(a=(device("0", 30), device("1", 30)), b=device("0", 40))
    found = movement(again(where, {"x/0": (0, 10)}, min_nodes=2))
    assert found.moved_seconds == pytest.approx(1.0)
    assert found.downtime_seconds == pytest.approx(0.6), "one node fetches for its two devices"


def test_a_node_that_gives_to_many_is_busy_for_as_long_as_all_of_them() -> None:
    where = fleet(a=device("0", 200, status="cordoned"), b=device("0", 50), c=device("0", 50))
    found = movement(again(where, {"a/0": (0, 10)}))
    assert found.moved_seconds == pytest.approx(0.1)
    assert found.downtime_seconds == pytest.approx(0.1)


@pytest.mark.parametrize(("horizon", "there"), [(0.5, "slow/0"), (50.0, "fast/0")])
def test_a_quicker_device_is_taken_only_if_there_is_time_to_earn_the_move(horizon: float, there: str) -> None:
    # A token takes 1.0 s here and 0.9 s there, and the move 0.1 s.
    where = fleet(slow=device("0", 200, 100.0), fast=device("0", 200, 1 / 0.009))
    answer = again(where, {"slow/0": (0, 10)}, horizon=horizon)
    assert layers(answer) == {there: 10}
    assert answer.objective.gap == 0


@pytest.mark.parametrize("horizon", [None, float("inf")])
def test_without_a_horizon_moving_only_decides_between_equals(horizon: float | None) -> None:
    where = fleet(slow=device("0", 200, 100.0), fast=device("0", 200, 101.0), twin=device("0", 200, 101.0))
    answer = again(where, {"slow/0": (0, 10), "twin/0": (0, 1)}, horizon=horizon)
    assert layers(answer) == {"twin/0": 10}
    assert movement(answer).horizon_tokens is None
    assert movement(answer).steady_value is None
    assert movement(answer).moved_bytes == 90
    assert answer.objective.value == answer.predicted.seconds_per_token


def test_a_score_is_not_in_seconds_so_moving_only_decides_between_equals() -> None:
    where = fleet(a=device("0", 200), b=device("0", 200))
    answer = again(where, {"b/0": (0, 10)}, objective="score")
    assert layers(answer) == {"b/0": 10}
    assert movement(answer).horizon_tokens is None


def test_the_whole_fleet_says_what_it_moves_too() -> None:
    where = fleet(a=device("0", 200), b=device("0", 200))
    answer = again(where, {"a/0": (0, 10)}, objective="fleet_throughput")
    assert fetched(answer) == [("b/0", "a/0", 100, 0.1)]


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_all_stays_where_it_is_best(objective: str) -> None:
    where = fleet(a=device("0", 50), b=device("0", 50), c=device("0", 50))
    answer = again(where, {"c/0": (0, 5), "b/0": (5, 10)}, objective=objective, max_devices=2)
    assert list(layers(answer)) == ["c/0", "b/0"]
    assert movement(answer).transfers == ()


def test_embedding_and_head_move_with_the_ends() -> None:
    what = model(10, 10, embedding_bytes=3, head_bytes=4)
    where = fleet(a=device("0", 200, status="cordoned"), b=device("0", 200))
    assert movement(again(where, {"a/0": (0, 10)}, what)).moved_bytes == 107
    assert movement(again(where, {"b/0": (0, 9)}, what)).moved_bytes == 14
    assert movement(again(where, {"b/0": (1, 10)}, what)).moved_bytes == 13


def test_of_a_tied_pair_whoever_has_one_has_both() -> None:
    what = model(10, 10, embedding_bytes=20, head_bytes=20, tied_embedding=True)
    where = fleet(a=device("0", 200, status="cordoned"), b=device("0", 200))
    assert movement(again(where, {"a/0": (0, 5)}, what)).moved_bytes == 120
    assert movement(again(where, {"b/0": (0, 9)}, what)).moved_bytes == 10
    assert movement(again(where, {"b/0": (1, 10)}, what)).moved_bytes == 10


GROUPS = model(10, 10, supports_tensor=True, hidden_size=8, num_attention_heads=8, num_key_value_heads=8)


def test_each_device_of_a_group_fetches_its_part() -> None:
    where = fleet(a=(device("0", 50), device("1", 50)), b=device("0", 200, status="cordoned"))
    answer = again(where, {"b/0": (0, 10)}, GROUPS, sharding="tensor")
    assert fetched(answer) == [("a/0", "b/0", 50, 0.05), ("a/1", "b/0", 50, 0.05)]


def test_in_the_place_of_a_lost_member_the_new_one_fetches_its_part_from_where_models_are_kept() -> None:
    where = fleet(a=tuple(device(str(index), 50) for index in range(4)))
    answer = again(where, {"a/2": Holding(0, 10, 2)}, GROUPS, sharding="tensor", max_devices=2)
    assert [stage.devices for stage in answer.stages] == [("a/0", "a/2")]
    assert fetched(answer) == [("a/0", None, 50, 0.5)]


def test_a_whole_group_gives_layers_away_at_its_slowest_link() -> None:
    links = (link("a", "c", bandwidth=400.0), link("b", "c", bandwidth=200.0))
    held = {"a/0": Holding(0, 10, 2), "b/0": Holding(0, 10, 2)}
    where = fleet(LINK, links, a=device("0", 50), b=device("0", 50), c=device("0", 200))
    answer = again(where, held, GROUPS, sharding="pipeline", include=("c",))
    assert fetched(answer) == [("c/0", "a/0", 100, 0.5)]
    alone = again(where, {"a/0": Holding(0, 10, 2)}, GROUPS, sharding="pipeline", include=("c",))
    assert fetched(alone) == [("c/0", None, 100, 1.0)]


def test_a_plan_is_read_as_what_its_devices_hold() -> None:
    where = fleet(a=device("0", 50), b=(device("0", 25), device("1", 25)))
    old = placed(plan(where, GROUPS, asked(GROUPS, objective="latency", max_stages=2), POLICY))
    assert held_by(old.stages) == {
        key: (stage.start_layer, stage.end_layer, len(stage.devices)) for stage in old.stages for key in stage.devices
    }
    gone = old.stages[0].devices[0]
    assert gone not in held_by(old.stages, {gone})


@pytest.mark.parametrize("horizon", [0.0, -1.0, float("nan")])
def test_a_horizon_is_positive(horizon: float) -> None:
    with pytest.raises(ValueError, match="horizon_tokens must be positive"):
        plan(fleet(a=device("0", 200)), model(), asked(model()), POLICY, held={}, horizon_tokens=horizon)


WHERE = fleet(a=device("0", 60), b=device("0", 60), c=device("0", 60))
HELD: Held = {DeviceKey("a/0"): (0, 6), DeviceKey("b/0"): (0, 1)}
TRUE = again(WHERE, {"a/0": (0, 6), "b/0": (0, 1)})
(ONE,) = movement(TRUE).transfers


def with_movement(**changes: Any) -> Placed:
    return TRUE.model_copy(update={"movement": movement(TRUE).model_copy(update=changes)})


def with_transfer(**changes: Any) -> Placed:
    return with_movement(transfers=(ONE.model_copy(update=changes),))


@pytest.mark.parametrize(
    ("tampered", "said"),
    [
        (TRUE.model_copy(update={"movement": None}), "does not say what is moved"),
        (with_movement(transfers=()), "must fetch 40 bytes from where models are kept, not nothing"),
        (with_transfer(weight_bytes=39, seconds=0.39), "must fetch 40 bytes"),
        (with_transfer(from_device=DeviceKey("a/0"), seconds=0.04), "must fetch 40 bytes from where models are kept"),
        (with_transfer(device=DeviceKey("c/0")), "c/0 fetches weights, but is not in the plan"),
        (with_transfer(seconds=0.2), "takes 0.4 s to fetch 40 bytes, not 0.2 s"),
        (with_movement(transfers=(ONE, Transfer(device=ONE.device, weight_bytes=1, seconds=0.01))), "not 41 bytes"),
        (with_movement(moved_bytes=30), "30 bytes are not the sum"),
        (with_movement(moved_seconds=0.1), "all transfers take 0.4 s, not 0.1 s"),
        (with_movement(downtime_seconds=0.0), "the busiest node fetches, or gives, for 0.4 s, not 0.0 s"),
        (with_movement(horizon_tokens=2.0), "counted over 2.0 tokens, not 1.0"),
        (with_movement(horizon_tokens=None), "counted over None tokens, not 1.0"),
        (with_movement(steady_value=0.9), "without moving the objective is"),
        (with_movement(steady_value=None), "without moving the objective is"),
        (
            TRUE.model_copy(update={"objective": TRUE.objective.model_copy(update={"value": 1.01, "bound": None})}),
            "without moving the objective is",
        ),
    ],
)
def test_a_false_movement_is_rejected(tampered: Placed, said: str) -> None:
    wanted = asked(model(10, 10), objective="latency")
    assert verify(WHERE, model(10, 10), wanted, POLICY, TRUE, held=HELD, horizon_tokens=1.0) == ()
    assert said in " ".join(verify(WHERE, model(10, 10), wanted, POLICY, tampered, held=HELD, horizon_tokens=1.0))


def test_a_movement_that_nobody_asked_for_is_rejected() -> None:
    wanted = asked(model(10, 10), objective="latency")
    assert "nobody said what lies where" in " ".join(verify(WHERE, model(10, 10), wanted, POLICY, TRUE))
