"""The planner against the proved optimum of thousands of random fleets, objective by objective."""

from typing import get_args

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.placement import ObjectiveName
from support.brute_force import BruteForce
from support.exact import Exact
from support.small_cases import Conditions, Links, Shape, small_case

POLICY = Policy(
    backends={
        name: rules.model_copy(update={"unknown_bandwidth_bytes_per_second": 80.0})
        for name, rules in Policy().backends.items()
    },
    device_link=LinkFigures(bandwidth_bytes_per_second=500.0, latency_seconds=0.01),
    tensor_link=LinkFigures(bandwidth_bytes_per_second=100.0, latency_seconds=0.01),
)
"""The product's rules, with figures of the size that the cases have."""
SEEDS = st.integers(0, 2**32 - 1)
EXAMPLES = 1000
"""Of each objective."""
NODES: list[tuple[int, ...]] = [
    *((1,), (2,), (1, 1), (3,), (2, 1), (1, 1, 1), (2, 2), (3, 1), (2, 1, 1), (1, 1, 1, 1)),
    *((3, 2), (3, 1, 1), (2, 2, 1), (2, 1, 1, 1), (1, 1, 1, 1, 1), (4, 1, 1), (2, 2, 2), (3, 1, 1, 1)),
    *((2, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1), (2, 2, 2, 1), (3, 2, 1, 1), (2, 2, 2, 2), (3, 2, 2, 1), (4, 2, 2)),
]
"""How many devices each node has."""


@st.composite
def shapes(draw: st.DrawFn, objective: ObjectiveName, most_devices: int = 8, most_layers: int = 12) -> Shape:
    equal = draw(st.booleans())
    return Shape(
        devices=draw(st.sampled_from([nodes for nodes in NODES if sum(nodes) <= most_devices])),
        # The interval program, which alone is exact for unequal layers, grows with their square.
        layers=draw(st.integers(1, most_layers if equal else min(7, most_layers))),
        objective=objective,
        equal_layers=equal,
        links=draw(st.sampled_from(get_args(Links))),
        ends=draw(st.booleans()),
        measured=draw(st.integers(0, 3)) == 0,
        sharding=draw(st.sampled_from(["pipeline", "pipeline", "pipeline", "auto", "auto", "auto", "tensor"])),
        conditions=draw(st.sampled_from(["none", "none", "none", *get_args(Conditions)])),
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
@given(data=st.data(), seed=SEEDS)
def test_the_plan_is_the_proved_optimum(objective: ObjectiveName, data: st.DataObject, seed: int) -> None:
    shape = data.draw(shapes(objective))
    case = small_case(shape, seed)
    exact = Exact(case.fleet, case.model, case.request, POLICY)
    answer = plan(case.fleet, case.model, case.request, POLICY)
    if answer.status == "refused":
        event(f"refused: {answer.refusal.code}")
        assert answer.refusal.proved
        assert exact.best() is None, f"refused ({answer.refusal}), but there is a plan"
        return
    event(f"placed: {answer.strategy}, {len(answer.stages)} stages")
    assert verify(case.fleet, case.model, case.request, POLICY, answer) == ()
    for stage in answer.stages:
        for device, held in stage.memory_bytes.items():
            needed = exact.needed(device, stage.start_layer, stage.end_layer, len(stage.devices))
            assert held == needed <= exact.free(device)
    best = exact.best({str(verdict.device): verdict.score for verdict in answer.devices})
    assert best is not None, "a plan where there is none"
    tolerance = 1e-6 * max(abs(best), 1e-12)
    sign = -1 if objective == "score" else 1
    worse = sign * (answer.objective.value - best)
    assert worse >= -tolerance, "better than possible"
    if answer.objective.bound is not None:
        assert sign * (answer.objective.bound - best) <= tolerance, "the bound cuts off a real plan"
    if answer.objective.gap == 0:
        assert worse <= tolerance, "called optimal, but is not"
    if answer.strategy == "ilp":
        assert answer.objective.gap == 0, "nothing this small may stay unproved"
    if any(len(stage.devices) > 1 for stage in answer.stages):
        spread = any(len({key.node_id for key in stage.devices}) > 1 for stage in answer.stages)
        event("a tensor group across nodes" if spread else "a tensor group")
    event(f"gap {answer.objective.gap == 0}, best {worse <= tolerance}")


def test_a_solver_that_wrongly_calls_a_program_infeasible_refuses_nobody() -> None:
    """HiGHS 1.16.0 does so here, unless its presolve is off."""
    shape = Shape(
        devices=(3, 2, 1, 1),
        layers=2,
        objective="latency",
        equal_layers=False,
        links="unequal",
        ends=False,
        measured=True,
        sharding="auto",
        conditions="pins",
    )
    case = small_case(shape, 2831)
    answer = plan(case.fleet, case.model, case.request, POLICY)
    assert answer.status == "placed"
    assert answer.objective.value == pytest.approx(Exact(case.fleet, case.model, case.request, POLICY).best())


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), objective=st.sampled_from(["throughput", "latency", "score"]), seed=SEEDS)
def test_the_exact_method_finds_what_walking_through_all_plans_finds(
    data: st.DataObject, objective: ObjectiveName, seed: int
) -> None:
    case = small_case(data.draw(shapes(objective, most_devices=4, most_layers=5)), seed)
    scores = {str(key): 0.1 + index / 7 for index, (key, _, _) in enumerate(case.fleet.devices())}
    given_case = (case.fleet, case.model, case.request, POLICY)
    expected, found = BruteForce(*given_case).best(scores), Exact(*given_case).best(scores)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-12))
