"""The placement problem as integer programs, free of any solver.

Two programs. The **counting program** chooses units, how many layers of each kind each holds, and the
node-to-node hops; it does not say which layers. With identical layers it is exact (any order of the stages
gives ranges); with unequal ones, or where only the least hop of a unit is counted, it is a relaxation: its
bound holds, its infeasibility proves, and its choice of units is then cut exactly. The **interval program**
has a column per unit and layer range and is always exact, but large.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from shardbus_placer.problem import Problem, Unit

INFINITY = math.inf
MOST_KINDS = 6
"""Up to so many kinds of layers are counted in whole numbers; beyond, fractions of them relax the program."""
LOOSER = 1e-9
"""Relative slack on a row of a relaxation, so that rounding can never cut off a real plan."""


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


@dataclass(frozen=True)
class Counting:
    """A counting program, and which of its columns mean what."""

    model: LinearModel
    used: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    layers: tuple[tuple[int, ...], ...]
    """Per unit, the columns that count its layers, one per kind of layer."""
    leaves: dict[tuple[int, int], int]
    """Unit and node to the column that says the unit's stage is followed by one on that node."""
    scale: float
    """Multiplies the program's objective to give seconds (or score)."""
    exact: bool
    """Whether every solution is a plan of the same cost, but for a node that is left and entered again."""


@dataclass(frozen=True)
class Intervals:
    """An interval program, and the columns of its ranges."""

    model: LinearModel
    ranges: dict[int, tuple[int, int, int]]
    """Column to unit, start and end."""
    scale: float


def uniform_hop(problem: Problem) -> float | None:
    """Return the time of a hop if it is the same between all pairs, inside nodes too, and all links exist."""
    alone = _alone(problem)
    hops = {seconds for a, row in enumerate(problem.hops) for b, seconds in enumerate(row) if a != b or not alone[a]}
    if len(hops) > 1:
        return None
    return hops.pop() if hops else 0.0


def counting_program(problem: Problem, *, cutoff: float | None, floor: float, with_hops: bool) -> Counting:
    """Return the counting program.

    ``with_hops`` models every node-to-node hop; without, each stage but the last pays its unit's least hop.
    ``cutoff`` is the cost of a known plan: only plans at most as costly are kept. No plan's slowest stage is
    below ``floor``.
    A plan of one stage may be missing where head and embedding are one tensor; those are tried one by one.
    """
    model = LinearModel("counting")
    kinds, kind_counts = problem.layer_kinds
    whole = len(kinds) <= MOST_KINDS
    units = problem.units
    throughput, timed = problem.objective == "throughput", problem.objective != "score"
    scale = (abs(cutoff) if cutoff else _rough_cost(problem)) or 1.0
    bound = INFINITY if cutoff is None else cutoff + 1e-7 * abs(cutoff)
    slowest = model.column(floor / scale, bound / scale, integer=False, cost=1.0) if throughput else -1

    used, first, last, layer_columns = list[int](), list[int](), list[int](), list[tuple[int, ...]]()
    spent: list[list[tuple[int, float]]] = []  # per unit: terms of its time, scaled
    for unit in units:
        u, f, e = model.binary(), model.binary(), model.binary()
        used.append(u)
        first.append(f)
        last.append(e)
        model.row([(f, 1), (u, -1)], upper=0)
        model.row([(e, 1), (u, -1)], upper=0)
        most = _most_layers(problem, unit)
        counts = tuple(model.column(0, min(most, count), integer=whole) for count in kind_counts)
        layer_columns.append(counts)
        total = [(column, 1.0) for column in counts]
        if unit.pin is not None:
            model.row([*total, (u, -unit.pin)], 0, 0)
        else:
            model.row([*total, (u, -1)], lower=0)
        _memory_rows(model, problem, unit, kinds, counts, most, (u, f, e))
        if unit.seconds_by_count is not None:
            time = _time_by_count(model, unit, total, u, most, scale)
        else:
            time = [
                (column, (unit.seconds[kind + 1] - unit.seconds[kind]) / scale)
                for column, kind in zip(counts, kinds, strict=True)
            ]
        spent.append([*time, (e, unit.head_seconds / scale)])

    for kind, count in enumerate(kind_counts):
        model.row([(columns[kind], 1) for columns in layer_columns], count, count)
    model.row([(f, 1) for f in first], 1, 1)
    model.row([(e, 1) for e in last], 1, 1)
    _choice_rows(model, problem, used)

    leaves = _hop_rows(model, problem, used, first, last) if with_hops else {}
    for i, unit in enumerate(units):
        if with_hops:
            terms = [
                (column, (problem.hops[unit.node][b] or 0.0) / scale) for (j, b), column in leaves.items() if j == i
            ]
        else:
            least = problem.least_hop(i)
            terms = [(used[i], (least or 0.0) / scale), (last[i], -(least or 0.0) / scale)]
            if least is None:  # nowhere to go on: it can only be the last
                model.row([(used[i], 1), (last[i], -1)], upper=0)
        if throughput:
            model.row([*spent[i], *terms, (slowest, -1)], upper=0)
        elif timed:
            for column, value in [*spent[i], *terms]:
                model.objective[column] = model.objective.get(column, 0.0) + value
        else:
            for column in layer_columns[i]:
                model.objective[column] = -unit.score / scale
    if not throughput and bound < INFINITY:
        model.row(list(model.objective.items()), upper=bound / scale)
    _order_alike(model, problem, layer_columns)
    exact = len(kinds) == 1 and (with_hops or uniform_hop(problem) is not None)
    return Counting(model, tuple(used), tuple(first), tuple(last), tuple(layer_columns), leaves, scale, exact)


