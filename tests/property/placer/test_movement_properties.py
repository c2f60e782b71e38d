"""Re-plans against every plan there is, with what they move in the price."""

import math
from itertools import pairwise
from random import Random
from typing import get_args

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.movement import held_by
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.placement import ObjectiveName, Placed
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
    held, horizon = referee.holders, referee.horizon_tokens
    answer, best = plan(*raw, held=held, horizon_tokens=horizon), referee.best()
    if answer.status == "refused":
        assert answer.refusal.proved
        assert best is None, f"refused ({answer.refusal}), but there is a plan"
        return
    assert verify(*raw, answer, held=held, horizon_tokens=horizon) == ()
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


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("objective", ["latency", "throughput"])
@given(data=st.data(), seed=SEEDS, horizon=HORIZONS)
def test_a_re_plan_is_the_best_of_all_plans_with_what_they_move(
    objective: ObjectiveName, data: st.DataObject, seed: int, horizon: float
) -> None:
    case = small_case(data.draw(shapes(objective, FEW, 5)), seed)
    fleet, held = before(case, POLICY, Random(seed))
    judged(MovingBruteForce(fleet, case.model, case.request, POLICY, held, horizon))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=SEEDS, horizon=HORIZONS)
def test_a_re_plan_of_more_devices_is_the_best_too(data: st.DataObject, seed: int, horizon: float) -> None:
    case = small_case(data.draw(shapes("latency", MORE, 7)), seed)
    fleet, held = before(case, POLICY, Random(seed))
    judged(MovingExact(fleet, case.model, case.request, POLICY, held, horizon))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), objective=st.sampled_from(["latency", "throughput"]), seed=SEEDS)
def test_the_longer_a_plan_stands_the_more_may_be_moved_and_the_quicker_it_is(
    data: st.DataObject, objective: ObjectiveName, seed: int
) -> None:
    case = small_case(data.draw(shapes(objective, FEW, 5)), seed)
    fleet, held = before(case, POLICY, Random(seed))
    raw = (fleet, case.model, case.request, POLICY)
    known: list[tuple[float, Placed]] = []
    for horizon in (0.1, 3.0, 100.0):
        answer = plan(*raw, held=held, horizon_tokens=horizon)
        if answer.status == "placed" and answer.objective.gap == 0:
            known.append((horizon, answer))
    for (short, early), (long, late) in pairwise(known):
        assert early.movement is not None
        assert late.movement is not None
        less = early.movement.moved_seconds - late.movement.moved_seconds
        assert less * (1 / short - 1 / long) <= 1e-6 * early.objective.value
        assert (early.movement.steady_value or 0) >= (late.movement.steady_value or 0) - 1e-6 * early.objective.value
    forever, unasked = plan(*raw, held=held, horizon_tokens=math.inf), plan(*raw)
    assert forever.status == unasked.status
    if forever.status == "placed" and unasked.status == "placed":
        assert forever.objective.value == pytest.approx(unasked.objective.value, rel=1e-6)
        assert all(
            (late.movement.steady_value or 0) >= forever.objective.value * (1 - 1e-6)
            for _, late in known
            if late.movement is not None
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), objective=st.sampled_from(["latency", "throughput", "score"]), seed=SEEDS, horizon=HORIZONS)
def test_what_is_the_best_already_stays(
    data: st.DataObject, objective: ObjectiveName, seed: int, horizon: float
) -> None:
    case = small_case(data.draw(shapes(objective, FEW, 6)), seed)
    raw = (case.fleet, case.model, case.request, POLICY)
    old = plan(*raw)
    if old.status == "refused" or old.objective.gap != 0:
        return
    again = plan(*raw, held=held_by(old.stages), horizon_tokens=horizon)
    assert again.status == "placed"
    assert again.objective.value == pytest.approx(old.objective.value, rel=1e-6)
    assert again.movement is not None
    assert objective == "score" or again.movement.moved_seconds <= 1e-6 * horizon * old.objective.value
    event(f"the same stages: {again.stages == old.stages}")
