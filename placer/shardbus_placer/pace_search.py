"""The smallest slowest stage, found by asking the pace program about one time after the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardbus_placer.greedy import Search
from shardbus_placer.itinerary import order_of
from shardbus_placer.kinds import kinds_of
from shardbus_placer.pace_program import PaceProgram, steps_between
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.reduction import without_the_useless
from shardbus_placer.solver_pulp import Session, Solution, solver_name
from shardbus_placer.walk import MOST_ROUNDS, STEPS_PER_SECOND

CLOSE = 1e-9
"""Relative difference of times that are taken as one."""
NEAR = 0.001
"""Relative width below which the time just below the best plan's is asked about."""
WIDE = 0.3
"""Relative width down to which the bound is raised where layers are unequal."""
NARROW = 1e-4
"""Relative width at which times that were neither proved nor reached are not looked into further."""
WHOLE = 1e-6


@dataclass(frozen=True)
class Paced:
    """What became of the search; better plans found on the way are in its state."""

    bound: float
    """Seconds that no plan's slowest stage is below."""
    asked: bool
    """Whether the solver had a part in it."""
    impossible: bool
    """Whether there is no plan at all, however slow."""
    last: Solution


def search_pace(state: Search, floor: float, seconds_left: Callable[[], float]) -> Paced:
    """Return how far the slowest stage could be pushed down, and what no plan is below.

    Asked first is the time that counting cannot exclude, then halves of what is left between it and the best plan.
    """
    low, slowest = floor, None if state.best is None else state.best.cost
    problem = without_the_useless(state.problem, slowest)
    kinds = kinds_of(problem, slowest)
    if state.best is not None and steps_between(problem, kinds, slowest) > seconds_left() * STEPS_PER_SECOND:
        return Paced(low, asked=False, impossible=False, last=Solution("deadline", solver_name()))
    search = _PaceSearch(state, PaceProgram(problem, kinds, slowest), seconds_left)
    if state.best is None:
        search.ask(math.inf)
        if state.best is None and not search.impossible and search.refine():
            search.ask(math.inf)
        if state.best is None:
            return Paced(low, search.asked, search.impossible, search.last)
    missed, hollow = 0.0, math.inf
    time = min(floor * (1 + CLOSE), state.best.cost * (1 - CLOSE))
    while seconds_left() > 0 and (not search.asked or state.best.cost - low > CLOSE * state.best.cost):
        just_below = time >= state.best.cost * (1 - 2 * CLOSE)
        answer = search.ask(time)
        if answer is None:
            break
        if answer is False:
            low = state.best.cost if just_below else max(low, min(search.program.next_time(time), state.best.cost))
        elif state.best.cost > time:
            missed, hollow = max(missed, time), min(hollow, time)
        below = state.best.cost * (1 - CLOSE)
        missed = missed if missed <= below else 0.0
        open_below = max(low, missed)
        if not problem.even and hollow < math.inf and hollow - low > WIDE * hollow:
            # Of unequal layers there is no finer program: what can be had is a better bound.
            time = (low + hollow) / 2
            continue
        if missed > low:
            # A yes that no plan bears out: the fine program knows better.
            if search.refine():
                missed, open_below = 0.0, low
            elif below - missed <= NARROW * below:
                break
        # Just below the best plan a "no" is the proof; while the two are far apart halving comes nearer sooner.
        time = below if below - open_below <= NEAR * below else (open_below + below) / 2
    return Paced(low, search.asked, search.impossible, search.last)


class _PaceSearch:
    def __init__(self, state: Search, program: PaceProgram, seconds_left: Callable[[], float]) -> None:
        self.state, self.program, self.seconds_left = state, program, seconds_left
        self.session = Session(self.program.model)
        self.last = Solution("deadline", solver_name())
        self.asked = self.impossible = False

    def ask(self, seconds: float) -> bool | None:
        """Return False if no plan is so fast, True if the relaxation has one (it is tried), ``None`` if unknown."""
        program, layers = self.program, self.state.problem.layers
        program.at(seconds)
        relaxed = True
        for _ in range(MOST_ROUNDS):
            self.last = solution = self.session.solve(self.seconds_left(), relaxed=relaxed)
            short = solution.bound is not None and math.floor(-solution.bound + WHOLE) < layers
            self.asked = self.asked or short or solution.status in ("optimal", "infeasible")
            if short or solution.status == "infeasible":
                self.impossible = seconds == math.inf
                return False
            if solution.status != "optimal":
                return None
            if program.walk.sharpen(solution.values):
                continue
            if relaxed and not _whole(program.model.integer, solution.values):
                relaxed = False
                continue
            order = order_of(program.walk, solution.values, program.loss, program.chosen(solution.values))
            if order is not None:
                self.state.take(order)
                if self.state.best is None or self.state.best.cost > seconds:
                    self.state.take(_without_idle(self.state.problem, order, seconds))
            return True
        return True

    def refine(self) -> bool:
        """Go on with the fine program, and return whether there is one and time for it."""
        program = self.program
        if program.fine or not self.state.problem.even:
            return False
        steps = 2 * sum(len(kind.kinds) for kind in program.kinds.nodes) * (len(program.kinds.nodes) + 1)
        if steps > self.seconds_left() * STEPS_PER_SECOND / 2:
            return False
        self.program = PaceProgram(program.problem, program.kinds, program.slowest, fine=True)
        self.session = Session(self.program.model)
        return True


def _without_idle(problem: Problem, order: Sequence[Unit], seconds: float) -> list[Unit]:
    """Return an order less the units that take not one layer and their hop within a time."""
    kept: list[Unit] = []
    for unit, hop in zip(order, problem.hop_after(order), strict=True):
        by_count = unit.seconds_by_count
        least = unit.seconds[-1] / problem.layers if by_count is None else min(by_count[1:])
        if least + hop <= seconds * (1 + CLOSE):
            kept.append(unit)
    return kept


def _whole(integer: Sequence[bool], values: Sequence[float]) -> bool:
    return all(abs(value - round(value)) <= WHOLE for one, value in zip(integer, values, strict=True) if one)
