"""The counting program: which units are used, how many layers each holds, and which hops are taken."""

from collections.abc import Sequence
from dataclasses import dataclass

from shardbus_placer.formulation import LinearModel, Price, Terms, choice_rows, node_columns
from shardbus_placer.problem import Problem, Unit

MOST_KINDS = 6
"""Up to so many kinds of layers are counted in whole numbers; beyond, fractions of them relax the program."""
LOOSER = 1e-9
"""Relative slack on a row of a relaxation, so that rounding can never cut off a real plan."""


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


def counting_program(problem: Problem, *, cutoff: float | None, floor: float, with_hops: bool) -> Counting:
    """Return the counting program.

    ``with_hops`` models every node-to-node hop; without, each stage but the last pays its unit's least hop.
    ``cutoff`` is the cost of a known plan: only plans at most as costly are kept. No plan's slowest stage is
    below ``floor``.
    A plan of one stage may be missing where head and embedding are one tensor; those are tried one by one.
    """
    model = LinearModel("counting")
    price = Price(model, problem, cutoff, floor)
    units = problem.units
    used = tuple(model.binary() for _ in units)
    first = tuple(model.binary() for _ in units)
    last = tuple(model.binary() for _ in units)
    kinds, of_kind = problem.layer_kinds
    layers: list[tuple[int, ...]] = []
    spent: list[Terms] = []
    for unit, u, f, e in zip(units, used, first, last, strict=True):
        most = problem.most_layers(unit)
        counts = tuple(model.column(0, min(most, count), integer=len(kinds) <= MOST_KINDS) for count in of_kind)
        layers.append(counts)
        _count_rows(model, unit, counts, u)
        _memory_rows(model, problem, unit, kinds, counts, most, (u, f, e))
        model.row([(f, 1), (u, -1)], upper=0)
        model.row([(e, 1), (u, -1)], upper=0)
        spent.append([*_time(model, unit, kinds, counts, u, most), (e, unit.head_seconds)])
        price.reward([(column, unit.score) for column in counts])
    for kind, count in enumerate(of_kind):
        model.row([(columns[kind], 1) for columns in layers], count, count)
    model.row([(f, 1) for f in first], 1, 1)
    model.row([(e, 1) for e in last], 1, 1)
    choice_rows(model, problem, used)
    leaves = _hop_rows(model, problem, used, first, last) if with_hops else {}
    for i, unit in enumerate(units):
        if with_hops:
            hops = [(column, problem.hops[unit.node][b] or 0.0) for (j, b), column in leaves.items() if j == i]
        else:
            hops = _least_hop_terms(model, problem, i, used[i], last[i])
        price.stage([*spent[i], *hops])
    price.close()
    _order_alike(model, problem, layers)
    return Counting(model, used, first, last, tuple(layers), leaves, price.scale)


def _least_hop_terms(model: LinearModel, problem: Problem, index: int, used: int, last: int) -> Terms:
    least = problem.least_hop(index)
    if least is None:  # nowhere to go on: it can only be the last
        model.row([(used, 1), (last, -1)], upper=0)
        return []
    return [(used, least), (last, -least)]


def _count_rows(model: LinearModel, unit: Unit, counts: Sequence[int], used: int) -> None:
    """Add that a used unit holds at least a layer, or exactly its pinned number."""
    total = [(column, 1.0) for column in counts]
    if unit.pin is not None:
        model.row([*total, (used, -unit.pin)], 0, 0)
    else:
        model.row([*total, (used, -1)], lower=0)


def _time(model: LinearModel, unit: Unit, kinds: Sequence[int], counts: Sequence[int], used: int, most: int) -> Terms:
    """Return the terms of the layers' time; measured times by count need a choice of the count."""
    if unit.seconds_by_count is not None:
        return _time_by_count(model, unit, [(column, 1.0) for column in counts], used, most)
    return [(column, unit.seconds[kind + 1] - unit.seconds[kind]) for column, kind in zip(counts, kinds, strict=True)]


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


def _time_by_count(model: LinearModel, unit: Unit, total: Terms, used: int, most: int) -> Terms:
    """Add a choice of the number of layers and return the terms of its measured time."""
    assert unit.seconds_by_count is not None  # the caller asks only then
    choices = [(model.binary(), count) for count in range(1, most + 1)]
    model.row([*((column, 1.0) for column, _ in choices), (used, -1)], 0, 0)
    model.row([*((column, float(count)) for column, count in choices), *((c, -v) for c, v in total)], 0, 0)
    return [(column, unit.seconds_by_count[count]) for column, count in choices]


def _hop_rows(
    model: LinearModel, problem: Problem, used: Sequence[int], first: Sequence[int], last: Sequence[int]
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
    here = node_columns(model, problem, used, [(unit.node,) for unit in units])
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


def _order_alike(model: LinearModel, problem: Problem, layer_columns: Sequence[tuple[int, ...]]) -> None:
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
