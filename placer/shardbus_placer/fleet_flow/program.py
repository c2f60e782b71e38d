"""The pattern program: teams for one pipeline that passes a wanted rate, as an integer program.

A column per pattern says how many teams follow it. The layers must come to all of the model's, one team is first and
one last (or one is both), there are at most ``max_stages``, and no class is used beyond what it has. Of two units of a
class the roomier can stand for the other, so it is enough that, for every number of layers, no more units hold at
least so many than have room for them.
"""

from collections import Counter
from collections.abc import Sequence

from shardbus_placer.fleet_flow.patterns import Classes, Pattern
from shardbus_placer.fleet_flow.rates import PLACES, Pipeline, Rates
from shardbus_placer.formulation import LinearModel
from shardbus_placer.solver_pulp import Solution, solve

HALF = 0.5


def formulated(rates: Rates, classes: Classes, choices: Sequence[Pattern], max_stages: int) -> LinearModel:
    """Return the program; its columns are the patterns, in their order."""
    model = LinearModel("patterns")
    for pattern in choices:
        ends = pattern.place in PLACES[1:]
        most = 1 if ends else max(1, rates.layers // pattern.layers)
        for group, count in pattern.counts:
            most = min(most, classes.able(rates, group, pattern.place, pattern.layers) // count)
        model.column(0, most, integer=True, cost=1)  # the fewest stages: a token waits for each
    columns = list(enumerate(choices))
    exactly = not rates.steady  # with fewer layers a team may be slower
    model.row(((i, p.layers) for i, p in columns), rates.layers, rates.layers if exactly else rates.layers * 2)
    model.row(((i, float(p.place & 1)) for i, p in columns), 1, 1)
    model.row(((i, float(p.place >> 1)) for i, p in columns), 1, 1)
    model.row(((i, 1.0) for i, _ in columns), 1, min(max_stages, rates.layers))
    for group in range(len(classes.members)):
        uses = [(i, p, dict(p.counts)[group]) for i, p in columns if group in dict(p.counts)]
        before = None
        for least in sorted({p.layers for _, p, _ in uses}, reverse=True):
            able = classes.able(rates, group, 0, least)
            if able != before:  # only the smallest number of layers with as many units counts
                before = able
            rest = [p.layers for _, p, _ in uses if p.layers < least]
            if rest and classes.able(rates, group, 0, max(rest)) == able:
                continue
            model.row(((i, float(count)) for i, p, count in uses if p.layers >= least), upper=able)
    return model


def pipeline_at(
    rates: Rates, classes: Classes, choices: Sequence[Pattern], max_stages: int, seconds: float
) -> tuple[Pipeline | None, Solution]:
    """Return teams that the program found, and what the solver said."""
    solution = solve(formulated(rates, classes, choices, max_stages), seconds)
    if not solution.values:
        return None, solution
    picked = [pattern for pattern, value in zip(choices, solution.values, strict=True) for _ in range(round(value))]
    return _teams(rates, classes, picked), solution


def _teams(rates: Rates, classes: Classes, picked: Sequence[Pattern]) -> Pipeline | None:
    """Return the patterns as teams of units, the largest first so that the roomiest go there; ``None`` if one lacks."""
    left = [list(members) for members in classes.members]
    teams: list[tuple[int, int, tuple[int, ...]]] = []
    taken: Counter[int] = Counter()
    for pattern in sorted(picked, key=lambda pattern: -pattern.layers):
        team: list[int] = []
        for group, count in pattern.counts:
            fit = [i for i in left[group] if rates.longest[rates.kind[i]][pattern.place] >= pattern.layers][:count]
            if len(fit) < count:
                return None
            team += fit
            left[group] = [index for index in left[group] if index not in fit]
        taken.update(team)
        order = {1: 0, 0: 1, 2: 2, 3: 0}[pattern.place]
        teams.append((order, len(teams), tuple(sorted(team))))
    return tuple(team for _, _, team in sorted(teams))
