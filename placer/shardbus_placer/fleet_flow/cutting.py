"""Where a pipeline is cut: how many layers each team holds so that the slowest team passes as much as it can."""

from collections.abc import Sequence

from shardbus_placer.fleet_flow.rates import Pipeline, Pool, Rates, place_of

FINE = 1e-9
"""Relative width at which the search for the best rate stops."""
COARSE = 1e-4


def best_cut(rates: Rates, teams: Pipeline, *, fine: bool = True) -> tuple[float, tuple[int, ...]] | None:
    """Return the highest rate of a pipeline of these teams, in this order, and its layer boundaries.

    Exact for equal layers. For unequal ones each team takes as many layers as it can: exact where fewer layers
    are never slower, and else a plan all the same.
    """
    if not 0 < len(teams) <= rates.layers:
        return None
    pools = [rates.pool(team, place_of(position, len(teams))) for position, team in enumerate(teams)]
    high = min(max(pool.table) for pool in pools)
    if not rates.problem.even:
        high *= len(teams) * rates.layers
    low = 0.0
    bounds = cut_at(rates, teams, high * FINE, pools)
    if bounds is None:
        return None
    low, width = _rate(rates, teams, bounds), FINE if fine else COARSE
    while high - low > width * high:
        middle = (low * high) ** 0.5 if low * 2 < high else (low + high) / 2
        found = cut_at(rates, teams, middle, pools)
        if found is None:
            high = middle
        else:
            low, bounds = max(middle, _rate(rates, teams, found)), found
            high = max(high, low)
    return _rate(rates, teams, bounds), bounds


def cut_at(rates: Rates, teams: Pipeline, rate: float, pools: Sequence[Pool]) -> tuple[int, ...] | None:
    """Return layer boundaries at which every team passes ``rate``, or ``None``."""
    if not rates.problem.even:
        return _cut_unequal(rates, teams, rate)
    layers = rates.layers
    if all(pool.steady for pool in pools):
        counts = [pool.reach(rate) for pool in pools]
        if sum(counts) < layers or not all(counts):
            return None
        return _bounds(_trimmed(counts, pools, sum(counts) - layers))
    counts = _counts([pool.counts(rate) for pool in pools], layers)
    return None if counts is None else _bounds(counts)


def _rate(rates: Rates, teams: Pipeline, bounds: Sequence[int]) -> float:
    return min(rates.team_rate(team, bounds[i], bounds[i + 1]) for i, team in enumerate(teams))


def _bounds(counts: Sequence[int]) -> tuple[int, ...]:
    at, bounds = 0, [0]
    for count in counts:
        at += count
        bounds.append(at)
    return tuple(bounds)


def _trimmed(counts: list[int], pools: Sequence[Pool], excess: int) -> list[int]:
    """Return the counts less ``excess`` layers, each taken from the team that is slowest."""
    for _ in range(excess):
        slowest = min(
            (position for position, count in enumerate(counts) if count > 1),
            key=lambda position: pools[position].table[counts[position]],
        )
        counts[slowest] -= 1
    return counts


def _counts(allowed: Sequence[Sequence[int]], layers: int) -> list[int] | None:
    """Return one of the allowed counts for each team so that they sum up to all layers; sums are bits of a number."""
    reached = [1]
    full = (1 << layers + 1) - 1
    for counts in allowed:
        sums = 0
        for count in counts:
            sums |= reached[-1] << count
        reached.append(sums & full)
    if not reached[-1] >> layers & 1:
        return None
    found: list[int] = []
    at = layers
    for before, counts in zip(reversed(reached[:-1]), reversed(allowed), strict=True):
        count = next(count for count in reversed(counts) if count <= at and before >> (at - count) & 1)
        found.append(count)
        at -= count
    return found[::-1]


def _cut_unequal(rates: Rates, teams: Pipeline, rate: float) -> tuple[int, ...] | None:
    bounds = [0]
    for position, team in enumerate(teams):
        left = len(teams) - position - 1
        start, most = bounds[-1], rates.layers - left
        ends = range(most, start, -1) if left else range(most, most - 1, -1)
        end = next((end for end in ends if rates.team_rate(team, start, end) >= rate), None)
        if end is None:
            return None
        bounds.append(end)
    return tuple(bounds)
