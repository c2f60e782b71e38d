"""Re-plans against every plan there is, with what they move in the price."""

from random import Random
from typing import get_args

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.placement import ObjectiveName
from support.moving import MovingBruteForce, MovingExact, before
from support.small_cases import Conditions, Links, Shape, small_case

POLICY = Policy(
    backends={
        name: rules.model_copy(update={"unknown_bandwidth_bytes_per_second": 80.0})
        for name, rules in Policy().backends.items()
    },
    device_link=LinkFigures(bandwidth_bytes_per_second=500.0, latency_seconds=0.01),
    tensor_link=LinkFigures(bandwidth_bytes_per_second=100.0, latency_seconds=0.01),
    model_source_bandwidth_bytes_per_second=60.0,
)
"""The product's rules, with figures of the size that the cases have."""
SEEDS = st.integers(0, 2**32 - 1)
HORIZONS = st.sampled_from([0.1, 1.0, 3.0, 10.0, 100.0, 1e4])
FEW: list[tuple[int, ...]] = [(1,), (2,), (1, 1), (3,), (2, 1), (1, 1, 1), (2, 2), (3, 1), (2, 1, 1), (1, 1, 1, 1)]
MORE: list[tuple[int, ...]] = [*FEW, (3, 2), (2, 2, 1), (2, 1, 1, 1), (1, 1, 1, 1, 1), (2, 2, 2), (1, 1, 1, 1, 1, 1)]
"""How many devices each node has."""


@st.composite
def shapes(draw: st.DrawFn, objective: ObjectiveName, nodes: list[tuple[int, ...]], most_layers: int) -> Shape:
    return Shape(
        devices=draw(st.sampled_from(nodes)),
        layers=draw(st.integers(1, most_layers)),
        objective=objective,
        equal_layers=draw(st.booleans()),
        links=draw(st.sampled_from(get_args(Links))),
        ends=draw(st.booleans()),
        measured=draw(st.integers(0, 3)) == 0,
        sharding=draw(st.sampled_from(["pipeline", "pipeline", "auto", "auto", "tensor"])),
        conditions=draw(st.sampled_from(["none", "none", "none", *get_args(Conditions)])),
    )


def judged(referee: MovingBruteForce | MovingExact) -> None:
    """Plan what the referee knows the best plan of, and hold the answer against that."""
    raw = (referee.fleet, referee.model, referee.request, referee.policy)
    said = {"held": referee.holders, "horizon_tokens": referee.horizon_tokens}
    answer, best = plan(*raw, **said), referee.best()
    if answer.status == "refused":
        assert answer.refusal.proved
        assert best is None, f"refused ({answer.refusal}), but there is a plan"
        return
    assert verify(*raw, answer, **said) == ()
    assert best is not None
    tolerance = 1e-6 * max(abs(best), 1e-12)
    assert answer.objective.value >= best - tolerance, "better than possible"
    assert answer.objective.bound is None or answer.objective.bound <= best + tolerance, "the bound cuts off a plan"
    assert answer.strategy != "ilp" or answer.objective.gap == 0, "nothing this small may stay unproved"
    assert answer.objective.gap != 0 or answer.objective.value <= best + tolerance, "called optimal, but is not"
    assert answer.movement is not None
    moved = sum(referee.moved_seconds(stage.devices, stage.start_layer, stage.end_layer) for stage in answer.stages)
    assert answer.movement.moved_seconds == pytest.approx(moved)
    assert answer.movement.downtime_seconds <= answer.movement.moved_seconds * (1 + 1e-9)
    event(f"moves: {moved > 0}, gap {answer.objective.gap == 0}, {answer.strategy}")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("objective", ["latency", "throughput"])
@given(data=st.data(), seed=SEEDS, horizon=HORIZONS)
def test_a_re_plan_is_the_best_of_all_plans_with_what_they_move(
    objective: ObjectiveName, data: st.DataObject, seed: int, horizon: float
) -> None:
    case = small_case(data.draw(shapes(objective, FEW, 5)), seed)
    fleet, held = before(case, POLICY, Random(seed))
    judged(MovingBruteForce(fleet, case.model, case.request, POLICY, held, horizon))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=SEEDS, horizon=HORIZONS)
def test_a_re_plan_of_more_devices_is_the_best_too(data: st.DataObject, seed: int, horizon: float) -> None:
    case = small_case(data.draw(shapes("latency", MORE, 7)), seed)
    fleet, held = before(case, POLICY, Random(seed))
    judged(MovingExact(fleet, case.model, case.request, POLICY, held, horizon))