def interval_program(problem: Problem, *, cutoff: float | None, floor: float, most_columns: int) -> Intervals | None:
    """Return the exact program with a column per unit and layer range, or ``None`` if it would be too large."""
    layers, units = problem.layers, problem.units
    throughput = problem.objective == "throughput"
    scale = (abs(cutoff) if cutoff else _rough_cost(problem)) or 1.0
    bound = INFINITY if cutoff is None else cutoff + 1e-7 * abs(cutoff)
    found = [
        (i, start, end)
        for i, unit in enumerate(units)
        for start in range(layers)
        for end in _range_ends(problem, unit, start, bound if throughput else INFINITY)
    ]
    hop = uniform_hop(problem)
    arcs = 0 if hop is not None else len(units) * len(problem.nodes) * layers
    if len(found) + arcs > most_columns:
        return None
    model = LinearModel("intervals")
    slowest = model.column(floor / scale, bound / scale, integer=False, cost=1.0) if throughput else -1
    ranges: dict[int, tuple[int, int, int]] = {}
    used = [model.binary() for _ in units]
    of_unit: list[list[tuple[int, float]]] = [[] for _ in units]
    spent: list[list[tuple[int, float]]] = [[] for _ in units]
    ending: dict[tuple[int, int], list[int]] = {}
    starting: dict[tuple[int, int], list[int]] = {}
    for i, start, end in found:
        unit = units[i]
        column = model.binary()
        ranges[column] = (i, start, end)
        of_unit[i].append((column, 1.0))
        seconds = unit.stage_seconds(start, end, last=end == layers)
        if hop is not None and end < layers:
            seconds += hop
        spent[i].append((column, seconds / scale))
        if problem.objective == "latency":
            model.objective[column] = seconds / scale
        elif problem.objective == "score":
            model.objective[column] = -unit.score * (end - start) / scale
        ending.setdefault((i, end), []).append(column)
        starting.setdefault((unit.node, start), []).append(column)
    for i in range(len(units)):
        model.row([*of_unit[i], (used[i], -1)], 0, 0)
    nodes = range(len(problem.nodes))
    model.row([(column, 1) for node in nodes for column in starting.get((node, 0), [])], 1, 1)
    model.row([(column, 1) for i in range(len(units)) for column in ending.get((i, layers), [])], 1, 1)
    for bound_at in range(1, layers):
        if hop is not None:
            arriving = [(column, 1.0) for i in range(len(units)) for column in ending.get((i, bound_at), [])]
            leaving = [(column, -1.0) for node in nodes for column in starting.get((node, bound_at), [])]
            model.row([*arriving, *leaving], 0, 0)
            continue
        into: dict[int, list[tuple[int, float]]] = {node: [] for node in nodes}
        for i, unit in enumerate(units):
            ends = ending.get((i, bound_at))
            if not ends:
                continue
            out: list[tuple[int, float]] = []
            for node in nodes:
                seconds_over = problem.hops[unit.node][node]
                if seconds_over is None or (node, bound_at) not in starting:
                    continue
                column = model.column(0, 1, integer=False)
                out.append((column, 1.0))
                into[node].append((column, 1.0))
                spent[i].append((column, seconds_over / scale))
                if problem.objective == "latency":
                    model.objective[column] = seconds_over / scale
            model.row([*((column, 1.0) for column in ends), *((column, -1.0) for column, _ in out)], 0, 0)
        for node in nodes:
            model.row([*into[node], *((column, -1.0) for column in starting.get((node, bound_at), []))], 0, 0)
    if throughput:
        for terms in spent:
            model.row([*terms, (slowest, -1)], upper=0)
    elif bound < INFINITY:
        model.row(list(model.objective.items()), upper=bound / scale)
    _choice_rows(model, problem, used)
    return Intervals(model, ranges, scale)


