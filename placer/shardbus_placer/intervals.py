"""The interval program: a column per unit and layer range. Exact for unequal layers, any hops and any links."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from shardbus_placer.formulation import LinearModel, Price, Terms, uniform_hop
from shardbus_placer.problem import Problem, Unit

LOOKS_PER_COLUMN = 10
"""As long as it takes to add a column, so many pairs of a unit and a node are looked at."""
SLACK = 1e-7
"""Relative slack: a plan exactly as good as the limit must not fall out."""


@dataclass(frozen=True)
class Intervals:
    """An interval program, and the columns of its ranges."""

    model: LinearModel
    ranges: dict[int, tuple[int, int, int]]
    """Column to unit, start and end."""
    scale: float


def interval_program(problem: Problem, *, cutoff: float | None, floor: float, most_columns: int) -> Intervals | None:
    """Return the exact program, or ``None`` if it would have more than ``most_columns``.

    ``cutoff`` is the cost of a known plan: only plans at most as costly are kept. No plan's slowest stage is
    below ``floor``.
    """
    model = LinearModel("intervals")
    price = Price(model, problem, cutoff, floor)
    units, layers, hop = problem.units, problem.layers, uniform_hop(problem)
    longest = price.limit if problem.objective == "throughput" else float("inf")
    room_left = most_columns - (0 if hop is not None else len(units) * len(problem.nodes) * layers)
    found: list[tuple[int, int, int]] = []
    worth = Worth(problem, price.limit, floor) if problem.moves else None
    if worth is not None:
        room_left = most_columns
    for i, unit in enumerate(units):
        for start in range(layers):
            if len(found) > room_left:
                return None
            ends = _range_ends(problem, unit, start, longest, worth)
            found += [(i, start, end) for end in ends]
    if worth is not None and hop is None and len(found) + _hop_columns(problem, found) > most_columns:
        return None
    used = [model.binary() for _ in units]
    ranges: dict[int, tuple[int, int, int]] = {}
    of_unit: list[list[int]] = [[] for _ in units]
    spent: list[Terms] = [[] for _ in units]
    ending: dict[tuple[int, int], list[int]] = {}
    starting: dict[tuple[int, int], list[int]] = {}
    for i, start, end in found:
        column = model.binary()
        ranges[column] = (i, start, end)
        of_unit[i].append(column)
        ending.setdefault((i, end), []).append(column)
        starting.setdefault((units[i].node, start), []).append(column)
        seconds = units[i].stage_seconds(start, end, last=end == layers)
        spent[i].append((column, seconds + (hop or 0.0) * (end < layers)))
        if problem.moves:
            price.move([(column, units[i].moved(start, end))])
        price.reward([(column, units[i].score * (end - start))])
    for columns, one in zip(of_unit, used, strict=True):
        model.row([*((column, 1.0) for column in columns), (one, -1)], 0, 0)
    model.row([(column, 1) for (_, start), columns in starting.items() if start == 0 for column in columns], 1, 1)
    model.row([(column, 1) for (_, end), columns in ending.items() if end == layers for column in columns], 1, 1)
    for bound in range(1, layers):
        if hop is not None:
            _join(model, problem, bound, ending, starting)
        else:
            _hop(model, problem, bound, ending, starting, spent)
    for terms in spent:
        price.stage(terms)
    price.close()
    _condition_rows(model, problem, used)
    return Intervals(model, ranges, price.scale)


Columns = dict[tuple[int, int], list[int]]


def _join(model: LinearModel, problem: Problem, bound: int, ending: Columns, starting: Columns) -> None:
    """Add that as many ranges start at a bound as end there."""
    ends = [(column, 1.0) for i in range(len(problem.units)) for column in ending.get((i, bound), [])]
    starts = [(column, -1.0) for node in range(len(problem.nodes)) for column in starting.get((node, bound), [])]
    model.row([*ends, *starts], 0, 0)


def _hop(
    model: LinearModel, problem: Problem, bound: int, ending: Columns, starting: Columns, spent: list[Terms]
) -> None:
    """Add the hops at a bound: from the unit whose range ends there to the node where the next one starts."""
    nodes = range(len(problem.nodes))
    into: list[Terms] = [[] for _ in nodes]
    for i, unit in enumerate(problem.units):
        if (i, bound) not in ending:
            continue
        out: Terms = []
        for node in nodes:
            seconds = problem.hops[unit.node][node]
            if seconds is None or (node, bound) not in starting:
                continue
            column = model.column(0, 1, integer=False)
            out.append((column, -1.0))
            into[node].append((column, 1.0))
            spent[i].append((column, seconds))
        model.row([*((column, 1.0) for column in ending[i, bound]), *out], 0, 0)
    for node in nodes:
        model.row([*into[node], *((column, -1.0) for column in starting.get((node, bound), []))], 0, 0)


def _hop_columns(problem: Problem, found: Sequence[tuple[int, int, int]]) -> int:
    """Return how many columns ``_hop`` adds at most for these ranges, and what it takes to look for them."""
    ending = {(i, end) for i, _, end in found}
    starting = {(problem.units[i].node, start) for i, start, _ in found}
    nodes = Counter(start for _, start in starting)
    looked_at = len(ending) * len(problem.nodes) + problem.layers * len(problem.units)
    return sum(nodes[end] for _, end in ending) + looked_at // LOOKS_PER_COLUMN


class Worth:
    """Which ranges may be in a plan that costs no more than a limit, where moving has a price.

    A range's price, with every layer outside of it where that costs the least, is below that of every plan with it.
    """

    def __init__(self, problem: Problem, limit: float, floor: float) -> None:
        """``floor``: seconds that no plan's slowest stage is below."""
        self.problem, self.limit, self.floor = problem, limit * (1 + SLACK), floor
        self.latency = problem.objective == "latency"
        least = problem.least_by_layer if self.latency else problem.least_moved_by_layer
        self.least = tuple(accumulate(least, initial=0.0))
        self.ends = problem.least_moved_ends
        self.hop = min((seconds for seconds in problem.least_hops if seconds is not None), default=0.0)

    def ends_after(self, unit: Unit, start: int, ends: Iterable[int]) -> Iterator[int]:
        """Yield those of ``ends`` with which the range may be in such a plan."""
        least, layers = self.least, self.problem.layers
        running = unit.running if self.latency or unit.moving is None else unit.moving.layers
        for end in ends:
            cost = least[-1] + running[end] - running[start] - (least[end] - least[start])
            if cost > self.limit:  # longer ranges cost no less
                return
            seconds = unit.stage_seconds(start, end, last=end == layers)
            if self.latency:
                cost += self.hop * ((start > 0) + (end < layers))
                if unit.seconds_by_count is not None:
                    cost += seconds
            else:
                cost += self.ends + max(self.floor, seconds)
            if cost <= self.limit:
                yield end
            elif not self.latency and unit.seconds_by_count is None:
                return  # nor do they take less time


