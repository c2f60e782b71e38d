"""A plan by rule of thumb: fastest first, roomiest first, nodes together; then small improvements until none helps.

It knows capacities: every order it tries is cut exactly, so what it returns fits. It proves nothing. The number
of tries is bounded, not the time, so that equal problems give equal plans on any machine.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.cut import Cut, best_cut
from shardbus_placer.problem import Problem, Unit

AT_LEAST = 40
"""Orders that are tried however late it is, unless the search says otherwise: some answer is better than none."""
EVERY_LENGTH_UP_TO = 8
"""Of longer chains not every length is tried."""
FEW = 32
"""For more units than this only the rankings by speed are tried."""
SAME = 1e-9
"""Relative difference below which two objectives are equal."""


@dataclass
class Search:
    """The best plan found so far, and how many tries are left."""

    problem: Problem
    tries_left: int
    out_of_time: Callable[[], bool]
    best: Cut | None = None
    ungrouped: "tuple[Search, float] | None" = None
    """The search among plans without tensor groups and a cost that none of them is below, where it was made apart."""
    at_least: int = AT_LEAST
    """Orders that are tried however late it is."""
    tried: set[tuple[tuple[str, ...], ...]] = field(default_factory=set)

    def offer(self, order: Sequence[Unit]) -> bool:
        """Cut this order and keep it if it is better; return whether it was."""
        names = tuple(unit.devices for unit in order)
        if names in self.tried or self.exhausted or not self.problem.admits(order):
            return False
        self.tried.add(names)
        self.tries_left -= 1
        below = math.inf
        if self.best is not None:
            # An equally good plan is welcome if it is smaller: ask for it with a little slack.
            smaller = _size(order) < _size(self.best.order)
            below = self.best.cost + (SAME if smaller else -SAME) * abs(self.best.cost)
        found = best_cut(self.problem, order, below, fine=False)
        if found is None:
            return False
        self.best = found
        return True

    def take(self, order: Sequence[Unit]) -> bool:
        """Cut this order whatever the limits of the search, keep it if it is better, and return whether it was."""
        found = best_cut(self.problem, order) if self.problem.admits(order) else None
        if found is None or (self.best is not None and found.cost >= self.best.cost):
            return False
        self.best = found
        return True

    def polish(self) -> None:
        """Cut the best order finely: the search itself compares orders coarsely."""
        if self.best is not None:
            self.best = best_cut(self.problem, self.best.order) or self.best

    @property
    def exhausted(self) -> bool:
        """Whether no more may be tried."""
        return self.tries_left <= 0 or (len(self.tried) >= self.at_least and self.out_of_time())


def improve(state: Search) -> None:
    """Improve the best plan by small changes until none helps or nothing more may be tried."""
    improved = state.best is not None
    while improved and not state.exhausted:
        assert state.best is not None  # only set, never unset
        orders = takewhile(lambda _: not state.exhausted, _neighbours(state.problem, state.best.order))
        improved = any(state.offer(order) for order in orders)


def starts(problem: Problem) -> Iterator[Sequence[Unit]]:
    """Yield every single unit, and every prefix of a chain along each ranking of the units."""
    units = problem.units
    yield from ((unit,) for unit in units)

    def speed(unit: Unit) -> float:
        return unit.seconds[-1] / problem.layers if unit.seconds_by_count is None else unit.seconds_by_count[1]

    by_node: dict[int, float] = {}
    for unit in units:
        by_node[unit.node] = min(by_node.get(unit.node, math.inf), speed(unit))
    rankings: list[Callable[[Unit], tuple[float, ...]]] = [
        lambda unit: (speed(unit), -unit.room_bytes),
        lambda unit: (-unit.room_bytes, speed(unit)),
        lambda unit: (by_node[unit.node], unit.node, speed(unit)),
        lambda unit: (speed(unit) / unit.room_bytes if unit.room_bytes else math.inf,),
        lambda unit: (-unit.score,),
    ]
    for ranking in rankings if len(units) <= FEW else rankings[:1] + rankings[2:3]:
        chain = _chain(problem, sorted(units, key=ranking))
        for length in _lengths(2, len(chain)):
            yield chain[:length]
    # The smallest that hold the model: for requests with few nodes, or many that are needed.
    pinned = [unit for unit in units if not problem.pins.keys().isdisjoint(unit.devices)]
    if pinned:
        others = [unit for unit in units if unit not in pinned]
        chain = _chain(problem, pinned + sorted(others, key=rankings[0]))
        for length in _lengths(len(pinned), len(chain)):
            yield chain[:length]


def _lengths(least: int, most: int) -> Iterator[int]:
    """Yield lengths from the least to the most, at larger steps as they grow."""
    length = least
    while length < most:
        yield length
        length += max(1, length // EVERY_LENGTH_UP_TO)
    if most >= least:
        yield most


def _chain(problem: Problem, ranked: Sequence[Unit]) -> list[Unit]:
    """Return the units in order of rank, each put at the end or the start where a link allows it."""
    chain: list[Unit] = []
    taken: set[DeviceKey] = set()
    waiting = list(ranked)
    while waiting:
        for index, unit in enumerate(waiting):
            if joins(problem, chain, taken, unit):
                del waiting[index]
                break
        else:
            break
    return chain


def joins(problem: Problem, chain: list[Unit], taken: set[DeviceKey], unit: Unit) -> bool:
    """Put a unit at the end or the start of a chain, where a link allows it, and return whether one did."""
    if not taken.isdisjoint(unit.devices):
        return False
    if not chain or problem.hops[chain[-1].node][unit.node] is not None:
        chain.append(unit)
    elif problem.hops[unit.node][chain[0].node] is not None:
        chain.insert(0, unit)
    else:
        return False
    taken.update(unit.devices)
    return True


def _neighbours(problem: Problem, order: tuple[Unit, ...]) -> Iterator[tuple[Unit, ...]]:
    """Yield what is one removal, addition, replacement, exchange, move or reversal away."""
    count = len(order)
    unused = [unit for unit in problem.units if unit not in order]
    for i in range(count):
        yield order[:i] + order[i + 1 :]
    for unit in unused:
        overlapping = [other for other in order if not set(other.devices).isdisjoint(unit.devices)]
        rest = tuple(other for other in order if other not in overlapping)
        for i in range(len(rest) + 1):
            yield (*rest[:i], unit, *rest[i:])
        if not overlapping:
            for i in range(count):
                yield (*order[:i], unit, *order[i + 1 :])
    for i in range(count):
        for j in range(i + 1, count):
            swapped = list(order)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            yield tuple(swapped)
    for i in range(count):
        for j in range(count):
            if abs(i - j) > 1:
                moved = list(order)
                moved.insert(j, moved.pop(i))
                yield tuple(moved)
    for i in range(count - 2):
        for j in range(i + 3, count + 1):
            yield order[:i] + order[i:j][::-1] + order[j:]


def _size(order: Sequence[Unit]) -> tuple[int, int]:
    return (sum(len(unit.devices) for unit in order), len(order))
