"""The choice among equally good plans, on random problems."""

from collections.abc import Iterator
from itertools import islice, permutations
from typing import get_args

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from shardbus_placer.candidates import survey
from shardbus_placer.cut import Cut, best_cut, cost_of
from shardbus_placer.links import Links as Ways
from shardbus_placer.links import links_of
from shardbus_placer.movement import Held, Moves
from shardbus_placer.policy import Policy
from shardbus_placer.problem import Problem, device_scores, formulate
from shardbus_placer.settle import moved_bytes, settle
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName
from support.small_cases import Links, Shape, small_case

POLICY = Policy()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, Ways, ModelProfile]:
    objective: ObjectiveName = draw(st.sampled_from(["throughput", "latency", "score"]))
    shape = Shape(
        devices=draw(st.sampled_from([(1, 1), (3,), (2, 1, 1), (1, 1, 1), (2, 2), (4,), (1, 1, 1, 1)])),
        layers=draw(st.integers(1, 8)),
        objective=objective,
        equal_layers=draw(st.booleans()),
        links=draw(st.sampled_from(get_args(Links))),
        ends=draw(st.booleans()),
        measured=draw(st.booleans()),
        sharding=draw(st.sampled_from(["pipeline", "pipeline", "auto"])),
        conditions=draw(st.sampled_from(["none", "none", "pins", "bounds"])),
    )
    case = small_case(shape, draw(st.integers(0, 2**32 - 1)))
    surveyed = survey(case.fleet, case.model, case.request, POLICY)
    assume(surveyed.candidates)
    links = links_of(case.fleet, POLICY)
    problem = formulate(surveyed, links, case.model, case.request, device_scores(surveyed, links, POLICY))
    return problem, links, case.model


def _plans(problem: Problem) -> Iterator[Cut]:
    """Some of all plans, the shortest first."""
    for count in range(1, min(4, len(problem.units)) + 1):
        for order in islice(permutations(problem.units, count), 400):
            found = best_cut(problem, order) if problem.admits(order) else None
            if found is not None:
                yield found


def _devices(cut: Cut) -> int:
    return sum(len(unit.devices) for unit in cut.order)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(case=problems(), which=st.integers(0, 60), data=st.data())
def test_what_is_settled_is_a_plan_no_worse_no_larger_and_moves_no_more(
    case: tuple[Problem, Ways, ModelProfile], which: int, data: st.DataObject
) -> None:
    problem, links, model = case
    plans = list(islice(_plans(problem), which + 1))
    assume(plans)
    cut = plans[-1]
    ranges = st.tuples(st.integers(0, problem.layers), st.integers(0, problem.layers)).map(sorted).map(tuple)
    keys = sorted({device for unit in problem.units for device in unit.devices})
    held: Held = data.draw(st.dictionaries(st.sampled_from(keys), ranges, max_size=3))
    moves = Moves(held, links, model, problem.memory, POLICY)

    found = settle(problem, cut, moves)

    assert problem.admits(found.order)
    assert found.bounds[0] == 0
    assert found.bounds[-1] == problem.layers
    for at, unit in enumerate(found.order):
        start, end = found.bounds[at], found.bounds[at + 1]
        assert start < end
        assert problem.memory.stage(start, end) <= unit.room_bytes
        assert unit.pin in (None, end - start)
    slack = 1e-9 * abs(cut.cost)
    assert found.cost == cost_of(problem, found.order, found.bounds)
    assert found.cost <= cut.cost + slack
    assert _devices(found) <= _devices(cut)
    if _devices(found) == _devices(cut) and problem.objective != "score":
        assert moved_bytes(found, moves) <= moved_bytes(cut, moves)
    if found.cost <= cut.cost:  # or what counts as equal to it is a hair more
        assert settle(problem, found, moves) == found, "a settled plan stays"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(case=problems())
def test_no_equally_good_plan_with_a_stage_less_is_left(case: tuple[Problem, Ways, ModelProfile]) -> None:
    problem, _, _ = case
    plans = list(islice(_plans(problem), 200))
    assume(plans)
    best = settle(problem, min(plans, key=lambda plan: plan.cost), None)
    for at in range(len(best.order)):
        order = best.order[:at] + best.order[at + 1 :]
        without = best_cut(problem, order) if order and problem.admits(order) else None
        assert without is None or without.cost > best.cost + 1e-10 * abs(best.cost)
