"""What is said to bind a plan, with its numbers."""

from typing import Any

import pytest
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.placement import Placed
from support.planning import LINK, ask, device, fleet, layers, link, model, placed

GROUPS = {"supports_tensor": True, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
QUICK = LINK.model_copy(update={"latency_seconds": 0.0001})


def said(where: Fleet, what: Any = None, **request: Any) -> list[tuple[str, str | None, str]]:
    answer = placed(ask(where, what or model(), **request))
    return [(binding.kind, binding.device, binding.why) for binding in answer.binding]


def test_one_device_is_all_there_is_to_say() -> None:
    assert said(fleet(a=device("0", 1000))) == [("stage", "a/0", "all is on a/0, which takes 1 s for 10 of 10 layers")]


def test_the_slowest_stage_is_named_with_its_hop_and_its_ties() -> None:
    where = fleet(a=device("0", 1000), b=device("0", 1000))
    assert said(where, objective="throughput")[0] == (
        "stage",
        "a/0",
        "the slowest stage: a/0 takes 500 ms for 5 of 10 layers and 10 ms for the hop to b/0",
    )
    _, _, tied = said(fleet(QUICK, a=device("0", 1000), b=device("0", 1000)), objective="throughput")[0]
    assert tied.endswith("; 1 more within 1 % of that")


def test_a_hop_that_takes_longer_than_its_layers_is_a_link() -> None:
    where = fleet(None, (link("a", "b", 0.7), link("b", "a", 0.9)), a=device("0", 50), b=device("0", 60))
    (kind, name, why), (also, _, instant) = said(where, objective="latency")[:2]
    assert (kind, name) == ("link", "a/0")
    assert why == "a/0 takes 700 ms for the hop to b/0, 41 % of the 1.7 s for a token"
    assert (also, instant) == (
        "link",
        "each hop from a to b takes 700 ms: were it instant, a token would take 1 s or less instead of 1.7 s",
    )


def test_full_memory_binds_where_a_slower_device_holds_what_has_no_room() -> None:
    where = fleet(QUICK, fast=device("0", 65, 1000.0, memory_used_bytes=5), slow=device("0", 1000, 100.0))
    bound = said(where, objective="latency")
    assert layers(ask(where, model(), objective="latency"))["fast/0"] == 6
    ((_, name, why),) = (one for one in bound if one[0] == "memory")
    assert name == "fast/0"
    change = "a token would take 370 ms or less instead of 460 ms"
    assert why == f"the memory of fast/0 is full with 6 layers: 10 B more would hold 7, and {change}"
    more = fleet(QUICK, fast=device("0", 70, 1000.0), slow=device("0", 1000, 100.0))
    assert placed(ask(more, model(), objective="latency")).predicted.seconds_per_token < 0.371


def test_a_full_device_that_is_no_faster_than_the_rest_does_not_bind() -> None:
    where = fleet(fast=device("0", 1000, 1000.0), slow=device("0", 10, 100.0))
    answer = placed(ask(where, model(), objective="latency"))
    assert [binding.kind for binding in answer.binding] == ["stage"]


def test_memory_of_a_group_is_counted_over_all_its_devices() -> None:
    fast = tuple(device(str(number), 30, 1000.0, name="fast") for number in range(2))
    slow = tuple(device(str(number), 50, 10.0, name="slow") for number in range(2))
    where = fleet(QUICK, fast=fast, slow=slow)
    bound = [one for one in said(where, model(**GROUPS), objective="latency", sharding="tensor") if one[0] == "memory"]
    assert [one[2][:98] for one in bound] == [
        "the memory of the group fast/0+fast/1 is full with 6 layers: 10 B more in all would hold 7, and a "
    ]


def test_a_limit_of_the_request_binds_only_if_the_plan_would_be_better_without() -> None:
    where = fleet(QUICK, a=device("0", 1000), b=device("0", 1000), c=device("0", 1000))
    for limit in ("max_devices", "max_nodes", "max_stages"):
        why = [one[2] for one in said(where, **{limit: 2}) if one[0] == "condition"]
        assert why == [f"{limit}=2 binds: without it, the slowest stage would take 400 ms or less instead of 500 ms"]
        assert [one for one in said(where, objective="latency", **{limit: 1}) if one[0] == "condition"] == []
    spread = [one[2] for one in said(where, objective="latency", min_nodes=2) if one[0] == "condition"]
    assert spread == []  # a hop of 0.1 ms in a token of a second is not worth a word
    slow = fleet(LINK.model_copy(update={"latency_seconds": 0.5}), a=device("0", 1000), b=device("0", 1000))
    (spread_text,) = [one[2] for one in said(slow, objective="latency", min_nodes=2) if one[0] == "condition"]
    assert spread_text == "min_nodes=2 binds: without it, a token would take 1 s or less instead of 1.5 s"


def test_a_pin_binds_if_other_counts_would_be_better() -> None:
    where = fleet(QUICK, a=device("0", 1000), b=device("0", 1000))
    pinned = [one[2] for one in said(where, pin={"a/0": 8}) if one[0] == "condition"]
    assert pinned == [
        "the pin of 8 layers on a/0 binds: without it, the slowest stage would take 500 ms or less instead of 800 ms"
    ]
    assert [one for one in said(where, pin={"a/0": 5}) if one[0] == "condition"] == []


def test_under_score_only_what_holds_layers_back_is_named() -> None:
    good = {"peak_flops": {"float16": 9.0}, "thermal_temperature_c": 30.0}
    where = fleet(a=device("0", 60, **good), b=device("0", 70))
    answer = placed(ask(where, model(), objective="score"))
    assert [(binding.kind, binding.device) for binding in answer.binding] == [("memory", "a/0")]
    assert "the score would be" in answer.binding[0].why


def runner_up(where: Fleet, what: Any = None, **request: Any) -> tuple[Placed, Any]:
    answer = placed(ask(where, what or model(), **request))
    return answer, answer.runner_up


def test_the_runner_up_says_what_differs_and_what_it_costs() -> None:
    where = fleet(a=device("0", 1000, 200.0), b=device("0", 1000, 100.0))
    answer, second = runner_up(where, objective="latency")
    assert answer.objective.value == pytest.approx(0.5)
    assert dict(zip(second.devices, second.layers, strict=True)) == {("a/0",): 9, ("b/0",): 1}
    assert second.value == pytest.approx(0.56)
    assert second.why == "with b/0 as well: a token would take 560 ms instead of 500 ms, 12 % more"
    assert round(second.loss, 6) == 0.12


def test_an_equally_good_rival_is_called_so() -> None:
    where = fleet(a=device("0", 1000), b=device("0", 1000))
    _, second = runner_up(where, objective="latency")
    assert (second.loss, second.why) == (0.0, "b/0 in place of a/0: just as good")


def test_where_all_devices_are_needed_another_order_is_the_runner_up() -> None:
    ways = (link("a", "b", 0.1), link("b", "a", 0.4))
    _, second = runner_up(fleet(None, ways, a=device("0", 50), b=device("0", 50)), objective="latency")
    assert second.why == "the same devices in another order: a token would take 1.4 s instead of 1.1 s, 27 % more"


def test_without_any_other_plan_there_is_no_runner_up() -> None:
    _, second = runner_up(fleet(a=device("0", 1000)))
    assert second is None
    _, second = runner_up(fleet(None, (link("a", "b"),), a=device("0", 50), b=device("0", 50)))
    assert second is None


def test_many_devices_that_differ_are_counted() -> None:
    fast = tuple(device(str(number), 20, 100.0) for number in range(6))
    where = fleet(QUICK, big=device("0", 30, 100.0), fast=fast)
    answer = placed(ask(where, model(), objective="latency"))
    assert answer.runner_up is not None
    assert len(answer.runner_up.why) < 200
