"""Proving and improving a plan with integer programs, from the cheapest to the exact one, within a deadline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardbus_placer import solver_pulp
from shardbus_placer.counting import Counting
from shardbus_placer.cut import Cut
from shardbus_placer.exhaustion import all_orders
from shardbus_placer.formulation import uniform_hop
from shardbus_placer.greedy import Search, improve
from shardbus_placer.intervals import Intervals, interval_program
from shardbus_placer.itinerary import order_of
from shardbus_placer.pace_search import search_pace
from shardbus_placer.problem import ROUNDING, Problem, Unit
from shardbus_placer.reduction import without_the_useless
from shardbus_placer.solution import CLOSED
from shardbus_placer.solver_pulp import Session, Solution, Status
from shardbus_placer.standing import relieve
from shardbus_placer.walk import MOST_ROUNDS, STEPS_PER_SECOND

MOST_COLUMNS = 60_000
"""A larger interval program is not built."""
COLUMNS_PER_SECOND = 40_000
"""How large an interval program may be for the time that is left: building it alone takes some of it."""
SINGLE_SHARE = 0.6
"""Share of the time left that plans without tensor groups may take before those with groups are looked at."""
RELIEF_SHARE = 0.5
"""Share of the time left that looking for a plan near the old one may take before the exact program."""
MOST_RELIEFS = 200
"""Orders that are tried in it at most."""
NOT_TRIED = "not tried"


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


def optimise(problem: Problem, state: Search, bound: float | None, seconds_left: Callable[[], float]) -> Outcome:
    """Return the best plan and bound reached in ``seconds_left()``, starting from ``state.best`` and ``bound``."""
    proof = _Proof(problem, state, bound, seconds_left)
    for step in proof.steps():
        if (proof.ended and proof.by_solver) or seconds_left() <= 0:
            break
        step()
        if not proof.ended:
            proof.exhaust()
        if proof.last.status == "failed" and proof.last.detail != NOT_TRIED:
            break
    return proof.outcome()


def proves(best: Cut, bound: float | None) -> bool:
    """Return whether a bound proves that no plan is better."""
    return bound is not None and best.cost - bound <= CLOSED * abs(best.cost)


class _Proof:
    """What is known of one problem while it is worked on."""

    def __init__(self, problem: Problem, state: Search, bound: float | None, seconds_left: Callable[[], float]) -> None:
        self.problem, self.state, self.bound, self.seconds_left = problem, state, bound, seconds_left
        state.out_of_time = lambda: seconds_left() <= 0
        self.last = Solution("failed", solver_pulp.solver_name(), detail=NOT_TRIED)
        self.by_solver = False
        self.impossible = False
        self.slowest = 0.0
        """Where moving has a price: seconds that no plan's slowest stage is below."""

    @property
    def closed(self) -> bool:
        """Whether the best plan is proved to be the best there is."""
        return self.state.best is not None and proves(self.state.best, self.bound)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to be found out."""
        return self.closed or self.impossible

    def steps(self) -> list[Callable[[], None]]:
        """Return what to try, the cheapest first; where counting proved enough, one step for a second proof."""
        if self.problem.moves and self.problem.objective == "throughput":
            return [self.keep_unmoved_pace] if self.closed else [self.keep_unmoved_pace, self.relieve, self.cut_layers]
        if self.closed and self.problem.objective != "throughput":
            return [lambda: self.count(with_hops=False)]
        if self.closed:
            return [self.keep_pace]
        if self.problem.objective == "throughput":
            return [self.keep_pace_one_by_one, self.keep_pace, self.cut_layers]
        if uniform_hop(self.problem) is not None:
            return [lambda: self.count(with_hops=False), self.cut_layers]
        return [lambda: self.count(with_hops=True), lambda: self.count(with_hops=False), self.cut_layers]

    def keep_pace_one_by_one(self) -> None:
        """Search among the plans without tensor groups first: they are far fewer, and often the best."""
        if self.state.ungrouped is None:
            return
        state, floor = self.state.ungrouped
        until = self.seconds_left() * (1 - SINGLE_SHARE)
        found = search_pace(state, floor, lambda: self.seconds_left() - until)
        if state.best is not None and self.state.take(state.best.order):
            self.by_solver = self.by_solver or found.asked

    def keep_pace(self) -> None:
        """Search for the smallest slowest stage."""
        found = search_pace(self.state, self.bound or 0.0, self.seconds_left)
        self.last, self.by_solver = found.last, self.by_solver or found.asked
        self.impossible = found.impossible
        if self.state.best is not None:
            self.bound = max(self.bound or 0.0, found.bound)
        self.state.polish()

    def keep_unmoved_pace(self) -> None:
        """Search for the smallest slowest stage whatever it moves: that and the least moves are below every plan."""
        problem = self.problem.unmoved
        least = self.problem.least_moved
        state = Search(problem, 0, self.state.out_of_time)
        if self.state.best is not None:
            state.take(_same(problem, self.state.best.order))
        until = self.seconds_left() * (1 - SINGLE_SHARE)
        floor = max(0.0, ((self.bound or 0.0) - least) * (1 - ROUNDING))
        found = search_pace(state, floor, lambda: self.seconds_left() - until)
        self.last, self.by_solver = found.last, self.by_solver or found.asked
        self.impossible = found.impossible
        if state.best is not None:
            self.state.take(_same(self.problem, state.best.order))
            self.slowest = found.bound
            self.bound = max(self.bound or 0.0, (found.bound + least) * (1 - ROUNDING))

    def relieve(self) -> None:
        """Look for a better plan near the best one."""
        until = self.seconds_left() * (1 - RELIEF_SHARE)
        state, whole = self.state, self.state.out_of_time
        state.tries_left, state.out_of_time = MOST_RELIEFS, lambda: self.seconds_left() <= until
        relieve(state)
        state.out_of_time = whole
        state.polish()

    def count(self, *, with_hops: bool) -> None:
        """Solve the counting program, adding rows of connection until none is broken."""
        best = self.state.best
        smaller = without_the_useless(self.problem, None if best is None else best.cost)
        if with_hops and not self._affordable(smaller):
            return
        if not with_hops and self.by_solver:
            return  # the program with all hops was solved, and says more
        program = Counting(smaller, None if best is None else best.cost, with_hops=with_hops)
        session = Session(program.model)
        if self.problem.moves:
            # A bound at once: with several kinds of layers the program in whole numbers may take all the time.
            self._learn_bound(session.solve(self.seconds_left(), relaxed=True), program.scale)
        for _ in range(MOST_ROUNDS):
            self._learn(session.solve(self.seconds_left()), program.scale)
            if self.impossible or not self.last.values:
                break
            if program.walk is None:
                self._take([_nearest(program, self.last.values)])
                break
            if not program.walk.sharpen(self.last.values):
                self._take([order_of(program.walk, self.last.values)])
                break
            if self.closed or self.seconds_left() <= 0:
                break

    def cut_layers(self) -> None:
        """Solve the interval program, which is exact."""
        best = self.state.best
        most = min(MOST_COLUMNS, int(self.seconds_left() * COLUMNS_PER_SECOND))
        problem = self.problem
        floor = (self.bound or 0.0) if problem.objective == "throughput" else 0.0
        cutoff = None if best is None else best.cost
        if problem.moves:
            problem, floor = without_the_useless(problem, cutoff), self.slowest
        program = interval_program(problem, cutoff=cutoff, floor=floor, most_columns=most)
        if program is None:
            return
        self._learn(solver_pulp.solve(program.model, self.seconds_left()), program.scale)
        if self.last.values:
            self._take([_chosen(problem, program, self.last.values)])

    def exhaust(self) -> None:
        """Try every order, where there are few: what was tried so needs no further proof."""
        problem, best = self.problem, self.state.best
        if problem.moves and best is not None:
            problem = without_the_useless(problem, best.cost)
        if all_orders(problem, self.state, self.seconds_left):
            if self.state.best is None:
                self.impossible = True
            else:
                self.bound = self.state.best.cost

    def _affordable(self, problem: Problem) -> bool:
        nodes = len({unit.node for unit in problem.units})
        return self.state.best is None or nodes * nodes <= self.seconds_left() * STEPS_PER_SECOND

    def _learn(self, solution: Solution, scale: float) -> None:
        best = self.state.best
        self.last = solution
        if solution.status == "infeasible":
            # With a plan in hand only better ones were allowed, or those of one stage, which were all tried.
            if best is None:
                self.impossible = True
            else:
                self.bound = best.cost
        else:
            self._learn_bound(solution, scale)
        self.by_solver = self.by_solver or solution.status == "infeasible" or bool(solution.values)

    def _learn_bound(self, solution: Solution, scale: float) -> None:
        if solution.bound is not None:
            bound = solution.bound * scale
            self.bound = bound if self.bound is None else max(self.bound, bound)

    def _take(self, orders: Sequence[Sequence[Unit] | None]) -> None:
        """Keep the orders that a solution stands for if they are better, and what is a small change away from them."""
        better = [self.state.take(order) for order in orders if order is not None]
        if any(better) and not self.closed:
            self.state.tries_left = max(self.state.tries_left, 200)
            improve(self.state)
            self.state.polish()

    def outcome(self) -> Outcome:
        """Return what is known now."""
        best, last = self.state.best, self.last
        if self.impossible and best is None:
            return Outcome(None, None, "infeasible", last.solver, by_solver=self.by_solver)
        if self.closed:
            # Counting alone may have closed the gap; what became of the solver is told all the same.
            how: Status = "optimal" if self.by_solver or last.detail == NOT_TRIED else last.status
            return Outcome(best, self.bound, how, last.solver, by_solver=self.by_solver, detail=last.detail)
        status: Status = last.status
        if best is not None and (self.by_solver or status in ("optimal", "infeasible")):
            status = "feasible"  # a relaxation was solved, or not to the end; the plan is not proved
        elif best is None and status in ("optimal", "feasible"):
            status = "deadline"  # a relaxation has a solution, which says nothing about plans
        elif last.detail == NOT_TRIED:
            status = "deadline"
        return Outcome(best, self.bound, status, last.solver, by_solver=self.by_solver, detail=last.detail)


def _same(problem: Problem, order: Sequence[Unit]) -> list[Unit]:
    """Return the units of another problem that stand for the same devices."""
    units = {unit.devices: unit for unit in problem.units}
    return [units[unit.devices] for unit in order]


def _chosen(problem: Problem, program: Intervals, values: Sequence[float]) -> list[Unit]:
    chosen = sorted((start, i) for column, (i, start, _) in program.ranges.items() if round(values[column]) == 1)
    return [problem.units[i] for _, i in chosen]


def _nearest(program: Counting, values: Sequence[float]) -> list[Unit]:
    """Return the counted units in an order that goes to the nearest next, from the first to the last of them."""
    chosen: list[Unit] = []
    ends: list[Unit | None] = [None, None]
    for k, kind in enumerate(program.kinds.units):
        node = program.kinds.nodes[kind.place]
        members = [unit for host in node.nodes for unit in node.units[host][node.kinds.index(k)]]
        taken = {device for unit in chosen for device in unit.devices}
        free: list[Unit] = []
        for unit in members:
            if taken.isdisjoint(unit.devices):
                free.append(unit)
                taken.update(unit.devices)
        picked = free[: round(values[program.used[k]])]
        for end, flag in enumerate((program.first[k], program.last[k])):
            if round(values[flag]) == 1 and picked:
                ends[end] = picked[-end]
        chosen += picked
    first, end = ends
    order = [first] if first is not None else chosen[:1]
    middle = [unit for unit in chosen if unit is not first and unit is not end]
    while middle:
        here = order[-1]
        nearest = min(middle, key=lambda unit: _distance(program.problem, here, unit))
        middle.remove(nearest)
        order.append(nearest)
    return order if end is None or end is first else [*order, end]


def _distance(problem: Problem, a: Unit, b: Unit) -> tuple[bool, float, int, tuple[str, ...]]:
    seconds = problem.hops[a.node][b.node]
    return (seconds is None, seconds or 0.0, b.node, b.devices)