def _range_ends(problem: Problem, unit: Unit, start: int, most_seconds: float) -> list[int]:
    memory, layers = problem.memory, problem.layers
    ends = (
        range(start + 1, layers + 1) if unit.pin is None else range(start + unit.pin, min(start + unit.pin, layers) + 1)
    )
    found: list[int] = []
    for end in ends:
        if memory.prefix[end] - memory.prefix[start] > unit.room_bytes:
            break
        fits = memory.stage(start, end) <= unit.room_bytes
        if fits and unit.stage_seconds(start, end, last=end == layers) <= most_seconds:
            found.append(end)
    return found


def _alone(problem: Problem) -> list[bool]:
    """Return per node whether no two stages can be on it."""
    devices: list[set[str]] = [set() for _ in problem.nodes]
    for unit in problem.units:
        devices[unit.node].update(unit.devices)
    return [len(names) < 2 for names in devices]


def _rough_cost(problem: Problem) -> float:
    if problem.objective == "score":
        return float(problem.layers)
    return max(unit.seconds[-1] for unit in problem.units)


def _most_layers(problem: Problem, unit: Unit) -> int:
    """Return how many layers fit at most, wherever the range is and without embedding or head."""
    prefix, best, start = problem.memory.prefix, 0, 0
    for end in range(1, problem.layers + 1):
        while prefix[end] - prefix[start] > unit.room_bytes:
            start += 1
        best = max(best, end - start)
    return best


def _memory_rows(
    model: LinearModel,
    problem: Problem,
    unit: Unit,
    kinds: tuple[int, ...],
    counts: tuple[int, ...],
    most: int,
    flags: tuple[int, int, int],
) -> None:
    """Add that the unit holds no more than it has room for; in whole layers where all are of one kind."""
    used, first, last = flags
    memory = problem.memory
    total = [(column, 1.0) for column in counts]
    if len(kinds) == 1:
        size = memory.prefix[1]

        def fewer(extra: int) -> int:
            left = unit.room_bytes - extra
            fit = most if left >= 0 and size == 0 else left // size if left >= 0 else 0
            return most - min(most, fit)

        without_first, without_last = fewer(memory.embedding), fewer(memory.head)
        model.row([*total, (used, -most), (first, without_first), (last, without_last)], upper=0)
        return
    model.row([*total, (used, -most)], upper=0)
    largest = max(memory.prefix[kind + 1] - memory.prefix[kind] for kind in kinds) or 1
    sizes = [
        (column, (memory.prefix[kind + 1] - memory.prefix[kind]) / largest)
        for column, kind in zip(counts, kinds, strict=True)
    ]
    ends = [(first, memory.embedding / largest), (last, memory.head / largest)]
    room = unit.room_bytes / largest * (1 + LOOSER)
    model.row([*sizes, *ends, (used, -room)], upper=0)


def _time_by_count(
    model: LinearModel, unit: Unit, total: list[tuple[int, float]], used: int, most: int, scale: float
) -> list[tuple[int, float]]:
    """Add a choice of the number of layers and return the terms of its measured time."""
    assert unit.seconds_by_count is not None  # the caller asks only then
    choices = [(model.binary(), count) for count in range(1, most + 1)]
    model.row([*((column, 1.0) for column, _ in choices), (used, -1)], 0, 0)
    model.row([*((column, float(count)) for column, count in choices), *((c, -v) for c, v in total)], 0, 0)
    return [(column, unit.seconds_by_count[count] / scale) for column, count in choices]


