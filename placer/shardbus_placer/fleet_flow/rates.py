"""Token rates: what a unit sustains with the layers it holds, and a team of units side by side with the same layers.

A unit decodes ``concurrency`` sequences a step, so with layers that take ``s`` seconds it passes ``concurrency / s``
tokens per second; 0 where the layers do not fit its memory. A **team** is a set of units that hold the same layers;
requests are spread over them, so their rates add up. A **pipeline** is an ordered list of teams.

Tables run over the number of layers, one for each kind of unit and each place in a pipeline (embedding and head are
held at its ends). For unequal layers they stand for layers of the mean size: good enough to look for teams, and never
for an answer, which is cut and priced by the layers themselves.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from shardbus_placer.problem import Problem, Unit

Team = tuple[int, ...]
"""Indices of units, sorted."""
Pipeline = tuple[Team, ...]
LEAST_SECONDS = 1e-9
"""A stage that reads nothing takes no time; its rate stays a number."""
PLACES = range(4)
"""Of a team in its pipeline: 1 is added for the first, 2 for the last."""


@dataclass(frozen=True)
class Pool:
    """The summed rate of a team by the number of layers that each of its units holds."""

    table: tuple[float, ...]

    @cached_property
    def most(self) -> int:
        """The largest number of layers that fits all of the team."""
        return _most(self.table)

    @cached_property
    def steady(self) -> bool:
        """Whether fewer layers always fit and are never slower."""
        rates = self.table[1 : self.most + 1]
        return all(rate > 0 for rate in rates) and all(a >= b for a, b in pairwise(rates))

    @cached_property
    def _negated(self) -> list[float]:
        return [-rate for rate in self.table[1 : self.most + 1]]

    def reach(self, rate: float) -> int:
        """Return the largest number of layers at which the team still passes ``rate``; 0 if there is none."""
        if self.steady:
            return bisect_right(self._negated, -rate)
        return next((count for count in range(self.most, 0, -1) if self.table[count] >= rate), 0)

    def counts(self, rate: float) -> list[int]:
        """Return every number of layers at which the team passes ``rate``."""
        return [count for count in range(1, self.most + 1) if self.table[count] >= rate]


class Rates:
    """The rates of all units of a problem."""

    def __init__(self, problem: Problem, concurrency: int) -> None:
        """Sort the units into kinds: units of one kind have the same tables, and stand for each other but for links."""
        self.problem, self.concurrency = problem, concurrency
        self.layers = problem.layers
        found: dict[object, int] = {}
        self.kind: list[int] = []
        self.tables: list[tuple[tuple[float, ...], ...]] = []
        self.representatives: list[Unit] = []
        for unit in problem.units:
            figures = (unit.seconds[-1], unit.seconds_by_count, unit.head_seconds, unit.room_bytes, unit.pin)
            if figures not in found:
                tables = tuple(self._table(unit, place) for place in PLACES)
                same = (tables, None if problem.even else figures)
                if same not in found:
                    found[same] = len(self.tables)
                    self.tables.append(tables)
                    self.representatives.append(unit)
                found[figures] = found[same]
            self.kind.append(found[figures])
        self._pools: dict[tuple[tuple[int, ...], int], Pool] = {}
        self.steady = all(self.pool((self.kind.index(kind),), 0).steady for kind in range(len(self.tables)))
        """Whether fewer layers always fit, and are never slower, on all units."""
        self.longest = [[_most(table) for table in tables] for tables in self.tables]
        """By kind and place, the largest number of layers that fits."""
        self._work = [max(count * rate for count, rate in enumerate(tables[0])) for tables in self.tables]

    def rate(self, index: int, start: int, end: int) -> float:
        """Return what a unit passes with the layers ``start`` to ``end``; 0 if it may not hold them."""
        unit = self.problem.units[index]
        if unit.pin not in (None, end - start) or self.problem.memory.stage(start, end) > unit.room_bytes:
            return 0.0
        return self.concurrency / max(LEAST_SECONDS, unit.stage_seconds(start, end, last=end == self.layers))

    def team_rate(self, team: Sequence[int], start: int, end: int) -> float:
        """Return what a team passes with these layers; 0 if any of its units may not hold them."""
        rates = [self.rate(index, start, end) for index in team]
        return sum(rates) if all(rates) else 0.0

    def pool(self, team: Sequence[int], place: int) -> Pool:
        """Return a team's table."""
        kinds = tuple(sorted([self.kind[index] for index in team]))
        found = self._pools.get((kinds, place))
        if found is None:
            columns = zip(*(self.tables[kind][place] for kind in kinds), strict=True)
            found = Pool(tuple(sum(column) if min(column) > 0 else 0.0 for column in columns))
            self._pools[kinds, place] = found
        return found

    def most(self, index: int) -> int:
        """Return how many layers a unit may hold at most, away from the ends of a pipeline."""
        return self.longest[self.kind[index]][0]

    def work(self, index: int) -> float:
        """Return the most that a unit does, in layers times tokens per second."""
        return self._work[self.kind[index]]

    def _table(self, unit: Unit, place: int) -> tuple[float, ...]:
        memory, first, last = self.problem.memory, bool(place & 1), bool(place & 2)
        extra, layers = memory.extra(first=first, last=last), self.layers
        rates = [0.0]
        for count in range(1, layers + 1):
            room = memory.prefix[-1] * count // layers + extra <= unit.room_bytes
            if not room or unit.pin not in (None, count):
                rates.append(0.0)
                continue
            by_count = unit.seconds_by_count
            seconds = unit.seconds[-1] * count / layers if by_count is None else by_count[count]
            rates.append(self.concurrency / max(LEAST_SECONDS, seconds + unit.head_seconds * last))
        return tuple(rates)


def _most(table: Sequence[float]) -> int:
    return max((count for count, rate in enumerate(table) if rate > 0), default=0)


def place_of(position: int, teams: int) -> int:
    """Return the place of the team at ``position`` among so many."""
    return (position == 0) + 2 * (position == teams - 1)
