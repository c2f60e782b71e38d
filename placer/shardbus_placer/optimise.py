"""Proving and improving a plan with integer programs, from the cheapest to the exact one, within a deadline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardbus_placer import solver_pulp
from shardbus_placer.bound import counted_bound
from shardbus_placer.counting import Counting, counting_program
from shardbus_placer.cut import Cut
from shardbus_placer.exhaustion import all_orders
from shardbus_placer.formulation import uniform_hop
from shardbus_placer.greedy import Search, improve
from shardbus_placer.intervals import Intervals, interval_program
from shardbus_placer.pace import keep_pace
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.solution import CLOSED
from shardbus_placer.solver_pulp import Solution, Status

MOST_COLUMNS = 60_000
"""A larger interval program is not built."""
COLUMNS_PER_SECOND = 40_000
"""How large an interval program may be for the time that is left: building it alone takes some of it."""
HOPS_PER_SECOND = 10_000
"""How many hops the counting program may choose among for the time that is left, once there is a plan."""
PACE_SHARE = 0.4
"""Share of the time left that may go into better orders before the solver is asked for a proof."""
STEPS_BACK = 1000
"""How often the order of chosen units may be revised when it is read from the hops."""


@dataclass(frozen=True)
class Outcome:
    """What came out: the best plan, what no plan can beat, and how far the proof got."""

    cut: Cut | None
    bound: float | None
    status: Status
    """``optimal`` and ``infeasible`` are proofs; ``feasible`` is a plan with a bound that leaves a gap."""
    solver: str
    by_solver: bool
    """Whether a solver's answer is part of this: a proof, a bound, or the plan."""
    detail: str = ""


def optimise(problem: Problem, state: Search, seconds_left: Callable[[], float]) -> Outcome:
    """Return the best plan and bound that the solver reaches in ``seconds_left()``, starting from ``state.best``.

    First the counting program with least hops, then with every hop, then, where layers or hops leave a gap,
    the interval program, which is exact.
    """
    state.out_of_time = lambda: seconds_left() <= 0
    bound = None if state.best is None else counted_bound(problem, state.best.cost)
    floor = 0.0
    if bound is not None and problem.objective == "throughput":
        floor = bound
        kept = seconds_left() * (1 - PACE_SHARE)
        state.out_of_time = lambda: seconds_left() <= kept
        keep_pace(state, floor)
        state.polish()
        state.out_of_time = lambda: seconds_left() <= 0
    last = Solution("failed", solver_pulp.solver_name(), detail="not tried")
    by_solver = False
    for build in _programs(problem, floor, seconds_left):
        program = build(None if state.best is None else state.best.cost)
        if program is None:
            continue
        last = solver_pulp.solve(program.model, seconds_left())
        if last.status == "infeasible":
            # With a plan in hand only better ones were allowed, or those of one stage, which were all tried.
            if state.best is None:
                return Outcome(None, None, "infeasible", last.solver, by_solver=True)
            bound = state.best.cost
        elif last.bound is not None:
            bound = last.bound * program.scale if bound is None else max(bound, last.bound * program.scale)
        by_solver = by_solver or last.status == "infeasible" or last.bound is not None or bool(last.values)
        if last.values:
            _realise(state, program, last, bound)
        unproved = not _closed(state.best, bound) and (by_solver or state.best is None)
        if unproved and all_orders(problem, state, seconds_left):
            # Nothing was left out: the best plan costs least, and without one there is none.
            if state.best is None:
                return Outcome(None, None, "infeasible", last.solver, by_solver=by_solver)
            bound = state.best.cost
        if _closed(state.best, bound) or seconds_left() <= 0:
            break
    if bound is not None and not _closed(state.best, bound):
        keep_pace(state, bound)
        state.polish()
    if _closed(state.best, bound):
        # Counting alone may have closed the gap; what became of the solver is told all the same.
        how: Status = "optimal" if by_solver else last.status
        return Outcome(state.best, bound, how, last.solver, by_solver=by_solver, detail=last.detail)
    status: Status = last.status
    if state.best is not None and (by_solver or status in ("optimal", "infeasible")):
        status = "feasible"  # a relaxation was solved, or not to the end; the plan is not proved
    elif state.best is None and status in ("optimal", "feasible"):
        status = "deadline"  # a relaxation has a solution, which says nothing about plans
    return Outcome(state.best, bound, status, last.solver, by_solver=by_solver, detail=last.detail)


Program = Counting | Intervals


