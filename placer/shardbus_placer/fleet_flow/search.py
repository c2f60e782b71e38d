"""Better teams by small changes: units move between teams, change places, join from the spare ones.

To lift a pipeline to a wanted rate, every team is told how many layers it reaches at that rate; the sum must come to
all layers. That sum changes with almost every move, where the pipeline's own rate, which its slowest team sets,
seldom does. So it is the sum that is climbed, first at rates well above what is in hand, then nearer to it.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shardbus_placer.fleet_flow.cutting import best_cut, cut_at
from shardbus_placer.fleet_flow.rates import PLACES, Pipeline, Rates, place_of

CLOSE = 1e-4
"""Relative step below which a better rate is not looked for."""
KICKS = 6
"""How often a search that is stuck is thrown off its place and begins again."""
SEED = 20
LOSS = 1e-9
NEAR = 0.3
"""What a team counts for that almost reaches one more layer."""
NOTHING = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Course:
    """One pipeline that holds together: teams in order, their layer boundaries, and the rate of the slowest."""

    teams: Pipeline
    bounds: tuple[int, ...]
    rate: float

    @property
    def units(self) -> set[int]:
        """All units of all teams."""
        return {index for team in self.teams for index in team}


def course_of(rates: Rates, teams: Pipeline, *, fine: bool = True) -> Course | None:
    """Return the best cut of these teams in this order, or ``None`` if they cannot hold the model."""
    found = best_cut(rates, teams, fine=fine)
    return None if found is None else Course(teams, found[1], found[0])


class Climb:
    """The search for one pipeline over some units at one wanted rate."""

    def __init__(self, rates: Rates, rate: float, teams: Sequence[Sequence[int]], spare: Sequence[int]) -> None:
        """Begin with these teams; ``spare`` units may join any of them. An empty team may be filled."""
        self.rates, self.rate = rates, rate
        self._known: dict[tuple[int, ...], tuple[float, ...]] = {}
        self.teams = [list(team) for team in teams]
        self.spare = list(spare)
        self.reach = [self._reach(team) for team in self.teams]
        self.total = self._total()

    def _reach(self, team: Sequence[int]) -> tuple[float, ...]:
        """Return what a team reaches between others, at the beginning, at the end, and alone.

        A part of what is missing for one more layer is added, so that near misses can be told.
        """
        if not team:
            return NOTHING
        kind = self.rates.kind
        kinds = tuple(sorted([kind[index] for index in team]))
        found = self._known.get(kinds)
        if found is None:
            found = self._known[kinds] = tuple(self._reach_of(kinds, place) for place in PLACES)
        return found

    def _reach_of(self, kinds: tuple[int, ...], place: int) -> float:
        rates, wanted = self.rates, self.rate
        tables = [rates.tables[kind][place] for kind in kinds]
        low, high = 0, min(rates.longest[kind][place] for kind in kinds)
        most = high
        if not rates.steady:
            counts = range(most, 0, -1)
            return next((c for c in counts if all(t[c] for t in tables) and sum(t[c] for t in tables) >= wanted), 0)
        while low < high:
            middle = (low + high + 1) // 2
            if sum([table[middle] for table in tables]) >= wanted:
                low = middle
            else:
                high = middle - 1
        if not low or low == most:
            return low
        here, there = sum([table[low] for table in tables]), sum([table[low + 1] for table in tables])
        return low + NEAR * (here - wanted) / (here - there) if here > there else low

    def _total(self) -> float:
        """Return what all teams reach with the best two at the ends."""
        used = [(reach, index) for index, reach in enumerate(self.reach) if self.teams[index]]
        if not used:
            return 0.0
        if len(used) == 1:
            return used[0][0][3]
        first, last = self._ends(used)
        whole = sum(reach[0] for reach, _ in used)
        return whole + self.reach[first][1] - self.reach[first][0] + self.reach[last][2] - self.reach[last][0]

    @staticmethod
    def _ends(used: Sequence[tuple[tuple[float, ...], int]]) -> tuple[int, int]:
        """Return which teams lose least at the beginning and at the end."""
        firsts = sorted(used, key=lambda one: one[0][0] - one[0][1])[:2]
        lasts = sorted(used, key=lambda one: one[0][0] - one[0][2])[:2]
        pairs = [(a, b) for a in firsts for b in lasts if a[1] != b[1]]
        first, last = min(pairs, key=lambda pair: pair[0][0][0] - pair[0][0][1] + pair[1][0][0] - pair[1][0][2])
        return first[1], last[1]

    def pipeline(self) -> Pipeline:
        """Return the teams in order, those that lose least at the ends there."""
        used = [(reach, index) for index, reach in enumerate(self.reach) if self.teams[index]]
        if len(used) == 1:
            return (tuple(sorted(self.teams[used[0][1]])),)
        first, last = self._ends(used)
        middle = [index for _, index in used if index not in {first, last}]
        return tuple(tuple(sorted(self.teams[index])) for index in (first, *middle, last))

    def holds(self) -> Pipeline | None:
        """Return the pipeline if it holds all layers at the wanted rate."""
        if self.total < self.rates.layers:
            return None
        teams = self.pipeline()
        pools = [self.rates.pool(team, place_of(position, len(teams))) for position, team in enumerate(teams)]
        if self.rates.problem.even:
            return None if cut_at(self.rates, teams, self.rate, pools) is None else teams
        return teams if sum(pool.reach(self.rate) for pool in pools) >= self.rates.layers else None

    def try_teams(self, changed: Sequence[tuple[int, list[int]]], gain: float = LOSS) -> bool:
        """Put these teams in place of others and keep them if the total grows."""
        before = [(index, self.teams[index], self.reach[index]) for index, _ in changed]
        total = self.total
        for index, team in changed:
            self.teams[index], self.reach[index] = team, self._reach(team)
        self.total = self._total()
        if self.total > total + gain:
            return True
        for index, team, reach in before:
            self.teams[index], self.reach[index] = team, reach
        self.total = total
        return False

    def moves(self) -> Iterator[tuple[list[tuple[int, list[int]]], list[int]]]:
        """Return changes to try: teams to put in place, and the spare units that are then left.

        Whoever takes one may go on: what a later change needs is looked up when its turn comes.
        """
        kind, places = self.rates.kind, range(len(self.teams))
        for a in places:
            for b in places:
                for u in _one_of_each(self.teams[a], kind) if a != b else ():
                    if u in self.teams[a]:
                        yield [(a, _without(self.teams[a], u)), (b, [*self.teams[b], u])], self.spare
        for a in places:
            for b in places[a + 1 :]:
                for u in _one_of_each(self.teams[a], kind):
                    for v in _one_of_each(self.teams[b], kind):
                        if kind[u] != kind[v] and u in self.teams[a] and v in self.teams[b]:
                            there = [*_without(self.teams[b], v), u]
                            yield [(a, [*_without(self.teams[a], u), v]), (b, there)], self.spare
        for a in places:
            for u in _one_of_each(self.spare, kind):
                if u in self.spare:
                    yield [(a, [*self.teams[a], u])], _without(self.spare, u)
                for v in _one_of_each(self.teams[a], kind):
                    if kind[u] != kind[v] and u in self.spare and v in self.teams[a]:
                        yield [(a, [*_without(self.teams[a], v), u])], [*_without(self.spare, u), v]

    def climb(self, spend: Callable[[], bool]) -> Pipeline | None:
        """Return a pipeline that holds at the wanted rate, or ``None`` once no move helps or ``spend`` says stop."""
        if (found := self.holds()) is not None:
            return found
        better = True
        while better:
            better = False
            for changed, spare in self.moves():
                if not spend():
                    return None
                if self.try_teams(changed):
                    self.spare = spare
                    better = True
                    if (found := self.holds()) is not None:
                        return found
        return None

    def kick(self, draw: random.Random) -> None:
        """Let units of some teams change places, whatever that costs."""
        full = [index for index, team in enumerate(self.teams) if team]
        for _ in range(3):
            if len(full) < 2:  # noqa: PLR2004 - two teams to change places between
                return
            a, b = draw.sample(full, 2)
            u, v = draw.choice(self.teams[a]), draw.choice(self.teams[b])
            self.teams[a] = [*_without(self.teams[a], u), v]
            self.teams[b] = [*_without(self.teams[b], v), u]
        self.reach = [self._reach(team) for team in self.teams]
        self.total = self._total()


def lifted(
    rates: Rates, course: Course, spare: Sequence[int], ceiling: float, max_stages: int, spend: Callable[[], bool]
) -> Course:
    """Return a course of the same and the spare units that is at least as good, looked for up to ``ceiling``."""
    draw = random.Random(SEED)  # noqa: S311 - equal requests get equal plans
    step = (ceiling - course.rate) / 2
    left: list[int] = list(spare)
    while step > CLOSE * course.rate and spend():
        teams: list[Sequence[int]] = [*course.teams]
        if len(teams) < min(max_stages, rates.layers):
            teams.append(())
        climb = Climb(rates, course.rate + step, teams, left)
        found = climb.climb(spend)
        for _ in range(KICKS):
            if found is not None or not spend():
                break
            climb.kick(draw)
            found = climb.climb(spend)
        better = None if found is None else course_of(rates, found)
        if better is not None and better.rate > course.rate * (1 + LOSS):
            everyone = course.units | set(left)
            course = better
            left = sorted(everyone - better.units)
            step = min(step, (ceiling - course.rate) / 2)
        else:
            step /= 2
    return course


def _without(team: Sequence[int], index: int) -> list[int]:
    return [other for other in team if other != index]


def _one_of_each(team: Sequence[int], kind: Sequence[int]) -> list[int]:
    """Return one unit of each kind."""
    return list({kind[index]: index for index in team}.values())
