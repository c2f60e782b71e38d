"""Proving and improving a plan with integer programs, from the cheapest to the exact one, within a deadline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardbus_placer import solver_pulp
from shardbus_placer.cut import Cut
from shardbus_placer.formulation import Counting, Intervals, counting_program, interval_program, uniform_hop
from shardbus_placer.greedy import Search, improve
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.solution import CLOSED
from shardbus_placer.solver_pulp import Solution, Status

MOST_COLUMNS = 60_000
"""A larger interval program is not built."""
COLUMNS_PER_SECOND = 40_000
"""How large an interval program may be for the time that is left: building it alone takes some of it."""
STEPS_BACK = 5000
"""How often the order of chosen units may be revised when it is read from the hops."""


@dataclass(frozen=True)
class Outcome:
    """What came out: the best plan, what no plan can beat, and how far the proof got."""

    cut: Cut | None
    bound: float | None
    status: Status
    """``optimal`` and ``infeasible`` are proofs; ``feasible`` is a plan with a bound that leaves a gap."""
    solver: str
    improved: bool
    """Whether the solver's choice beat the plan that was there before."""
    detail: str = ""


def optimise(problem: Problem, state: Search, seconds_left: Callable[[], float]) -> Outcome:
    """Return the best plan and bound that the solver reaches in ``seconds_left()``, starting from ``state.best``.

    First the counting program with least hops, then with every hop, then, where layers or hops leave a gap,
    the interval program, which is exact.
    """
    before = state.best
    bound: float | None = None
    last = Solution("failed", solver_pulp.solver_name(), detail="not tried")
    for build in _programs(problem, seconds_left):
        program = build(None if state.best is None else state.best.cost)
        if program is None:
            continue
        last = solver_pulp.solve(program.model, seconds_left())
        if last.status == "infeasible":
            # With a plan in hand only better ones were allowed, or those of one stage, which were all tried.
            if state.best is None:
                return Outcome(None, None, "infeasible", last.solver, improved=False)
            bound = state.best.cost
        elif last.bound is not None:
            bound = last.bound * program.scale if bound is None else max(bound, last.bound * program.scale)
        if last.values:
            _realise(state, program, last)
        if _closed(state.best, bound):
            break
        if last.status in ("deadline", "failed", "feasible") and seconds_left() <= 0:
            break
    if _closed(state.best, bound):
        return Outcome(state.best, bound, "optimal", last.solver, improved=state.best is not before)
    status: Status = last.status
    if state.best is not None and status in ("optimal", "infeasible"):
        status = "feasible"  # a relaxation was solved; the plan is not proved
    elif state.best is None and status in ("optimal", "feasible", "infeasible"):
        status = "deadline"  # a relaxation has a solution, which says nothing about plans
    return Outcome(state.best, bound, status, last.solver, improved=state.best is not before, detail=last.detail)


Program = Counting | Intervals


def _programs(problem: Problem, seconds_left: Callable[[], float]) -> list[Callable[[float | None], Program | None]]:
    def counting(cutoff: float | None) -> Program:
        return counting_program(problem, cutoff=cutoff, with_hops=False)

    def counting_hops(cutoff: float | None) -> Program:
        return counting_program(problem, cutoff=cutoff, with_hops=True)

    def intervals(cutoff: float | None) -> Program | None:
        most = min(MOST_COLUMNS, int(seconds_left() * COLUMNS_PER_SECOND))
        return interval_program(problem, cutoff=cutoff, most_columns=most)

    if uniform_hop(problem) is not None:
        return [counting, intervals]
    return [counting, counting_hops, intervals]


def _closed(best: Cut | None, bound: float | None) -> bool:
    return best is not None and bound is not None and best.cost - bound <= CLOSED * abs(best.cost)


def _realise(state: Search, program: Program, solution: Solution) -> None:
    """Offer the order that the solution stands for, and what is a small change away from it."""
    before = state.best
    state.tries_left = max(state.tries_left, 200)
    for order in _orders(state.problem, program, solution.values):
        state.offer(order)
    if state.best is not before:
        improve(state)


def _orders(problem: Problem, program: Program, values: Sequence[float]) -> list[list[Unit]]:
    if isinstance(program, Intervals):
        chosen = sorted((start, i) for column, (i, start, _) in program.ranges.items() if values[column] > 0.5)  # noqa: PLR2004 - a binary is on
        return [[problem.units[i] for _, i in chosen]]
    used = [i for i, column in enumerate(program.used) if values[column] > 0.5]  # noqa: PLR2004 - a binary is on
    first = next(i for i in used if values[program.first[i]] > 0.5)  # noqa: PLR2004 - a binary is on
    end = next(i for i in used if values[program.last[i]] > 0.5)  # noqa: PLR2004 - a binary is on
    if program.leaves:
        next_node = {i: node for (i, node), column in program.leaves.items() if values[column] > 0.5}  # noqa: PLR2004 - a binary is on
        chain = _follow(problem, used, first, end, next_node)
        if chain is not None:
            return [[problem.units[i] for i in chain]]
    middle = [i for i in used if i not in (first, end)]
    chain, here = [first], first
    while middle:
        nearest = min(middle, key=lambda i: _distance(problem, here, i))
        middle.remove(nearest)
        chain.append(nearest)
        here = nearest
    if end != first:
        chain.append(end)
    return [[problem.units[i] for i in chain]]


def _distance(problem: Problem, a: int, b: int) -> tuple[bool, float, int]:
    seconds = problem.hops[problem.units[a].node][problem.units[b].node]
    return (seconds is None, seconds or 0.0, b)


def _follow(problem: Problem, used: Sequence[int], first: int, end: int, next_node: dict[int, int]) -> list[int] | None:
    """Return the used units in an order that takes each unit's chosen hop, or ``None`` if none is found soon."""
    steps = 0
    chain = [first]
    taken = {first}
    trail: list[list[int]] = [_ways(problem, used, taken, first, end, next_node)]
    while trail and steps < STEPS_BACK:
        steps += 1
        if len(chain) == len(used):
            return chain
        if not trail[-1]:
            trail.pop()
            taken.discard(chain.pop())
            continue
        following = trail[-1].pop(0)
        chain.append(following)
        taken.add(following)
        trail.append(_ways(problem, used, taken, following, end, next_node))
    return None


def _ways(
    problem: Problem, used: Sequence[int], taken: set[int], here: int, end: int, next_node: dict[int, int]
) -> list[int]:
    node = next_node.get(here)
    last_one = len(taken) == len(used) - 1
    return [i for i in used if i not in taken and problem.units[i].node == node and (i != end or last_one)]
