"""A bound for few stages: no way through the fleet is cheaper than the cheapest, whatever the devices' time is worth.

Let ``y`` be a price for all the time of each unit. A unit that passes ``f`` of at most ``min(T(k), F)`` tokens/s with
``k`` layers gives the share ``f / min(T(k), F)`` of its time, and no unit gives more than 1. A token's way over at most
D stages that hold all layers costs at least ``V(y)``, the cheapest such way, which is a shortest path over stages and
layers. So a flow of F costs F V(y) at least, and there is ``sum y`` to spend: ``F <= sum y / V(y)`` for every ``y``.
The best prices are a linear program with a row for every way; the row that is broken most is the shortest path, added
in turn.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import add

from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.formulation import LinearModel
from shardbus_placer.solver_pulp import Session

SLACK = 1e-9
ENOUGH = 1e-4
"""Relative: prices that are so near the best, and bounds that gain no more, are good enough."""
MOST_ROUNDS = 3
MOST_WAYS = 60
LEAST_SECONDS = 0.005
"""With less time than this no further way is looked for."""
FREE = 1e-12
"""Prices are kept above 0 a little: a way that costs nothing bounds nothing."""
NONE = float("inf")

Step = tuple[int, int, int]
"""Kind, place, and number of layers."""


def route_bound(rates: Rates, bound: float, max_stages: int, seconds_left: Callable[[], float]) -> float:
    """Return a bound that is at most ``bound`` and holds for every plan of at most ``max_stages`` on each way.

    For equal layers and units that share no device; else it returns ``bound``.
    """
    devices = Counter(device for unit in rates.problem.units for device in unit.devices)
    if not rates.problem.even or max(devices.values(), default=0) > 1:
        return bound
    for _ in range(MOST_ROUNDS):
        lower = _at(rates, bound, min(max_stages, rates.layers), seconds_left)
        gained = bound - lower
        bound = min(bound, lower)
        if not bound or gained <= ENOUGH * bound or seconds_left() < LEAST_SECONDS:
            break
    return bound


def _at(rates: Rates, flow: float, depth: int, seconds_left: Callable[[], float]) -> float:
    """Return the best bound found with rates capped at ``flow``, which is known to be no less than any flow."""
    counts = Counter(rates.kind)
    model = LinearModel("routes")
    columns = {kind: model.column(FREE, NONE, integer=False, cost=count) for kind, count in counts.items()}
    session = Session(model)
    # At first all that can be done is worth the same.
    worth = {kind: max(k * min(rate, flow) for k, rate in enumerate(rates.tables[kind][0])) for kind in counts}
    whole = sum(worth[kind] * count for kind, count in counts.items()) or 1.0
    prices = {kind: max(FREE, value / whole) for kind, value in worth.items()}
    best = flow
    for _ in range(MOST_WAYS):
        found = _cheapest(rates, prices, flow, depth)
        if found is None:
            return 0.0  # no way of so few stages holds all layers
        cost, way = found
        spent = sum(prices[kind] * count for kind, count in counts.items())
        best = min(best, spent / cost * (1 + SLACK))
        if cost >= 1 - ENOUGH and model.rows:
            break
        model.row([(columns[kind], _share(rates, step, flow)) for step in way for kind in step[:1]], lower=1)
        if seconds_left() < LEAST_SECONDS:
            break
        solution = session.solve(seconds_left(), relaxed=True)
        if solution.status != "optimal":
            break
        prices = {kind: max(FREE, solution.values[column]) for kind, column in columns.items()}
    return best


def _share(rates: Rates, step: Step, flow: float) -> float:
    """Return which share of a unit's time one token per second takes."""
    kind, place, layers = step
    return 1 / min(rates.tables[kind][place][layers], flow)


def _cheapest(rates: Rates, prices: dict[int, float], flow: float, depth: int) -> tuple[float, Sequence[Step]] | None:
    """Return what the cheapest way costs, and its steps; ``None`` if there is no way."""
    layers = rates.layers
    costs, kinds = zip(*(_by_layers(rates, prices, flow, place) for place in range(4)), strict=True)
    most = max((k for k, cost in enumerate(costs[0]) if cost < NONE), default=0)
    backwards = costs[0][most:0:-1]
    ahead: list[list[float]] = [[], list(costs[1])]
    for _ in range(2, depth):
        before = ahead[-1]
        row = [NONE] * (layers + 1)
        for end in range(1, layers):
            span = min(most, end)
            row[end] = min(map(add, before[end - span : end], backwards[most - span :]), default=NONE)
        ahead.append(row)
    best, stages, last = costs[3][layers], 1, layers
    for stage in range(1, depth):
        for k in range(1, layers):
            cost = ahead[stage][layers - k] + costs[2][k]
            if cost < best:
                best, stages, last = cost, stage + 1, k
    if best == NONE:
        return None
    if stages == 1:
        return best, [(kinds[3][layers], 3, layers)]
    way: list[Step] = [(kinds[2][last], 2, last)]
    end = layers - last
    for stage in range(stages - 1, 1, -1):
        k = min(range(1, min(most, end) + 1), key=lambda k: ahead[stage - 1][end - k] + costs[0][k])
        way.append((kinds[0][k], 0, k))
        end -= k
    way.append((kinds[1][end], 1, end))
    return best, way


def _by_layers(rates: Rates, prices: dict[int, float], flow: float, place: int) -> tuple[list[float], list[int]]:
    """Return by number of layers what the cheapest unit costs, and its kind."""
    costs, kinds = [NONE] * (rates.layers + 1), [0] * (rates.layers + 1)
    for kind, price in prices.items():
        table = rates.tables[kind][place]
        for k in range(1, rates.longest[kind][place] + 1):
            rate = table[k]
            if rate > 0 and price / min(rate, flow) < costs[k]:
                costs[k], kinds[k] = price / min(rate, flow), kind
    return costs, kinds