def _range_ends(problem: Problem, unit: Unit, start: int, most_seconds: float, worth: Worth | None = None) -> list[int]:
    memory, layers = problem.memory, problem.layers
    ends = (
        range(start + 1, layers + 1) if unit.pin is None else range(start + unit.pin, min(start + unit.pin, layers) + 1)
    )
    found: list[int] = []
    for end in ends if worth is None else worth.ends_after(unit, start, ends):
        if memory.prefix[end] - memory.prefix[start] > unit.room_bytes:
            break
        fits = memory.stage(start, end) <= unit.room_bytes
        if fits and unit.stage_seconds(start, end, last=end == layers) <= most_seconds:
            found.append(end)
    return found


def _condition_rows(model: LinearModel, problem: Problem, used: Sequence[int]) -> None:
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


def _node_columns(model: LinearModel, problem: Problem, used: Sequence[int]) -> list[int]:
    """Add a column per node that says whether any of its units is used."""
    columns: list[int] = []
    for node in range(len(problem.nodes)):
        here = model.binary()
        inside = [column for column, unit in zip(used, problem.units, strict=True) if node in unit.nodes]
        for column in inside:
            model.row([(column, 1), (here, -1)], upper=0)
        model.row([(here, 1), *((column, -1.0) for column in inside)], upper=0)
        columns.append(here)
    return columns
