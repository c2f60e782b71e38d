"""A good plan before any solver is asked: rules of thumb, small changes, and trails along quick links."""

from collections.abc import Callable
from dataclasses import replace

from shardbus_placer.bound import counted_bound
from shardbus_placer.greedy import Search, improve, starts
from shardbus_placer.problem import Problem
from shardbus_placer.standing import NOTHING_STANDS, Standing
from shardbus_placer.trails import follow_trails

CUT_STAGES = 3200
"""How much small changes may cost, in orders times units, so that a plan does not depend on the machine."""
FEW = 32
"""For more units than this trails are enough: small changes take long, and the solver takes less."""


def plan_in_hand(
    problem: Problem, out_of_time: Callable[[], bool], begin_with: Standing = NOTHING_STANDS
) -> tuple[Search, float | None]:
    """Return a search with the best plan found, and a cost that no plan is below, if counting knows one.

    ``begin_with`` is what is near a plan that stands already. It is looked at first; where there is a plan among it,
    rules of thumb, which know of no old plan, are left aside for large fleets.
    """
    state = Search(problem, 1 << 30, out_of_time)
    state.best = next(iter(begin_with.cuts), None)
    if state.best is not None:
        state.at_least = 0
    for order in begin_with.orders:
        state.offer(order)
    stands = state.best is not None
    if stands:
        state.at_least = 0
    alone = None if problem.moves else without_groups(problem)
    if alone is not None:
        ungrouped, ungrouped_bound = plan_in_hand(alone, out_of_time)
        if ungrouped.best is not None:
            state.ungrouped = (ungrouped, ungrouped_bound or 0.0)
            state.take(ungrouped.best.order)
    if not stands or len(problem.units) <= FEW or problem.objective != "throughput":
        for order in starts(problem):
            state.offer(order)
    bound = None if state.best is None else counted_bound(problem, state.best.cost)
    if bound is not None:
        follow_trails(state, bound, out_of_time)
    state.tries_left = CUT_STAGES // max(1, len(problem.units))
    even = problem.even or problem.moves
    few = len(problem.units) <= FEW or not even or problem.objective != "throughput"
    if state.best is not None and few and (bound is None or state.best.cost > bound * (1 + 1e-9)):
        improve(state)
    state.polish()
    return state, bound


def without_groups(problem: Problem) -> Problem | None:
    """Return the problem without tensor groups, whose plans are far fewer and often the best; ``None`` if as small."""
    if problem.objective != "throughput" or len(problem.units) <= FEW:
        return None
    single = tuple(unit for unit in problem.units if len(unit.devices) == 1)
    return replace(problem, units=single) if 0 < len(single) < len(problem.units) else None
