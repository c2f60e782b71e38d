"""The pace program: how many layers a plan can hold if no stage and its hop take longer than a given time.

Within a time, each unit takes so many whole layers, and fewer where its hop is slow. Which units are used, and the
walk that joins them, is a flow through the fleet: its linear relaxation is all but integral, and its value is a number
of layers. Where that is less than the model has, no plan is that fast. So the smallest slowest stage is found by
trying times; only those count at which some unit takes exactly some layers and some hop.

It is a relaxation: of several units of one node, each way out is priced by the unit that loses least by it, and unequal
layers are counted by the longest range that fits. With one kind of unit per node and equal layers it is exact but for
what the embedding takes of a first stage that its hop limits too. The fine program is exact for equal layers; it is
built where the small one says yes and no plan is found.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from shardbus_placer.conditions import condition_rows
from shardbus_placer.formulation import LinearModel
from shardbus_placer.kinds import Kinds
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.walk import Walk

ROUNDING = 1e-12
LAST = "last"
INSIDE = "inside"
BETWEEN = "between"
Way = str | int
"""Where a stage goes next: nowhere, to another unit of its node, to another node of its kind, or to a kind of node."""


def steps_between(problem: Problem, kinds: Kinds, slowest: float | None) -> int:
    """Return how many steps between kinds of nodes a program has for plans that cost at most ``slowest``."""
    longest = _longest_hops(problem, kinds, slowest)
    places = range(len(kinds.nodes))
    hops = (kinds.hop(problem, a, b) for a in places for b in places)
    limits = (longest[a] for a in places for _ in places)
    return sum(hop is not None and hop <= limit for hop, limit in zip(hops, limits, strict=True))


def _longest_hops(problem: Problem, kinds: Kinds, slowest: float | None) -> list[float]:
    """Return, by kind of node, how long a hop may take after one layer at least on its quickest unit."""
    if slowest is None:
        return [math.inf] * len(kinds.nodes)
    quickest = (min(problem.quickest_layer(kinds.units[k].unit) for k in node.kinds) for node in kinds.nodes)
    return [slowest * (1 + 1e-9) - seconds for seconds in quickest]


class PaceProgram:
    """The program over the kinds of a problem; ``at`` sets the time that is asked about."""

    def __init__(self, problem: Problem, kinds: Kinds, slowest: float | None, *, fine: bool = False) -> None:
        """Build the columns and rows; they are the same for all times, none of which is above ``slowest``.

        ``fine`` says of each kind of unit how many go which way, first or not: larger, and exact for equal layers.
        """
        self.problem = problem
        self.kinds = kinds
        self.fine = fine
        self.slowest = slowest
        self.model = LinearModel("pace")
        self.used = [
            self.model.column(0, kind.on_node * self.kinds.nodes[kind.place].count, integer=True)
            for kind in self.kinds.units
        ]
        self.walk = Walk(self.model, problem, self.kinds, self.used, longest=_longest_hops(problem, kinds, slowest))
        condition_rows(self.model, problem, self.kinds, self.used)
        self._takes = [_Takes(problem, kind.unit) for kind in self.kinds.units]
        self._open = list(self.model.upper)
        self._ways = [self._ways_from(a) for a in range(len(self.kinds.nodes))]
        self.loss: dict[tuple[int, Way], int] = {}
        """Per unit kind and way, how many layers fewer than usual it takes; absent where it takes none."""
        self.going: dict[tuple[int, Way, bool], int] = {}
        """In a fine program, the columns of units of a kind that go a way; ``True`` is the first of all."""
        if fine:
            for a in range(len(kinds.nodes)):
                self._split(a)
            self._open = list(self.model.upper)

    def _split(self, a: int) -> None:
        """Add a column for each kind of unit of a node and each way, and join them to what is there."""
        model, ways = self.model, self._ways[a]
        first: list[tuple[int, float]] = []
        last: list[tuple[int, float]] = []
        taking: dict[Way, list[tuple[int, float]]] = {way: [] for way in ways}
        for k in self.kinds.nodes[a].kinds:
            most = model.upper[self.used[k]]
            mine: list[tuple[int, float]] = []
            for way in ways:
                for begins in (False, True):
                    column = model.column(0, 1 if begins else most, integer=True)
                    self.going[k, way, begins] = column
                    mine.append((column, 1.0))
                    taking[way].append((column, 1.0))
                    if begins:
                        first.append((column, 1.0))
            end = self.going[k, LAST, False] = model.binary()
            last.append((end, 1.0))
            model.row([*mine, (end, 1.0), (self.used[k], -1.0)], 0, 0)
        for way, terms in taking.items():
            model.row([*terms, (ways[way][0], -1.0)], 0, 0)
        model.row([*first, (self.walk.first[a][0][0], -1.0)], 0, 0)
        model.row([*last, (self.walk.last[a][0][0], -1.0)], 0, 0)

    def chosen(self, values: Sequence[float]) -> dict[tuple[int, Way], int]:
        """Return how many units of a kind go which way in a solution of a fine program."""
        found: dict[tuple[int, Way], int] = {}
        for (k, way, _), column in self.going.items():
            found[k, way] = found.get((k, way), 0) + round(values[column])
        return found

    def _ways_from(self, a: int) -> dict[Way, tuple[int, float]]:
        """Return each way on from a kind of node with its column and its seconds."""
        ways: dict[Way, tuple[int, float]] = {}
        if a in self.walk.inside:
            ways[INSIDE] = (self.walk.inside[a], self.kinds.nodes[a].inner_hop or 0.0)
        for (x, b), column in self.walk.between.items():
            if x == a:
                ways[BETWEEN if a == b else b] = (column, self.kinds.hop(self.problem, a, b) or 0.0)
        return ways

    def at(self, seconds: float) -> None:
        """Ask how many layers can be held within ``seconds``: set the costs of the columns, and which are open."""
        walk, costs = self.walk, self.model.objective
        costs.clear()
        self.loss = {}
        if self.fine:
            self._fine_at(seconds)
            return
        for a, node in enumerate(self.kinds.nodes):
            ways = self._ways[a]
            first_loss: dict[Way, int] = {}
            for k in node.kinds:
                takes = self._takes[k]
                found = {way: takes.layers(seconds - hop) for way, (_, hop) in ways.items()}
                as_last = takes.layers(seconds, last=True)
                usual = found[INSIDE] if INSIDE in found else max([0, *found.values()])
                costs[self.used[k]] = -float(usual)
                for way, layers in found.items():
                    if layers > 0:
                        self.loss[k, way] = usual - layers
                        begun = takes.layers(seconds - ways[way][1], first=True)
                        if begun > 0:
                            first_loss[way] = min(first_loss.get(way, usual), usual - begun)
                if as_last > 0:
                    self.loss[k, LAST] = usual - as_last
            least: dict[Way, int] = {}
            for way in (*ways, LAST):
                losses = [self.loss[k, way] for k in node.kinds if (k, way) in self.loss]
                if losses:
                    least[way] = min(losses)
            for way, (column, _) in ways.items():
                self._price(column, least.get(way))
            self._price(walk.last[a][0][0], least.get(LAST))
            begins = [loss - least[way] for way, loss in first_loss.items()]
            self._price(walk.first[a][0][0], min(begins) if begins else None)

    def _fine_at(self, seconds: float) -> None:
        for (k, way, begins), column in self.going.items():
            hop = 0.0 if way == LAST else self._ways[self.kinds.units[k].place][way][1]
            layers = self._takes[k].layers(seconds - hop, first=begins, last=way == LAST)
            self.model.upper[column] = self._open[column] if layers else 0
            if layers:
                self.model.objective[column] = -float(layers)

    def _price(self, column: int, loss: int | None) -> None:
        self.model.upper[column] = 0 if loss is None else self._open[column]
        if loss:
            self.model.objective[column] = float(loss)

    def next_time(self, seconds: float) -> float:
        """Return the least time above ``seconds`` that a stage and its hop can take; every plan costs such a time."""
        found = math.inf
        for a, node in enumerate(self.kinds.nodes):
            hops = {hop for _, hop in self._ways[a].values()}
            for k in node.kinds:
                found = min(found, self._takes[k].next_time(seconds, hops))
        return found


@dataclass(frozen=True)
class _Takes:
    """How many layers one unit takes within a time."""

    problem: Problem
    unit: Unit

    def layers(self, seconds: float, *, first: bool = False, last: bool = False) -> int:
        unit, memory = self.unit, self.problem.memory
        room = unit.room_bytes - memory.extra(first=first, last=last)
        left = seconds - unit.head_seconds * last
        if room < 0 or left < 0:
            return 0
        if self.problem.even:
            size = memory.prefix[1]
            most = self.problem.layers if size == 0 else min(self.problem.layers, room // size)
            if unit.seconds_by_count is None:
                each = unit.seconds[-1] / self.problem.layers
                if each > 0 and left < each * (most + 1):
                    most = min(most, math.floor(left / each * (1 + ROUNDING)))
            else:
                most = max((n for n in range(most + 1) if unit.seconds_by_count[n] <= left * (1 + ROUNDING)), default=0)
        else:
            most = self._longest(room, left)
        if unit.pin is not None:
            return unit.pin if unit.pin <= most else 0
        return most

    def _longest(self, room: int, left: float) -> int:
        """Return the length of the longest range of unequal layers, wherever it lies."""
        by_count = self.unit.seconds_by_count
        quickest = self.problem.quickest_ranges(self.unit, room)
        if by_count is not None:
            return max((n for n in range(len(quickest)) if by_count[n] <= left * (1 + ROUNDING)), default=0)
        return bisect_right(quickest, left * (1 + ROUNDING)) - 1

    def next_time(self, seconds: float, hops: set[float]) -> float:
        """Return the least exact time above ``seconds``; of unequal layers nothing is said but ``seconds`` itself."""
        unit, layers = self.unit, self.problem.layers
        if not self.problem.even:
            return seconds
        each = unit.seconds[-1] / layers
        found = math.inf
        for rest in {unit.head_seconds, *hops}:
            if unit.seconds_by_count is not None:
                found = min([found, *(t + rest for t in unit.seconds_by_count[1:] if t + rest > seconds)])
            elif each == 0:
                found = min(found, rest if rest > seconds else math.inf)
            else:
                count = max(1, math.floor((seconds - rest) / each * (1 + ROUNDING)) + 1)
                if count <= layers:
                    found = min(found, count * each + rest)
        return found
