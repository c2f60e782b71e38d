"""Orders of units in which no stage and its hop take longer than a given time, for identical layers.

The slowest stage alone is a poor guide: most small changes leave it as it is. How many layers an order can
take within a time is a good one, so that number is driven up until it reaches the model's.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from shardbus_placer.greedy import Search
from shardbus_placer.problem import Problem, Unit

MOST_TRIALS = 4000
"""Orders that are weighed for one time."""
HALVINGS = 7
"""Times that are tried between the bound and the best plan."""
IMPOSSIBLE = -1_000_000
USELESS = -1_000
ROUNDING = 1e-12


def keep_pace(state: Search, floor: float, orders: Sequence[Sequence[Unit]] = ()) -> None:
    """Look for better plans than ``state.best`` at the bound ``floor`` first, then halfway to it, and so on."""
    problem = state.problem
    plain = all(unit.pin is None and unit.seconds_by_count is None for unit in problem.units)
    if state.best is None or not plain or not problem.even or problem.objective != "throughput":
        return
    low, high = floor, state.best.cost
    for halving in range(HALVINGS + 1):
        if high - low <= 1e-9 * high or state.out_of_time():
            return
        seconds = (low + high) / 2 if halving else low * (1 + 1e-10)
        pace = _Pace(problem, seconds)
        found = None
        for begin in (*orders, state.best.order):
            found = found or pace.order_from(begin, state.out_of_time)
        if found is not None:
            state.tries_left = max(state.tries_left, 1)
            state.offer(found)
        if state.best.cost <= seconds * (1 + 1e-9):
            high = min(high, state.best.cost)
        else:
            low = seconds


class _Pace:
    """How many layers each unit takes within a time, by its place in the order."""

    def __init__(self, problem: Problem, seconds: float) -> None:
        self.problem = problem
        size = problem.memory.prefix[1]

        def most(unit: Unit, hop: float | None, *, first: bool, last: bool) -> int:
            if hop is None:
                return IMPOSSIBLE
            room = unit.room_bytes - problem.memory.extra(first=first, last=last)
            left = seconds - hop - unit.head_seconds * last
            if room < 0 or left < 0:
                return USELESS
            each = unit.seconds[-1] / problem.layers
            fitting = problem.layers if size == 0 else room // size
            in_time = problem.layers if each == 0 else math.floor(left / each * (1 + ROUNDING))
            return min(fitting, in_time) or USELESS

        units, nodes = problem.units, range(len(problem.nodes))
        hops = problem.hops
        self.node = [unit.node for unit in units]
        self.inner = [[most(unit, hops[unit.node][b], first=False, last=False) for b in nodes] for unit in units]
        self.first = [[most(unit, hops[unit.node][b], first=True, last=False) for b in nodes] for unit in units]
        self.last = [most(unit, 0.0, first=False, last=True) for unit in units]
        self.trials = MOST_TRIALS

    def order_from(self, begin: Sequence[Unit], out_of_time: Callable[[], bool]) -> tuple[Unit, ...] | None:
        """Return an order that takes all layers in time, reached from ``begin`` by small changes, or ``None``."""
        index = {unit.devices: i for i, unit in enumerate(self.problem.units)}
        order = [index[unit.devices] for unit in begin]
        if len(order) < 2:  # noqa: PLR2004 - one stage has no hop; all of those were tried
            return None
        best = self._layers(order)
        improved = True
        while improved and best < self.problem.layers and self.trials > 0 and not out_of_time():
            improved = False
            for changed in self._changes(order):
                self.trials -= 1
                layers = self._layers(changed)
                if layers > best:
                    order, best, improved = changed, layers, True
                    break
                if self.trials <= 0 or (self.trials % 64 == 0 and out_of_time()):
                    break
        return tuple(self.problem.units[i] for i in order) if best >= self.problem.layers else None

    def _layers(self, order: list[int]) -> int:
        inner, node = self.inner, self.node
        total = self.first[order[0]][node[order[1]]] + self.last[order[-1]]
        before = order[1]
        for i in order[2:]:
            total += inner[before][node[i]]
            before = i
        return total

    def _changes(self, order: list[int]) -> Iterator[list[int]]:
        units, count = self.problem.units, len(order)
        held = {device for i in order for device in units[i].devices}
        for unused in (i for i in range(len(units)) if held.isdisjoint(units[i].devices)):
            for at in range(count + 1):
                yield [*order[:at], unused, *order[at:]]
            for at in range(count):
                yield [*order[:at], unused, *order[at + 1 :]]
        if count > 2:  # noqa: PLR2004 - below two stages there is nothing left to hand over
            for at in range(count):
                yield [*order[:at], *order[at + 1 :]]
        for i in range(count):
            rest = [*order[:i], *order[i + 1 :]]
            for j in range(count):
                if j != i:
                    yield [*rest[:j], order[i], *rest[j:]]
        for i in range(count):
            for j in range(i + 2, count):
                swapped = order.copy()
                swapped[i], swapped[j] = swapped[j], swapped[i]
                yield swapped
        for i in range(count - 2):
            for j in range(i + 3, count + 1):
                yield [*order[:i], *reversed(order[i:j]), *order[j:]]
