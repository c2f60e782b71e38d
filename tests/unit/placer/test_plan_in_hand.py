"""What is in hand before any solver is asked."""

import pytest
from shardbus_placer.bound import counted_bound
from shardbus_placer.candidates import survey
from shardbus_placer.in_hand import plan_in_hand, without_groups
from shardbus_placer.links import links_of
from shardbus_placer.policy import Policy
from shardbus_placer.problem import Problem, device_scores, formulate
from shardbus_schemas.placement import PlacementRequest
from support.speed_fleets import model_of_80_layers, unequal_links


def problem_of(seed: int) -> Problem:
    told, policy = unequal_links(10, seed), Policy()
    model = model_of_80_layers(told, seed)
    request = PlacementRequest(model=model, objective="throughput", sharding="auto", context_tokens=8192)
    surveyed, links = survey(told, model, request, policy), links_of(told, policy)
    return formulate(surveyed, links, model, request, device_scores(surveyed, links, policy))


@pytest.mark.parametrize("seed", range(3))
def test_to_allow_tensor_groups_never_gives_a_slower_plan(seed: int) -> None:
    problem = problem_of(seed)
    alone = without_groups(problem)
    assert alone is not None
    with_groups, bound = plan_in_hand(problem, lambda: False)
    without, _ = plan_in_hand(alone, lambda: False)
    assert with_groups.best is not None
    assert without.best is not None
    assert with_groups.best.cost <= without.best.cost
    assert bound is not None
    assert bound <= with_groups.best.cost


@pytest.mark.parametrize("seed", range(3))
def test_a_device_counts_once_in_the_bound_however_many_groups_it_is_in(seed: int) -> None:
    """Counted in each of them, the fleet would seem several times as fast as its devices together are."""
    problem = problem_of(seed)
    alone = without_groups(problem)
    assert alone is not None
    best = plan_in_hand(problem, lambda: False)[0].best
    assert best is not None
    apart, together = counted_bound(alone, best.cost), counted_bound(problem, best.cost)
    assert apart is not None
    assert together is not None
    assert apart / 1.5 < together
