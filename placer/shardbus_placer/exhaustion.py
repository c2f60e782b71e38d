"""Every order of the units, each cut exactly: a proof by exhaustion, for the few devices that most fleets have."""

from collections.abc import Callable, Iterator
from itertools import permutations

from shardbus_placer.cut import best_cut
from shardbus_placer.greedy import Search
from shardbus_placer.problem import Problem, Unit

MOST_ORDERS = 2000
"""More are not tried: six units have 1,956."""
LESS = 1e-9
"""How much cheaper, relatively, a plan must be to count as better."""


def all_orders(problem: Problem, state: Search, seconds_left: Callable[[], float]) -> bool:
    """Return whether all orders were tried in time; ``state.best`` is then the cheapest plan there is.

    A cut is exact for its order, so what was tried here needs no further proof.
    """
    if _how_many(problem) > MOST_ORDERS:
        return False
    for number, order in enumerate(_orders(problem)):
        if number % 16 == 0 and seconds_left() <= 0:
            return False
        if state.best is None:
            state.best = best_cut(problem, order)
        else:
            below = state.best.cost - LESS * abs(state.best.cost)
            state.best = best_cut(problem, order, below) or state.best
    return True


def _how_many(problem: Problem) -> int:
    """Return how many orders there are at most, conditions aside."""
    units = len(problem.units)
    total, orders = 0, 1
    for length in range(1, min(units, problem.layers, problem.max_stages, problem.max_devices) + 1):
        orders *= units - length + 1
        total += orders
        if total > MOST_ORDERS:
            break
    return total


def _orders(problem: Problem) -> Iterator[tuple[Unit, ...]]:
    longest = min(len(problem.units), problem.layers, problem.max_stages, problem.max_devices)
    for length in range(1, longest + 1):
        yield from (order for order in permutations(problem.units, length) if problem.admits(order))
