"""Whether any plan exists, answered by the first one found or by a proof that there is none."""

from collections.abc import Callable

from shardbus_placer.greedy import Search, starts
from shardbus_placer.optimise import optimise
from shardbus_placer.problem import Problem


def feasible(problem: Problem, seconds_left: Callable[[], float], *, tries: int = 400) -> bool | None:
    """Return True with a plan in hand, False with a proof that there is none, ``None`` when time ran out."""
    if not problem.units:
        return False
    state = Search(problem, tries, lambda: seconds_left() <= 0)
    if any(state.offer(order) for order in starts(problem)):
        return True
    outcome = optimise(problem, state, None, seconds_left)
    if outcome.cut is not None:
        return True
    return False if outcome.status == "infeasible" else None
