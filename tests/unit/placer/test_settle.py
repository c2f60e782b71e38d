"""Which of several equally good plans is taken."""

import pytest
from shardbus_placer.planner import plan
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import Placed
from support.planning import LINK, PLAIN, ask, asked, device, fleet, layers, model, placed

FREE = LINK.model_copy(update={"latency_seconds": 0.0})


def again(where: Fleet, held: dict[str, tuple[int, int]], count: int = 12, **request: object) -> Placed:
    what = model(count, 10)
    known = {DeviceKey(key): layers for key, layers in held.items()}
    return placed(plan(where, what, asked(what, **request), PLAIN, held=known))


@pytest.mark.parametrize("objective", ["latency", "score"])
def test_fewer_devices_come_first(objective: str) -> None:
    where = fleet(FREE, a=device("0", 200), b=device("0", 200), c=device("0", 200))
    assert layers(ask(where, model(12, 10), objective=objective)) == {"a/0": 12}


def test_a_slow_stage_that_sets_the_pace_leaves_the_others_no_reason_to_be_many() -> None:
    where = fleet(FREE, slow=device("0", 20, 1.0), a=device("0", 200, 100.0), b=device("0", 200, 100.0))
    what = model(12, (100, *[10] * 11))
    answer = placed(ask(where.model_copy(), what, pin={"slow/0": 1}))
    assert len(answer.stages) == 2, "the slowest stage takes ten seconds whether one or two share the rest"


@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
def test_of_equal_devices_those_that_hold_the_layers_already_are_taken(objective: str) -> None:
    where = fleet(FREE, a=tuple(device(str(index), 40) for index in range(6)))
    held = {"a/5": (0, 4), "a/1": (4, 8), "a/3": (8, 12)}
    answer = again(where, held, objective=objective, max_devices=3)
    assert layers(answer) == {"a/5": 4, "a/1": 4, "a/3": 4}


def test_of_equal_nodes_those_that_hold_the_layers_already_are_taken() -> None:
    where = fleet(FREE, **{name: device("0", 40) for name in "abcdef"})
    answer = again(where, {"f/0": (0, 4), "c/0": (8, 12)}, objective="latency")
    assert layers(answer) == {"f/0": 4, "a/0": 4, "c/0": 4}


def test_equal_devices_change_places_to_where_their_layers_are() -> None:
    where = fleet(FREE, a=device("0", 60), b=device("0", 60))
    assert list(layers(again(where, {}))) == ["a/0", "b/0"]
    assert list(layers(again(where, {"a/0": (6, 12), "b/0": (0, 6)}))) == ["b/0", "a/0"]


def test_a_boundary_goes_where_it_was_if_that_costs_nothing() -> None:
    where = fleet(FREE, a=device("0", 200, 100.0), b=device("0", 200, 100.0), c=device("0", 10, 1.0))
    pinned = {"pin": {"c/0": 1}, "min_nodes": 3}
    answer = again(where, {"a/0": (1, 9), "b/0": (9, 12), "c/0": (0, 1)}, **pinned)
    assert layers(answer) == {"c/0": 1, "a/0": 8, "b/0": 3}


@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
def test_without_anything_held_the_lowest_names_come_first(objective: str) -> None:
    names = ["d", "b", "a", "c"]
    where = fleet(FREE, **{name: device("0", 60) for name in names})
    assert list(layers(ask(where, model(12, 10), objective=objective, max_devices=2))) == ["a/0", "b/0"]


def test_a_faster_plan_is_never_given_up_for_what_is_held() -> None:
    where = fleet(FREE, a=device("0", 200, 100.0), b=device("0", 200, 99.0))
    assert layers(again(where, {"b/0": (0, 12)}, objective="latency")) == {"a/0": 12}