def _choice_rows(model: LinearModel, problem: Problem, used: list[int]) -> None:
    """Add the request's conditions on which units are used together."""
    units = problem.units
    with_device: dict[str, list[int]] = {}
    for column, unit in zip(used, units, strict=True):
        for device in unit.devices:
            with_device.setdefault(device, []).append(column)
    for columns in with_device.values():
        if len(columns) > 1:
            model.row([(column, 1) for column in columns], upper=1)
    for device in problem.pins:
        model.row([(column, 1) for column in with_device.get(device, [])], lower=1)
    devices = sum(len(unit.devices) for unit in units)
    if problem.max_devices < devices:
        model.row(
            [(column, len(unit.devices)) for column, unit in zip(used, units, strict=True)], upper=problem.max_devices
        )
    if problem.max_stages < len(units):
        model.row([(column, 1) for column in used], upper=problem.max_stages)
    if problem.min_nodes > 1 or problem.max_nodes < len(problem.nodes):
        here = _node_columns(model, problem, used)
        model.row([(column, 1) for column in here], problem.min_nodes, problem.max_nodes)


def _node_columns(model: LinearModel, problem: Problem, used: list[int]) -> list[int]:
    """Add a column per node that says whether any of its units is used."""
    columns: list[int] = []
    for node in range(len(problem.nodes)):
        here = model.binary()
        inside = [column for column, unit in zip(used, problem.units, strict=True) if unit.node == node]
        for column in inside:
            model.row([(column, 1), (here, -1)], upper=0)
        model.row([(here, 1), *((column, -1.0) for column in inside)], upper=0)
        columns.append(here)
    return columns


def _hop_rows(
    model: LinearModel, problem: Problem, used: list[int], first: list[int], last: list[int]
) -> dict[tuple[int, int], int]:
    """Add for each unit the node of the next stage, and that all this is one chain from the first to the last.

    What leaves for a node arrives at its units: each but the first of all has one predecessor. A flow from the
    first stage's node to every used node, along hops that are taken, rules out separate rings.
    """
    units, nodes = problem.units, range(len(problem.nodes))
    leaves: dict[tuple[int, int], int] = {}
    into: list[list[tuple[int, float]]] = [[] for _ in nodes]
    inside = [[i for i, unit in enumerate(units) if unit.node == node] for node in nodes]
    for i, unit in enumerate(units):
        for node in nodes:
            if problem.hops[unit.node][node] is None:
                continue
            if node == unit.node and all(not set(units[j].devices).isdisjoint(unit.devices) for j in inside[node]):
                continue
            leaves[i, node] = model.binary()
            into[node].append((leaves[i, node], 1.0))
        out = [(leaves[i, node], 1.0) for node in nodes if (i, node) in leaves]
        model.row([*out, (used[i], -1), (last[i], 1)], 0, 0)
    for node in nodes:
        members = inside[node]
        model.row([*into[node], *((used[j], -1.0) for j in members), *((first[j], 1.0) for j in members)], 0, 0)
    if len(problem.nodes) == 1:
        return leaves
    here = _node_columns(model, problem, used)
    count = len(problem.nodes)
    balance: list[list[tuple[int, float]]] = [[(here[node], -1.0)] for node in nodes]
    for node in nodes:
        source = model.column(0, count, integer=False)
        model.row([(source, 1), *((first[j], -float(count)) for j in inside[node])], upper=0)
        balance[node].append((source, 1.0))
    for a in nodes:
        for b in nodes:
            taken = [(leaves[i, b], -float(count - 1)) for i in inside[a] if (i, b) in leaves]
            if a == b or not taken:
                continue
            flow = model.column(0, count - 1, integer=False)
            model.row([(flow, 1.0), *taken], upper=0)
            balance[a].append((flow, -1.0))
            balance[b].append((flow, 1.0))
    for terms in balance:
        model.row(terms, 0, 0)
    return leaves


def _order_alike(model: LinearModel, problem: Problem, layer_columns: list[tuple[int, ...]]) -> None:
    """Add that of units alike in everything the earlier holds no fewer layers: their names do not matter."""
    if any(len(unit.devices) > 1 for unit in problem.units):
        return
    alike: dict[object, int] = {}
    for i, unit in enumerate(problem.units):
        if unit.pin is not None:
            continue
        kind = (unit.node, unit.room_bytes, unit.seconds, unit.head_seconds, unit.seconds_by_count, unit.score)
        before = alike.get(kind)
        if before is not None:
            here, there = layer_columns[i], layer_columns[before]
            model.row([*((column, 1.0) for column in here), *((column, -1.0) for column in there)], upper=0)
        alike[kind] = i
