"""The counting program: how many units of each kind are used, how many layers they hold, and which hops are taken.

For ``latency`` and ``score``, which add up. With equal layers and all hops it is exact: any order of the stages gives
ranges. With unequal layers, or where only the least hop of a unit is counted, it is a relaxation.
"""

from collections.abc import Sequence

from shardbus_placer.conditions import condition_rows
from shardbus_placer.formulation import LinearModel, Price, Terms
from shardbus_placer.kinds import UnitKind, kinds_of
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.walk import Walk

MOST_KINDS = 6
"""Up to so many kinds of layers are counted in whole numbers; beyond, fractions of them relax the program."""
LOOSER = 1e-9
"""Relative slack on a row of a relaxation, so that rounding can never cut off a real plan."""


class Counting:
    """A counting program, and which of its columns mean what."""

    def __init__(self, problem: Problem, cutoff: float | None, *, with_hops: bool) -> None:
        """Build the program.

        ``with_hops`` models every hop between nodes; without, each stage but the last pays its unit's least hop.
        ``cutoff`` is the cost of a known plan: only plans at most as costly are kept.
        A plan of one stage may be missing where head and embedding are one tensor; those are tried one by one.
        """
        self.problem, self.kinds = problem, kinds_of(problem)
        self.model = model = LinearModel("counting")
        self.price = Price(model, problem, cutoff, 0.0)
        kinds = self.kinds.units
        self._most = [kind.on_node * self.kinds.nodes[kind.place].count for kind in kinds]
        self.used = [model.column(0, most, integer=True) for most in self._most]
        self.first = [model.binary() for _ in kinds]
        self.last = [model.binary() for _ in kinds]
        self.layers: list[tuple[int, ...]] = []
        for k, kind in enumerate(kinds):
            self._unit_rows(k, kind)
        for number, count in enumerate(problem.layer_kinds[1]):
            model.row([(columns[number], 1) for columns in self.layers], count, count)
        self.walk: Walk | None = None
        if with_hops:
            begins, ends = self._by_place(self.first), self._by_place(self.last)
            self.walk = Walk(model, problem, self.kinds, self.used, begins, ends)
            for (a, b), column in self.walk.between.items():
                self.price.stage([(column, self.kinds.hop(problem, a, b) or 0.0)])
            for a, column in self.walk.inside.items():
                self.price.stage([(column, self.kinds.nodes[a].inner_hop or 0.0)])
        else:
            self._least_hops()
        condition_rows(model, problem, self.kinds, self.used)
        self.price.close()

    @property
    def scale(self) -> float:
        """Multiplies the program's objective to give seconds (or score)."""
        return self.price.scale

    def _by_place(self, columns: Sequence[int]) -> list[Terms]:
        return [[(columns[k], 1.0) for k in node.kinds] for node in self.kinds.nodes]

    def _unit_rows(self, k: int, kind: UnitKind) -> None:
        """Add the layers of one kind of unit: at least one each, no more than fit, and what they cost."""
        model, problem, unit = self.model, self.problem, kind.unit
        most = problem.most_layers(unit)
        representatives, of_kind = problem.layer_kinds
        whole = len(representatives) <= MOST_KINDS
        counts = tuple(model.column(0, min(most * self._most[k], count), integer=whole) for count in of_kind)
        self.layers.append(counts)
        used, first, last = self.used[k], self.first[k], self.last[k]
        total = [(column, 1.0) for column in counts]
        if unit.pin is not None:
            model.row([*total, (used, -unit.pin)], 0, 0)
        else:
            model.row([*total, (used, -1)], lower=0)
        model.row([(first, 1), (used, -1)], upper=0)
        model.row([(last, 1), (used, -1)], upper=0)
        self._memory_rows(unit, representatives, counts, most, (used, first, last))
        running, alone = unit.running, unit.seconds_by_count is None or unit.moving is not None
        seconds = [
            (column, running[layer + 1] - running[layer])
            for column, layer in zip(counts, representatives, strict=True)
            if alone
        ]
        if unit.seconds_by_count is not None:
            seconds += self._seconds_by_count(k, unit, total, most)
        self.price.stage([*seconds, (last, unit.head_seconds)])
        if unit.moving is not None:
            self.price.move([(first, unit.moving.first), (last, unit.moving.last)])
        self.price.reward([(column, unit.score) for column in counts])

    def _memory_rows(
        self,
        unit: Unit,
        representatives: tuple[int, ...],
        counts: tuple[int, ...],
        most: int,
        flags: tuple[int, int, int],
    ) -> None:
        """Add that the units hold no more than they have room for; in whole layers where all are of one kind."""
        used, first, last = flags
        model, problem, memory = self.model, self.problem, self.problem.memory
        total = [(column, 1.0) for column in counts]
        # Layers that differ in what it takes to fetch them may all the same be of one size.
        if len(representatives) == 1 or (problem.moves and memory.even):
            size = memory.prefix[1]

            def fewer(extra: int) -> int:
                left = unit.room_bytes - extra
                fit = most if left >= 0 and size == 0 else left // size if left >= 0 else 0
                return most - min(most, fit)

            row = [*total, (used, -most), (first, fewer(memory.embedding)), (last, fewer(memory.head))]
            model.row(row, upper=0)
            return
        model.row([*total, (used, -most)], upper=0)
        sizes = [memory.prefix[layer + 1] - memory.prefix[layer] for layer in representatives]
        largest = max(sizes) or 1
        held = [(column, size / largest) for column, size in zip(counts, sizes, strict=True)]
        ends = [(first, memory.embedding / largest), (last, memory.head / largest)]
        model.row([*held, *ends, (used, -unit.room_bytes / largest * (1 + LOOSER))], upper=0)

    def _seconds_by_count(self, k: int, unit: Unit, total: Terms, most: int) -> Terms:
        """Add how many of the units hold how many layers and return the terms of their measured times."""
        assert unit.seconds_by_count is not None  # the caller asks only then
        choices = [(self.model.column(0, self._most[k], integer=True), count) for count in range(1, most + 1)]
        self.model.row([*((column, 1.0) for column, _ in choices), (self.used[k], -1)], 0, 0)
        self.model.row([*((column, float(count)) for column, count in choices), *((c, -v) for c, v in total)], 0, 0)
        return [(column, unit.seconds_by_count[count]) for column, count in choices]

    def _least_hops(self) -> None:
        """Add one beginning and one end, that each stage but the last pays a hop, and what devices are shared."""
        model, problem = self.model, self.problem
        model.row([(column, 1) for column in self.first], 1, 1)
        model.row([(column, 1) for column in self.last], 1, 1)
        for k, kind in enumerate(self.kinds.units):
            least = problem.least_hops[kind.unit.node]
            if least is None:  # nowhere to go on: it can only be the last
                model.row([(self.used[k], 1), (self.last[k], -1)], upper=0)
            else:
                self.price.stage([(self.used[k], least), (self.last[k], -least)])
        for node in self.kinds.nodes:
            for sizes, limit in node.shared:
                model.row([(self.used[k], float(size)) for k, size in sizes.items()], upper=limit * node.count)
