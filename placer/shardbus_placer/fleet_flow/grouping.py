"""A first choice of teams for a wanted rate: units in a line, those with room for most layers first, cut into teams."""

from collections.abc import Sequence
from itertools import pairwise

from shardbus_placer.fleet_flow.rates import Rates, Team


def grouped(rates: Rates, line: Sequence[int], rate: float, max_stages: int, place: int) -> tuple[Team, ...] | None:
    """Return at most ``max_stages`` teams of neighbours that hold all layers at ``rate``, or ``None``.

    Units may be left out. Among all ways to cut this line it finds one that reaches most layers, all teams taken to
    be in the same ``place`` of the pipeline: 0 (between others) is a hope, 3 (at both ends) is careful.
    """
    count = len(line)
    depth = min(max_stages, count, rates.layers)
    options = _options(rates, line, rate, place)
    best = [[0] * (count + 1)]
    choice: list[list[tuple[int, int] | None]] = [[None] * (count + 1)]
    for stage in range(1, depth + 1):
        before, row = best[-1], [0] * (count + 1)
        chosen: list[tuple[int, int] | None] = [None] * (count + 1)
        for end in range(1, count + 1):
            most, how = row[end - 1], None
            for start, reach in options[end - 1]:
                if before[start] + reach > most:
                    most, how = before[start] + reach, (start, end)
            row[end], chosen[end] = most, how or chosen[end - 1]
        best.append(row)
        choice.append(chosen)
        if row[count] >= rates.layers:
            return _teams(line, choice, stage)
    return None


def balanced(rates: Rates, line: Sequence[int], stages: int, place: int) -> tuple[Team, ...] | None:
    """Return teams for so many stages of all but equal length, each unit in the team that is slowest yet.

    Units without room for so many layers are left out; ``place`` is as in ``grouped``. ``None``: a team has no unit.
    """
    ends = [round(stage * rates.layers / stages) for stage in range(stages + 1)]
    lengths = [b - a for a, b in pairwise(ends)]
    teams: list[list[int]] = [[] for _ in lengths]
    passes = [0.0] * stages
    for index in sorted(line, key=lambda index: (-rates.work(index), index)):
        table = rates.tables[rates.kind[index]][place]
        able = [stage for stage, length in enumerate(lengths) if table[length] > 0]
        if able:
            slowest = min(able, key=passes.__getitem__)
            teams[slowest].append(index)
            passes[slowest] += table[lengths[slowest]]
    return tuple(tuple(sorted(team)) for team in teams) if all(teams) else None


def in_line(rates: Rates, units: Sequence[int]) -> list[int]:
    """Return the units that hold a layer, those with room for most first, then the fastest."""
    usable = [index for index in units if rates.most(index)]
    return sorted(usable, key=lambda index: (-rates.most(index), -rates.work(index), index))


def _options(rates: Rates, line: Sequence[int], rate: float, place: int) -> list[list[tuple[int, int]]]:
    """Return for each last unit of a team the first ones worth trying, with the layers that such a team reaches."""
    tables = [rates.tables[rates.kind[index]][place] for index in line]
    sums = [[0.0] * (rates.layers + 1)]
    for table in tables:
        sums.append([a + b for a, b in zip(sums[-1], table, strict=True)])
    found: list[list[tuple[int, int]]] = []
    for last, index in enumerate(line):
        most, reach, here = rates.longest[rates.kind[index]][place], 0, sums[last + 1]
        worth: list[tuple[int, int]] = []
        for first in range(last, -1, -1):
            before, grown = sums[first], reach
            while grown < most and here[grown + 1] - before[grown + 1] >= rate:
                grown += 1
            if grown > reach:
                reach = grown
                worth.append((first, reach))
            if reach == most:
                break
        found.append(worth)
    return found


def _teams(line: Sequence[int], choice: list[list[tuple[int, int] | None]], stages: int) -> tuple[Team, ...]:
    teams: list[Team] = []
    end = len(line)
    for stage in range(stages, 0, -1):
        picked = choice[stage][end]
        if picked is None:
            break
        start, stop = picked
        teams.append(tuple(sorted(line[start:stop])))
        end = start
    return tuple(teams[::-1])
