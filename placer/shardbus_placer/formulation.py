"""Integer programs free of any solver, and what all of ours have in common: the price and the cut-off.

Three programs place a model. The **counting program** (``counting.py``) serves objectives that add up, the **pace
program** (``pace_program.py``) the slowest stage. Both count units of each kind and steps between kinds of nodes, and
are exact or all but exact for equal layers; for unequal ones they are relaxations: their bounds hold, their
infeasibility proves, and their choice of units is then cut exactly. The **interval program** (``intervals.py``) has a
column per unit and layer range and is always exact, but large.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from shardbus_placer.problem import Problem

INFINITY = math.inf
ALLOWANCE = 1e-7
"""How much above the known plan's cost, relatively, plans are still kept: the known one itself must stay."""
Terms = list[tuple[int, float]]


@dataclass
class LinearModel:
    """Columns and rows of a program that is to be minimised."""

    name: str
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    objective: dict[int, float] = field(default_factory=dict)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def column(self, lower: float, upper: float, *, integer: bool, cost: float = 0.0) -> int:
        """Add a column and return its index."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        index = len(self.lower) - 1
        if cost:
            self.objective[index] = cost
        return index

    def binary(self, *, cost: float = 0.0, upper: float = 1) -> int:
        """Add a column that is 0 or 1 and return its index."""
        return self.column(0, upper, integer=True, cost=cost)

    def row(self, terms: Iterable[tuple[int, float]], lower: float = -INFINITY, upper: float = INFINITY) -> None:
        """Add ``lower <= sum of coefficient * column <= upper``; repeated columns add up."""
        summed: dict[int, float] = {}
        for index, coefficient in terms:
            summed[index] = summed.get(index, 0.0) + coefficient
        self.rows.append(({index: value for index, value in summed.items() if value}, lower, upper))


class Price:
    """The objective of a program, scaled so that a known plan costs 1 and solvers' tolerances mean something."""

    def __init__(self, model: LinearModel, problem: Problem, cutoff: float | None, floor: float) -> None:
        """Begin with a known plan's cost, if there is one, and seconds below which no slowest stage can be."""
        self.model, self.problem = model, problem
        self.scale = (abs(cutoff) if cutoff else _rough_cost(problem)) or 1.0
        self.limit = INFINITY if cutoff is None else cutoff + ALLOWANCE * abs(cutoff)
        self.slowest = -1
        if problem.objective == "throughput":
            self.slowest = model.column(floor / self.scale, self.limit / self.scale, integer=False, cost=1.0)

    def stage(self, seconds: Terms) -> None:
        """Charge one stage: ``seconds`` are the terms of its time and its hop's."""
        scaled = [(column, value / self.scale) for column, value in seconds]
        if self.problem.objective == "throughput":
            self.model.row([*scaled, (self.slowest, -1)], upper=0)
        elif self.problem.objective == "latency":
            for column, value in scaled:
                self.model.objective[column] = self.model.objective.get(column, 0.0) + value

    def move(self, seconds: Terms) -> None:
        """Charge what is fetched: the terms of its share of the cost."""
        for column, value in seconds:
            self.model.objective[column] = self.model.objective.get(column, 0.0) + value / self.scale

    def reward(self, score: Terms) -> None:
        """Count layers times score, where that is the objective."""
        if self.problem.objective == "score":
            for column, value in score:
                self.model.objective[column] = -value / self.scale

    def close(self) -> None:
        """Rule out plans that cost more than the known one."""
        if self.problem.objective != "throughput" and self.limit < INFINITY:
            self.model.row(list(self.model.objective.items()), upper=self.limit / self.scale)


def uniform_hop(problem: Problem) -> float | None:
    """Return the time of a hop if it is the same between all pairs, inside nodes too, and all links exist."""
    alone = _alone(problem)
    hops = {seconds for a, row in enumerate(problem.hops) for b, seconds in enumerate(row) if a != b or not alone[a]}
    if problem.objective == "score" and None not in hops:
        return 0.0  # a score knows links, but no times
    if len(hops) > 1:
        return None
    return hops.pop() if hops else 0.0


def _alone(problem: Problem) -> list[bool]:
    """Return per node whether no two stages can be on it."""
    devices: list[set[str]] = [set() for _ in problem.nodes]
    for unit in problem.units:
        devices[unit.node].update(unit.devices)
    return [len(names) <= 1 for names in devices]


def _rough_cost(problem: Problem) -> float:
    if problem.objective == "score":
        return float(problem.layers)
    return max(unit.seconds[-1] for unit in problem.units)
