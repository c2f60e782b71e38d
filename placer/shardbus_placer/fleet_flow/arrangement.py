"""Which units go where when links are slow: the same teams of other nodes, so that tokens seldom cross a slow link.

Units of one kind can stand for each other. So the teams of a pipeline are taken as kinds, ordered so that clusters of
well-joined nodes follow one another, and filled with each cluster's units in that order. After that, units of a kind
change places wherever this lets more tokens through; that is measured on the real network.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations

from shardbus_placer.fleet_flow.rates import Pipeline, Rates
from shardbus_placer.fleet_flow.search import Course, course_of
from shardbus_placer.fleet_flow.spending import Spending
from shardbus_placer.fleet_flow.traffic import Capacities, Held, Traffic, traffic

MOST_ORDERS = 24
LITTLE = 1e-6


def held_of(courses: Sequence[Course]) -> list[Held]:
    """Return what each unit of these pipelines holds."""
    return [
        Held(index, course.bounds[position], course.bounds[position + 1], number)
        for number, course in enumerate(courses)
        for position, team in enumerate(course.teams)
        for index in team
    ]


class Arranger:
    """Looks for the courses of units that let most tokens through a network with slow links."""

    def __init__(
        self,
        rates: Rates,
        capacity: Capacities,
        clusters: Sequence[Sequence[int]],
        max_stages: int,
        spending: Spending,
    ) -> None:
        """Begin with nodes in clusters, inside of which links are faster than between them."""
        self.rates, self.capacity, self.max_stages, self.spending = rates, capacity, max_stages, spending
        self.cluster_of = {node: number for number, cluster in enumerate(clusters) for node in cluster}

    def flow(self, courses: Sequence[Course]) -> Traffic:
        """Return what really goes through these pipelines."""
        return traffic(self.rates, self.capacity, held_of(courses), self.max_stages)

    def arranged(self, courses: Sequence[Course], units: Sequence[int]) -> tuple[tuple[Course, ...], Traffic]:
        """Return the best arrangement found of these pipelines, with any of ``units`` in them."""
        best = tuple(courses)
        through = self.flow(best)
        wanted = sum(course.rate for course in courses)
        names = sorted({self.cluster(index) for index in units})
        for order in list(permutations(names))[:MOST_ORDERS]:
            if through.value >= wanted * (1 - LITTLE) or not self.spending.trial():
                break
            tried = tuple(self.filled(course, units, order) for course in courses)
            if len(courses) == 1 and (found := self.flow(tried)).value > through.value * (1 + LITTLE):
                best, through = tried, found
        return self.exchanged(best, through, wanted, units)

    def cluster(self, index: int) -> int:
        """Return the cluster of a unit."""
        return self.cluster_of[self.rates.problem.units[index].node]

    def filled(self, course: Course, units: Sequence[int], order: Sequence[int]) -> Course:
        """Return the course with its teams in an order that follows the clusters, and filled in that order."""
        rank = {cluster: position for position, cluster in enumerate(order)}
        kind = self.rates.kind
        by_kind: dict[int, list[int]] = {}
        for index in sorted(units, key=lambda index: (rank[self.cluster(index)], index)):
            by_kind.setdefault(kind[index], []).append(index)
        pull = {
            number: sum(rank[self.cluster(index)] for index in members) / len(members)
            for number, members in by_kind.items()
        }
        teams = sorted(course.teams, key=lambda team: sum(pull[kind[index]] for index in team) / len(team))
        filled = [tuple(sorted(by_kind[kind[index]].pop(0) for index in team)) for team in teams]
        moved = course_of(self.rates, tuple(filled))
        if moved is not None and moved.rate >= course.rate * (1 - LITTLE):
            return moved
        return moved if moved is not None and self.flow([moved]).value > self.flow([course]).value else course

    def exchanged(
        self, courses: tuple[Course, ...], through: Traffic, wanted: float, units: Sequence[int]
    ) -> tuple[tuple[Course, ...], Traffic]:
        """Return the courses after units changed places for as long as that let more tokens through."""
        better = True
        while better and through.value < wanted * (1 - LITTLE):
            better = False
            for tried in self._changes(courses, units):
                if not self.spending.trial():
                    return courses, through
                found = self.flow(tried)
                if found.value > through.value * (1 + LITTLE):
                    courses, through, better = tried, found, True
                    break
        return courses, through

    def _changes(self, courses: tuple[Course, ...], units: Sequence[int]) -> Sequence[tuple[Course, ...]]:
        """Return the courses with two units of a kind, or two teams, in each other's place."""
        kind = self.rates.kind
        spots = [
            (c, t, index) for c, course in enumerate(courses) for t, team in enumerate(course.teams) for index in team
        ]
        taken = {index for _, _, index in spots}
        found: list[tuple[Course, ...]] = []
        for number, course in enumerate(courses):
            for a, b in combinations(range(len(course.teams)), 2):
                teams = list(course.teams)
                teams[a], teams[b] = teams[b], teams[a]
                moved = course_of(self.rates, tuple(teams), fine=False)
                if moved is not None:
                    found.append((*courses[:number], moved, *courses[number + 1 :]))
        for (c, t, u), (d, s, v) in combinations(spots, 2):
            if (c, t) != (d, s) and kind[u] == kind[v] and self.cluster(u) != self.cluster(v):
                found.append(_put(_put(courses, c, t, u, v), d, s, v, u))
        spare = [index for index in units if index not in taken]
        found += [
            _put(courses, c, t, u, v)
            for c, t, u in spots
            for v in spare
            if kind[u] == kind[v] and self.cluster(u) != self.cluster(v)
        ]
        return found


def _put(courses: tuple[Course, ...], c: int, t: int, out: int, into: int) -> tuple[Course, ...]:
    """Return the courses with one unit of one team replaced."""
    teams: Pipeline = courses[c].teams
    team = tuple(sorted(into if index == out else index for index in teams[t]))
    changed = replace(courses[c], teams=(*teams[:t], team, *teams[t + 1 :]))
    return (*courses[:c], changed, *courses[c + 1 :])
