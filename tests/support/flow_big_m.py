"""The textbook program for whole-fleet throughput, with a start layer for each device and big-M rows for each link.

Restated from Helix' description: every device holds a range; a flow may go from one to another only where the one ends
and the other begins, which an indicator per link and rows with the number of layers as M see to. Given as a reference.
"""

from shardbus_placer.formulation import LinearModel
from shardbus_placer.solver_pulp import _new_engine
from support.flow_baselines import Choice, Ground


def big_m(on: Ground, seconds: float) -> Choice:
    """Return the layers that each device holds in the best solution found; empty if none was."""
    model, layers, devices = LinearModel("start-layers"), on.layers, on.devices
    units = on.rates.problem.units
    start = {i: model.column(0, layers, integer=True) for i in devices}
    holds = {(i, k): model.binary() for i in devices for k in range(1, on.most(i) + 1)}
    rate = {(i, k): on.rates.tables[on.rates.kind[i]][0][k] for i, k in holds}
    most = {i: max(rate[i, k] for k in range(1, on.most(i) + 1)) for i in devices}
    end = {i: [(start[i], 1.0), *((holds[i, k], float(k)) for k in range(1, on.most(i) + 1))] for i in devices}
    entered: dict[int, list[int]] = {i: [] for i in devices}
    left: dict[int, list[int]] = {i: [] for i in devices}
    for i in devices:
        model.row([(holds[i, k], 1.0) for k in range(1, on.most(i) + 1)], 1, 1)
        model.row(end[i], upper=layers)
        source, is_first = model.column(0, most[i], integer=False, cost=-1.0), model.binary()
        model.row([(source, 1.0), (is_first, -most[i])], upper=0)
        model.row([(start[i], 1.0), (is_first, float(layers))], upper=layers)
        entered[i].append(source)
        sink, is_last = model.column(0, most[i], integer=False), model.binary()
        model.row([(sink, 1.0), (is_last, -most[i])], upper=0)
        model.row([*end[i], (is_last, -float(layers))], lower=0)
        left[i].append(sink)
    for i in devices:
        for j in devices:
            room = on.capacity.get((units[i].node, units[j].node))
            if i == j or room is None:
                continue
            limit = min(room, most[i], most[j])
            flow, joined = model.column(0, limit, integer=False), model.binary()
            model.row([(flow, 1.0), (joined, -limit)], upper=0)
            gap = [*end[i], (start[j], -1.0)]
            model.row([*gap, (joined, float(layers))], upper=layers)
            model.row([*gap, (joined, -float(layers))], lower=-layers)
            left[i].append(flow)
            entered[j].append(flow)
    for i in devices:
        model.row([*((f, 1.0) for f in entered[i]), *((f, -1.0) for f in left[i])], 0, 0)
        passes = [(holds[i, k], -rate[i, k]) for k in range(1, on.most(i) + 1)]
        model.row([*((f, 1.0) for f in entered[i]), *passes], upper=0)
    # The engine itself, which may come back a little late: as a reference it is waited for.
    values = _new_engine().solve(model, seconds, relaxed=False).values
    if not values:
        return {}
    found: Choice = {}
    for i in devices:
        first = round(values[start[i]])
        count = next(k for k in range(1, on.most(i) + 1) if values[holds[i, k]] > 0.5)
        found[i] = first, first + count
    return found
