"""The way through the fleet as columns and rows: how often a plan goes from one kind of node to another.

Order matters between nodes, not between the devices of one: a plan is a walk over nodes that enters and leaves each
as often as the other, and of which every used node is part. Counting the steps of such a walk, from each kind of node
to each other, says all about its hops; the walk itself is read off afterwards (``itinerary.py``). That all is one walk
and not several rings takes a row for every set of nodes: those that a solution breaks are added when it does.
"""

from collections.abc import Iterable, Sequence

from shardbus_placer.formulation import LinearModel, Terms
from shardbus_placer.kinds import Kinds
from shardbus_placer.maximum_flow import Network
from shardbus_placer.problem import Problem

ENOUGH = 1e-6
"""Less than this much of a step, or of a unit, is none."""
STEPS_PER_SECOND = 40_000
"""How many steps between kinds of nodes a program may have for the time that is left, once there is a plan."""
MOST_ROUNDS = 40
"""How often the rows of connection are added to for one question."""


class Walk:
    """The columns of a walk: steps between kinds of nodes and inside them, where it begins, and where it ends."""

    def __init__(
        self,
        model: LinearModel,
        problem: Problem,
        kinds: Kinds,
        used: Sequence[int],
        first: Sequence[Terms] | None = None,
        last: Sequence[Terms] | None = None,
        longest: Sequence[float] | None = None,
    ) -> None:
        """Add the columns and rows to ``model``.

        ``used`` are the columns that count the used units of each kind. ``first`` and ``last`` are terms that say
        whether the walk begins or ends in a kind of node, if the model has columns for that already. Hops of more than
        ``longest`` seconds are left out, if given for each kind of node.
        """
        self.model, self.kinds, self.used = model, kinds, used
        places = range(len(kinds.nodes))
        self.first: list[Terms] = [[(model.binary(), 1.0)] for _ in places] if first is None else list(first)
        self.last: list[Terms] = [[(model.binary(), 1.0)] for _ in places] if last is None else list(last)
        self.between: dict[tuple[int, int], int] = {}
        self.inside: dict[int, int] = {}
        self._cuts: set[tuple[frozenset[int], int]] = set()
        for a in places:
            stages = kinds.nodes[a].count * kinds.nodes[a].stages
            for b in places:
                hop = kinds.hop(problem, a, b)
                if hop is not None and (longest is None or hop <= longest[a]) and (a != b or kinds.nodes[a].count > 1):
                    most = min(stages, kinds.nodes[b].count * kinds.nodes[b].stages)
                    self.between[a, b] = model.column(0, most, integer=True)
            if kinds.nodes[a].stages > 1 and kinds.nodes[a].inner_hop is not None:
                self.inside[a] = model.column(0, stages - kinds.nodes[a].count, integer=True)
        self._into: list[list[tuple[int, int]]] = [[] for _ in places]
        self._out: list[list[int]] = [[] for _ in places]
        for (a, b), column in self.between.items():
            self._into[b].append((a, column))
            self._out[a].append(column)
        for a in places:
            self._balance(a)
        model.row([term for terms in self.first for term in terms], 1, 1)
        model.row([term for terms in self.last for term in terms], 1, 1)
        for a in places:
            if a in self.inside or kinds.nodes[a].count > 1:
                for kind in kinds.nodes[a].kinds:
                    self._connect(frozenset([a]), kind)

    def _balance(self, a: int) -> None:
        """Add that what enters a kind of node leaves it, and that its used nodes have the devices for its units."""
        model, node = self.model, self.kinds.nodes[a]
        units = [(self.used[kind], -1.0) for kind in node.kinds]
        inside = [(self.inside[a], 1.0)] if a in self.inside else []
        leaving = [(column, 1.0) for column in self._out[a]]
        entering = self._entering([a], own=True)
        model.row([*leaving, *inside, *self.last[a], *units], 0, 0)
        model.row([*entering, *inside, *units], 0, 0)
        if node.count == 1:
            for sizes, limit in node.shared:
                model.row([(self.used[kind], float(size)) for kind, size in sizes.items()], upper=limit)
            return
        here = model.column(0, node.count, integer=True)
        model.row([(here, 1.0), *((column, -value) for column, value in entering)], upper=0)
        for kind in node.kinds:
            model.row([(self.used[kind], 1.0), (here, -float(self.kinds.units[kind].on_node))], upper=0)
        for sizes, limit in node.shared:
            model.row(
                [*((self.used[kind], float(size)) for kind, size in sizes.items()), (here, -float(limit))], upper=0
            )

    def _entering(self, places: Iterable[int], *, own: bool = False) -> Terms:
        """Return the terms of all that enters a set of node kinds from outside, the beginning of the walk included.

        ``own`` counts steps between two nodes of one kind as well.
        """
        inside = frozenset(places)
        terms: Terms = [
            (column, 1.0) for b in inside for x, column in self._into[b] if x not in inside or (own and x == b)
        ]
        return [*terms, *(term for a in inside for term in self.first[a])]

    def _connect(self, places: frozenset[int], kind: int) -> None:
        """Add that units of a kind within a set of node kinds are used only if the walk enters the set."""
        if (places, kind) in self._cuts:
            return
        self._cuts.add((places, kind))
        node = self.kinds.nodes[self.kinds.units[kind].place]
        most = float(self.kinds.units[kind].on_node * node.count)
        entering = self._entering(places)
        self.model.row([(self.used[kind], 1.0), *((column, -most * value) for column, value in entering)], upper=0)

    def sharpen(self, values: Sequence[float]) -> bool:
        """Add the rows of connection that a solution breaks, and return whether there were any."""
        before = len(self._cuts)
        for places in self._apart(values):
            entered = sum(values[column] * value for column, value in self._entering(places))
            for a in places:
                node = self.kinds.nodes[a]
                for kind in node.kinds:
                    most = self.kinds.units[kind].on_node * node.count
                    if values[self.used[kind]] > most * entered + ENOUGH:
                        self._connect(places, kind)
        return len(self._cuts) > before

    def _apart(self, values: Sequence[float]) -> list[frozenset[int]]:
        """Return sets of node kinds that the walk reaches less often than their units ask for."""
        places = [
            a for a, node in enumerate(self.kinds.nodes) if any(values[self.used[k]] > ENOUGH for k in node.kinds)
        ]
        steps = {
            (a, b): values[column] for (a, b), column in self.between.items() if a != b and values[column] > ENOUGH
        }
        source = {a: sum(values[column] * value for column, value in self.first[a]) for a in places}
        found = [part for part in _components(places, steps) if sum(source.get(a, 0.0) for a in part) <= ENOUGH]
        if found:
            return found
        begin, end = len(self.kinds.nodes), len(self.kinds.nodes) + 1
        for a in places:
            if any(a in part for part in found):
                continue
            node = self.kinds.nodes[a]
            wanted = max(values[self.used[k]] / (self.kinds.units[k].on_node * node.count) for k in node.kinds)
            network = Network(end + 1)
            for b, amount in source.items():
                network.edge(begin, b, amount)
            for (b, c), amount in steps.items():
                network.edge(b, c, amount)
            network.edge(a, end, wanted)
            if network.maximise(begin, end, ENOUGH) < wanted - ENOUGH:
                behind = {b for pair in steps for b in pair} | source.keys()
                found.append(frozenset(behind - network.reached(begin, ENOUGH)) | {a})
        return found


def _components(places: Sequence[int], steps: dict[tuple[int, int], float]) -> list[frozenset[int]]:
    parent = {a: a for a in places}

    def root(a: int) -> int:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    for a, b in steps:
        if a in parent and b in parent:
            parent[root(a)] = root(b)
    groups: dict[int, set[int]] = {}
    for a in places:
        groups.setdefault(root(a), set()).add(a)
    return [frozenset(group) for group in groups.values()]