def _programs(
    problem: Problem, floor: float, seconds_left: Callable[[], float]
) -> list[Callable[[float | None], Program | None]]:
    def counting(cutoff: float | None) -> Program:
        return counting_program(problem, cutoff=cutoff, floor=floor, with_hops=False)

    def counting_hops(cutoff: float | None) -> Program | None:
        if len(problem.units) * len(problem.nodes) > seconds_left() * HOPS_PER_SECOND and cutoff is not None:
            return None
        return counting_program(problem, cutoff=cutoff, floor=floor, with_hops=True)

    def intervals(cutoff: float | None) -> Program | None:
        most = min(MOST_COLUMNS, int(seconds_left() * COLUMNS_PER_SECOND))
        return interval_program(problem, cutoff=cutoff, floor=floor, most_columns=most)

    if uniform_hop(problem) is not None:
        return [counting, intervals]
    return [counting, counting_hops, intervals]


def _closed(best: Cut | None, bound: float | None) -> bool:
    return best is not None and bound is not None and best.cost - bound <= CLOSED * abs(best.cost)


def _realise(state: Search, program: Program, solution: Solution, bound: float | None) -> None:
    """Offer the orders that the solution stands for, and what is a small change away from them."""
    before = state.best
    state.tries_left = max(state.tries_left, 200)
    orders = _orders(state.problem, program, solution.values)
    for order in orders:
        state.offer(order)
    if bound is not None and not _closed(state.best, bound):
        keep_pace(state, bound, orders)
    if state.best is not before:
        improve(state)
        state.polish()


def _orders(problem: Problem, program: Program, values: Sequence[float]) -> list[list[Unit]]:
    """Return the orders of units that a solution stands for, or comes close to."""

    def on(column: int) -> bool:
        return round(values[column]) == 1

    if isinstance(program, Intervals):
        chosen = sorted((start, i) for column, (i, start, _) in program.ranges.items() if on(column))
        return [[problem.units[i] for _, i in chosen]]
    used = [i for i, column in enumerate(program.used) if on(column)]
    first = next(i for i in used if on(program.first[i]))
    end = next(i for i in used if on(program.last[i]))
    chains: list[list[int] | None] = []
    if program.leaves:
        next_node = {i: node for (i, node), column in program.leaves.items() if on(column)}
        chains.append(_chain(used, first, end, lambda a, b: problem.units[b].node == next_node.get(a)))
    elif problem.objective == "throughput":
        chains.append(_chain(used, first, end, _in_time(problem, program, values)))
    middle = [i for i in used if i not in (first, end)]
    near = [first]
    while middle:
        nearest = min(middle, key=lambda i: _distance(problem, near[-1], i))
        middle.remove(nearest)
        near.append(nearest)
    chains.append(near if end == first else [*near, end])
    return [[problem.units[i] for i in chain] for chain in chains if chain is not None]


def _in_time(problem: Problem, program: Counting, values: Sequence[float]) -> Callable[[int, int], bool]:
    """Return whether a unit with its number of layers can hand over to another without being the slowest."""
    slowest = program.scale * sum(cost * values[column] for column, cost in program.model.objective.items())
    slowest *= 1 + CLOSED
    spent: list[float] = []
    for i, unit in enumerate(problem.units):
        count = round(sum(values[column] for column in program.layers[i]))
        average = unit.seconds[-1] / problem.layers * count
        spent.append(average if unit.seconds_by_count is None else unit.seconds_by_count[count])

    def in_time(a: int, b: int) -> bool:
        hop = problem.hops[problem.units[a].node][problem.units[b].node]
        return hop is not None and spent[a] + hop <= slowest

    return in_time


def _distance(problem: Problem, a: int, b: int) -> tuple[bool, float, int]:
    seconds = problem.hops[problem.units[a].node][problem.units[b].node]
    return (seconds is None, seconds or 0.0, b)


def _chain(used: Sequence[int], first: int, end: int, may_follow: Callable[[int, int], bool]) -> list[int] | None:
    """Return all of ``used`` from ``first`` to ``end`` so that each may follow the one before, if one is found soon.

    Depth first; where there is a choice, the one with the fewest ways on comes first. Sets of units are bits.
    """
    ways = {a: sum(1 << b for b in used if b != a and may_follow(a, b)) for a in used}
    free = sum(1 << b for b in used) ^ 1 << first
    chain = [first]

    def next_ones() -> list[int]:
        reachable = ways[chain[-1]] & (free if len(chain) == len(used) - 1 else free & ~(1 << end))
        return sorted((b for b in used if reachable >> b & 1), key=lambda b: (-(ways[b] & free).bit_count(), -b))

    open_ways = [next_ones()]
    for _ in range(STEPS_BACK):
        if len(chain) == len(used):
            return chain
        if open_ways[-1]:
            chain.append(open_ways[-1].pop())
            free ^= 1 << chain[-1]
            open_ways.append(next_ones())
        else:
            open_ways.pop()
            free |= 1 << chain.pop()
            if not open_ways:
                break
    return None
