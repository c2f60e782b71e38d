"""Ways through the fleet that keep to its quick links: a good order for the slowest stage before any solver is asked.

For one time after the other, nodes are joined by the quickest links first, as long as what leaves by them is still in
time. How many layers such a trail holds within the time says whether the time can be met; each that can is cut exactly.
"""

from collections.abc import Callable, Sequence

from shardbus_placer.greedy import Search
from shardbus_placer.problem import Problem, Unit

HALVINGS = 4
"""Times that are tried between what counting allows and the best plan."""
CLOSE = 1e-9


def follow_trails(state: Search, floor: float, out_of_time: Callable[[], bool]) -> None:
    """Look for plans better than ``state.best``, at the time ``floor`` first, then halfway to the best, and so on."""
    if state.best is None or state.problem.objective != "throughput" or not state.problem.even:
        return
    trails = _Trails(state.problem)
    low, high = floor, state.best.cost
    for halving in range(HALVINGS):
        if high - low <= 1e-3 * high or out_of_time():
            return
        seconds = (low + high) / 2 if halving else low * (1 + CLOSE)
        order = trails.at(seconds)
        if order is not None:
            state.take(order)
        high = min(high, state.best.cost)
        if state.best.cost > seconds * (1 + CLOSE):
            low = seconds


class _Trails:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.inside: list[list[Unit]] = [[] for _ in problem.nodes]
        taken: set[str] = set()
        # Of tensor groups only those that are quicker than their devices one by one would be: single devices first.
        for unit in sorted(problem.units, key=lambda unit: (len(unit.devices), unit.devices)):
            if taken.isdisjoint(unit.devices):
                taken.update(unit.devices)
                self.inside[unit.node].append(unit)
        nodes = [node for node, units in enumerate(self.inside) if units]
        self.links = sorted(
            (seconds, a, b) for a in nodes for b in nodes if a != b and (seconds := problem.hops[a][b]) is not None
        )
        size = problem.memory.prefix[1]
        self.most = {unit.devices: problem.layers if size == 0 else unit.room_bytes // size for unit in problem.units}

    def _takes(self, unit: Unit, seconds: float) -> int:
        if seconds < 0:
            return 0
        if unit.seconds_by_count is not None:
            most = min(self.most[unit.devices], self.problem.layers)
            return max((n for n in range(most + 1) if unit.seconds_by_count[n] <= seconds), default=0)
        each = unit.seconds[-1] / self.problem.layers
        most = self.most[unit.devices]
        return most if each == 0 else min(most, int(seconds / each * (1 + CLOSE)))

    def at(self, seconds: float) -> list[Unit] | None:
        """Return units in an order that may hold all layers within ``seconds``, or ``None``."""
        hops = self.problem.hops
        useful: dict[int, list[Unit]] = {}
        for node, units in enumerate(self.inside):
            inner = hops[node][node] or 0.0
            some = [unit for unit in units if self._takes(unit, seconds - inner) > 0]
            if some:
                useful[node] = some
        after: dict[int, int] = {}
        before: dict[int, int] = {}
        end = {node: node for node in useful}
        """The other end of the trail that a node begins or ends."""
        for hop, a, b in self.links:
            if a in after or b in before or a not in useful or b not in useful or end[a] == b:
                continue
            if max(self._takes(unit, seconds - hop) for unit in useful[a]) == 0:
                continue
            after[a], before[b] = b, a
            begin, finish = end[a], end[b]
            end[begin], end[finish] = finish, begin
        trails = [_walk(node, after) for node in useful if node not in before]
        best = max(trails, key=lambda trail: self._layers(trail, useful, seconds), default=None)
        if best is None or self._layers(best, useful, seconds) < self.problem.layers:
            return None
        return self._order(best, useful, seconds)

    def _layers(self, trail: Sequence[int], useful: dict[int, list[Unit]], seconds: float) -> int:
        total = 0
        for position, node in enumerate(trail):
            inner = self.problem.hops[node][node] or 0.0
            takes = [self._takes(unit, seconds - inner) for unit in useful[node]]
            hop = self.problem.hops[node][trail[position + 1]] or 0.0 if position + 1 < len(trail) else 0.0
            leaving = [self._takes(unit, seconds - hop) for unit in useful[node]]
            total += sum(takes) - min(here - there for here, there in zip(takes, leaving, strict=True))
        return total

    def _order(self, trail: Sequence[int], useful: dict[int, list[Unit]], seconds: float) -> list[Unit]:
        order: list[Unit] = []
        for position, node in enumerate(trail):
            inner = self.problem.hops[node][node] or 0.0
            hop = self.problem.hops[node][trail[position + 1]] or 0.0 if position + 1 < len(trail) else 0.0

            def loss(unit: Unit, inner: float = inner, hop: float = hop) -> int:
                return self._takes(unit, seconds - inner) - self._takes(unit, seconds - hop)

            units = useful[node]
            leaver = min(units, key=lambda unit: (loss(unit), unit.devices))
            order += [unit for unit in units if unit is not leaver]
            order.append(leaver)
        return order


def _walk(node: int, after: dict[int, int]) -> list[int]:
    trail = [node]
    while trail[-1] in after:
        trail.append(after[trail[-1]])
    return trail
