"""The verifier accepts a true flow, and none that was tampered with."""

from typing import Any

import pytest
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.placement import Flow, Hop, Placed, PlacementRequest, Prediction
from support.planning import PLAIN, ask, asked, device, fleet, model, placed

LINK = LinkFigures(bandwidth_bytes_per_second=250.0, latency_seconds=0.01)
WHERE = fleet(
    LINK,
    a=device("0", 60),
    b=(device("0", 60, 60.0), device("1", 60, 40.0)),
    c=device("0", 200, 10.0),
    d=device("0", 60, 1.0, status="cordoned"),
)
WHAT = model(10, 10, activation_bytes_per_token=100)
ASKED = asked(WHAT, objective="fleet_throughput", exclude=("c",))
PLAN = placed(ask(WHERE, WHAT, objective="fleet_throughput", exclude=("c",)))
"""a before b/0 and b/1 side by side, or after them."""


def problems(plan: Placed, where: Fleet = WHERE, request: PlacementRequest = ASKED) -> tuple[str, ...]:
    return verify(where, WHAT, request, PLAIN, plan)


def with_stage(index: int, **changes: Any) -> Placed:
    stages = list(PLAN.stages)
    stages[index] = stages[index].model_copy(update=changes)
    return PLAN.model_copy(update={"stages": tuple(stages)})


def with_flow(index: int, **changes: Any) -> Placed:
    flows = list(PLAN.flows)
    flows[index] = flows[index].model_copy(update=changes)
    return PLAN.model_copy(update={"flows": tuple(flows)})


def with_objective(**changes: Any) -> Placed:
    return PLAN.model_copy(update={"objective": PLAN.objective.model_copy(update=changes)})


def flow(start: str | None, end: str | None, amount: float) -> Flow:
    return Flow.model_validate({"from": start, "to": end, "tokens_per_second": amount})


FIRST = PLAN.stages[0]


def test_a_true_flow_is_accepted() -> None:
    assert {str(stage.devices[0]) for stage in PLAN.stages} == {"a/0", "b/0", "b/1"}
    assert problems(PLAN) == ()


@pytest.mark.parametrize(
    ("tampered", "said"),
    [
        (PLAN.model_copy(update={"stages": PLAN.stages[1:]}), "does not join stages"),
        (with_stage(0, end_layer=FIRST.end_layer - 1), "bytes; it is"),
        (with_stage(0, seconds=0.1), "takes 0.5 s, not 0.1 s"),
        (with_stage(0, tokens_per_second=9.0), "tokens/s, not 9.0"),
        (with_stage(0, tokens_per_second=None), "tokens/s, not None"),
        (with_flow(0, tokens_per_second=9.0), "leave it"),
        (with_flow(0, tokens_per_second=0.0), "is 0.0"),
        (with_flow(0, to_device="d/0"), "does not join stages"),
        (PLAN.model_copy(update={"flows": PLAN.flows[1:]}), "leave"),
        (PLAN.model_copy(update={"flows": (*PLAN.flows, PLAN.flows[0])}), "is told twice"),
        (PLAN.model_copy(update={"flows": (*PLAN.flows, flow("b/0", "b/1", 0.1))}), "hands over at layer"),
        (PLAN.model_copy(update={"flows": (*PLAN.flows, flow(None, None, 0.1))}), "does not join stages"),
        (PLAN.model_copy(update={"hops": (Hop.model_validate({"from": "a/0", "to": "b/0", "seconds": 1}),)}), "hops"),
        (with_objective(value=9.0, bound=9.0), "not 9.0"),
        (with_objective(bound=1.0), "is better than its bound"),
        (with_objective(gap=0.5), "is no gap of 0.5"),
        (with_objective(bound=None, gap=0.0), "without a bound"),
        (with_objective(unit="seconds"), "not in seconds"),
        (with_objective(name="throughput"), "but fleet_throughput was asked"),
        (
            PLAN.model_copy(update={"predicted": Prediction(seconds_per_token=9, tokens_per_second=2)}),
            "in the mean, not 9.0 s",
        ),
        (
            PLAN.model_copy(update={"predicted": PLAN.predicted.model_copy(update={"tokens_per_second": 3.0})}),
            "not 3.0",
        ),
    ],
)
def test_a_flow_that_was_tampered_with_is_not(tampered: Placed, said: str) -> None:
    assert any(said in problem for problem in problems(tampered)), problems(tampered)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"max_stages": 1}, "a way passes 2 stages, more than max_stages=1"),
        ({"max_devices": 2}, "3 devices are more than"),
        ({"max_nodes": 1}, "2 nodes are more than"),
        ({"min_nodes": 3}, "2 nodes are fewer than"),
        ({"exclude": ("a",)}, "a/0 is excluded"),
        ({"pin": {"a/0": 3}}, "is pinned to 3 layers but holds"),
    ],
)
def test_the_conditions_of_the_request_are_checked(request_: dict[str, Any], said: str) -> None:
    found = problems(PLAN, request=asked(WHAT, **{"objective": "fleet_throughput", **request_}))
    assert any(said in problem for problem in found), found


def test_a_link_that_is_missing_or_too_slow_for_both_devices_together_is_seen() -> None:
    nowhere = WHERE.model_copy(update={"default_link": None})
    assert any("there is no link from" in problem for problem in problems(PLAN, nowhere))
    # 150 bytes/s are 1.5 tokens/s: enough for each device of b, and not for both.
    slow = WHERE.model_copy(
        update={"default_link": LinkFigures(bandwidth_bytes_per_second=150.0, latency_seconds=0.01)}
    )
    assert any("carries 1.5 tokens/s at most" in problem for problem in problems(PLAN, slow))
