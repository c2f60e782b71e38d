"""The verifier accepts every plan of the planner, and none that was tampered with."""

from typing import Any

import pytest
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Hop, Placed, PlacementRequest
from support.planning import PLAIN, ask, asked, device, fleet, link, model, placed

WHERE = fleet(
    None,
    (link("a", "b"), link("b", "a", 0.02), link("b", "c")),
    a=device("0", 60, 100.0),
    b=(device("0", 60, 90.0), device("1", 60, 80.0)),
    c=device("0", 60, 10.0, status="cordoned"),
)
WHAT = model(10, 10, embedding_bytes=3, head_bytes=4, kv_bytes_per_token_per_layer=1)
ASKED = asked(WHAT, context_tokens=1)


def plan_of(**request: Any) -> Placed:
    return placed(ask(WHERE, WHAT, **{"context_tokens": 1, **request}))


def problems(
    plan: Placed, where: Fleet = WHERE, what: ModelProfile = WHAT, request: PlacementRequest = ASKED
) -> tuple[str, ...]:
    return verify(where, what, request, PLAIN, plan)


def with_stage(plan: Placed, index: int, **changes: Any) -> Placed:
    stages = list(plan.stages)
    stages[index] = stages[index].model_copy(update=changes)
    return plan.model_copy(update={"stages": tuple(stages)})


@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
def test_a_true_plan_is_accepted(objective: str) -> None:
    request = asked(WHAT, context_tokens=1, objective=objective)
    assert problems(plan_of(objective=objective), request=request) == ()


PLAN = plan_of()
FIRST = PLAN.stages[0]


@pytest.mark.parametrize(
    ("tampered", "said"),
    [
        (PLAN.model_copy(update={"model_id": "other"}), "not small"),
        (PLAN.model_copy(update={"stages": PLAN.stages[:-1], "hops": PLAN.hops[:-1]}), "the stages end at layer"),
        (with_stage(PLAN, 0, end_layer=FIRST.end_layer - 1), "begins at layer"),
        (with_stage(PLAN, 0, start_layer=1), "begins at layer 1"),
        (with_stage(PLAN, 0, devices=("x/0",), memory_bytes={"x/0": 1}), "x/0 is not in the fleet"),
        (
            with_stage(PLAN, 1, devices=FIRST.devices, memory_bytes=FIRST.memory_bytes),
            f"{FIRST.devices[0]} is used twice",
        ),
        (with_stage(PLAN, 0, memory_bytes={}), "does not say each device's memory"),
        (with_stage(PLAN, 0, memory_bytes={FIRST.devices[0]: 1}), "holds 1 bytes"),
        (with_stage(PLAN, 0, seconds=FIRST.seconds * 0.99), "takes"),
        (PLAN.model_copy(update={"hops": ()}), "0 hops do not join"),
        (
            PLAN.model_copy(update={"hops": (PLAN.hops[0].model_copy(update={"seconds": 0.0}), *PLAN.hops[1:])}),
            "takes 0.0",
        ),
        (
            PLAN.model_copy(
                update={
                    "hops": (
                        Hop.model_validate({"from": "c/0", "to": "a/0", "seconds": 0.01}),
                        *PLAN.hops[1:],
                    )
                }
            ),
            "does not join consecutive stages",
        ),
        (
            PLAN.model_copy(update={"objective": PLAN.objective.model_copy(update={"value": 0.001})}),
            "the objective is",
        ),
        (
            PLAN.model_copy(update={"objective": PLAN.objective.model_copy(update={"name": "latency"})}),
            "but throughput was asked",
        ),
        (
            PLAN.model_copy(update={"objective": PLAN.objective.model_copy(update={"bound": 99.0})}),
            "better than its bound",
        ),
        (
            PLAN.model_copy(update={"predicted": PLAN.predicted.model_copy(update={"seconds_per_token": 0.1})}),
            "a token takes",
        ),
    ],
)
def test_a_tampered_plan_is_rejected(tampered: Placed, said: str) -> None:
    wrong = problems(tampered)
    assert wrong
    assert said in " ".join(wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context_tokens": 9}, "must hold"),
        ({"concurrency": 9}, "must hold"),
        ({"headroom_bytes": 30}, "must hold"),
        ({"headroom_fraction": 0.5}, "must hold"),
        ({"runtime_overhead_bytes": 20}, "must hold"),
        ({"min_nodes": 3}, "fewer than min_nodes"),
        ({"max_nodes": 1}, "more than max_nodes"),
        ({"max_devices": 1}, "more than max_devices"),
        ({"max_stages": 1}, "more than max_stages"),
        ({"include": ("c",)}, "is not included"),
        ({"exclude": ("a",)}, "a/0 is excluded"),
        ({"pin": {"a/0": 1}}, "is pinned to 1"),
        ({"sharding": "tensor"}, "alone in a stage"),
        ({"objective": "latency"}, "but latency was asked"),
    ],
)
def test_a_plan_that_misses_a_condition_is_rejected(changes: dict[str, Any], said: str) -> None:
    request = asked(WHAT, **{"context_tokens": 1, **changes})
    assert said in " ".join(problems(PLAN, request=request))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory_used_bytes": 30}, "must hold"),
        ({"memory_reserved_bytes": 30}, "must hold"),
        ({"memory_total_bytes": None}, "nobody knows"),
        ({"status": "lost"}, "is lost"),
        ({"is_plugged_in": False, "battery_percent": 5.0}, "on battery"),
        ({"is_thermal_throttling": True}, "the stage on"),
    ],
)
def test_a_plan_for_another_state_of_the_fleet_is_rejected(changes: dict[str, Any], said: str) -> None:
    nodes = tuple(
        node.model_copy(update={"devices": tuple(one.model_copy(update=changes) for one in node.devices)})
        if node.node_id == FIRST.devices[0].partition("/")[0]
        else node
        for node in WHERE.nodes
    )
    assert said in " ".join(problems(PLAN, where=WHERE.model_copy(update={"nodes": nodes})))


def test_a_missing_link_and_a_wrong_backend_are_seen() -> None:
    assert "there is no link" in " ".join(problems(PLAN, where=WHERE.model_copy(update={"links": ()})))
    metal = WHERE.model_copy(
        update={
            "nodes": tuple(
                node.model_copy(
                    update={"devices": tuple(one.model_copy(update={"backend": "metal"}) for one in node.devices)}
                )
                for node in WHERE.nodes
            )
        }
    )
    cuda = WHAT.model_copy(update={"backends": ("cuda",)})
    assert "runs metal" in " ".join(problems(PLAN, where=metal, what=cuda))


def test_a_tensor_group_must_be_alike_in_one_node_and_divide() -> None:
    groups = {"supports_tensor": True, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
    what = model(10, 10, **groups)
    where = fleet(a=(device("0", 60, name="twin"), device("1", 60, name="twin")))
    request = asked(what, sharding="tensor")
    plan = placed(ask(where, what, sharding="tensor"))
    assert verify(where, what, request, PLAIN, plan) == ()
    for changes, said in (
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 cannot be split"),
        ({"supports_tensor": False}, "is not supported"),
    ):
        assert said in " ".join(verify(where, what.model_copy(update=changes), request, PLAIN, plan))
    mixed = fleet(a=(device("0", 60, name="twin"), device("1", 60, name="other")))
    assert "mixes kinds" in " ".join(verify(mixed, what, request, PLAIN, plan))
