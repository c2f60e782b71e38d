"""Whether a changed request fits: by the first order that holds all layers, or else by all that the planner can."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest, Refusal

from shardbus_placer.bisection import climb, descend, highest, lowest
from shardbus_placer.candidates import Survey, survey
from shardbus_placer.capacity import layer_memory
from shardbus_placer.counted import kinds_of, may_be_enough
from shardbus_placer.cut import any_cut
from shardbus_placer.feasibility import feasible
from shardbus_placer.greedy import joins
from shardbus_placer.links import Links, links_of
from shardbus_placer.plea import Plea
from shardbus_placer.problem import Problem, Unit, formulate
from shardbus_placer.score import Score

SecondsLeft = Callable[[], float]
Contradiction = Callable[[Fleet, ModelProfile, PlacementRequest, Survey, Problem], Refusal | None]
"""What tells that a request is refused before any search, such as ``refusal.at_sight``."""
TRIES = 120
"""Orders that are tried before a solver is asked."""
MORE_STAGES = 3
"""So many stages more than counting needs are tried along each ranking."""


class Trial:
    """Changed requests that are tried one after the other, each within the time that is left."""

    def __init__(self, contradicts: Contradiction, seconds_left: SecondsLeft) -> None:
        self._contradicts = contradicts
        self.seconds_left = seconds_left
        self._longest = 0.0
        self._links: tuple[object, Links] | None = None

    def within(self, seconds_left: SecondsLeft) -> "Trial":
        """Return the same with less time."""
        other = Trial(self._contradicts, seconds_left)
        other._longest, other._links = self._longest, self._links
        return other

    def holds(self, plea: Plea) -> bool:
        """Return whether an order of the roomiest devices holds the model; a no is no proof."""
        problem = self._problem(plea)
        return problem is not None and any(
            problem.admits(order) and any_cut(problem, order) is not None for order in _roomy(problem)
        )

    def fits(self, plea: Plea) -> bool:
        """Return whether any plan is found; no single question may take more than half the time left."""
        if self.holds(plea):
            return True
        problem = self._problem(plea, every_unit=True)
        if problem is None:
            return False
        ends = self.seconds_left() / 2
        return bool(feasible(problem, lambda: self.seconds_left() - ends, tries=TRIES))

    def largest(self, plea_with: Callable[[int], Plea], low: int, high: int, step: int = 1) -> int | None:
        """Return the largest multiple of ``step`` (or ``low``) below ``high`` that fits, ``None`` if none does.

        What holds is looked for from the top, so that little time finds something near; then a plan just above it.
        """
        held = highest(lambda value: self.holds(plea_with(value)), low, high, step)
        if held is None:
            held = low if self.fits(plea_with(low)) else None
        return None if held is None else climb(lambda value: self.fits(plea_with(value)), held, high, step)

    def smallest(self, plea_with: Callable[[int], Plea], low: int, high: int, within: int = 1) -> int | None:
        """Return the smallest number above ``low``, up to ``high``, that fits, to ``within``; ``None`` if none does."""
        held = lowest(lambda value: self.holds(plea_with(value)), low, high, within)
        if held is None:
            held = high if self.fits(plea_with(high)) else None
        return None if held is None else descend(lambda value: self.fits(plea_with(value)), low, held, within)

    def _problem(self, plea: Plea, *, every_unit: bool = False) -> Problem | None:
        """Return the problem, with single devices only if that will do; ``None`` if it is none, or for lack of time."""
        began = self.seconds_left()
        if began <= self._longest:
            return None
        try:
            return self._formulated(plea, every_unit=every_unit)
        finally:
            self._longest = max(self._longest, began - self.seconds_left())

    def _formulated(self, plea: Plea, *, every_unit: bool) -> Problem | None:
        model, request = plea.model, plea.request
        surveyed = survey(plea.fleet, model, request, plea.policy)
        rooms = {candidate.key: candidate.room_bytes for candidate in surveyed.candidates}
        kinds = kinds_of({candidate.key: candidate.device for candidate in surveyed.candidates}, model, request)
        if not rooms or not may_be_enough(layer_memory(model, request), rooms, request, kinds):
            return None
        if request.sharding == "auto" and not every_unit:
            request = request.model_copy(update={"sharding": "pipeline"})
        unscored: Mapping[DeviceKey, Score] = {key: Score(0.0, {}) for key in rooms}
        problem = formulate(surveyed, self._links_of(plea), model, request, unscored)
        if self._contradicts(plea.fleet, model, request, surveyed, problem) is not None:
            return None
        return replace(problem, objective="latency")

    def _links_of(self, plea: Plea) -> Links:
        fleet = plea.fleet
        nodes = tuple((node.node_id, node.device_link) for node in fleet.nodes)
        known = (fleet.links, fleet.default_link, nodes)
        if self._links is None or self._links[0] != known:
            self._links = (known, links_of(fleet, plea.policy))
        return self._links[1]


def _roomy(problem: Problem) -> Iterator[Sequence[Unit]]:
    """Yield chains of roomy units, from as few as can hold all layers: all by room, and node by node."""
    by_node: dict[int, int] = {}
    for unit in problem.units:
        by_node[unit.node] = by_node.get(unit.node, 0) + unit.room_bytes
    pinned = {unit.devices for unit in problem.units if not problem.pins.keys().isdisjoint(unit.devices)}
    needed = problem.memory.prefix[-1]
    for ranked in (
        sorted(problem.units, key=lambda unit: (unit.devices not in pinned, -unit.room_bytes)),
        sorted(
            problem.units,
            key=lambda unit: (unit.devices not in pinned, -by_node[unit.node], unit.node, -unit.room_bytes),
        ),
    ):
        chain = _joined(problem, ranked)
        together, shortest = 0, len(chain)
        for count, unit in enumerate(chain, 1):
            together += unit.room_bytes
            if together >= needed:
                shortest = count
                break
        least = max(shortest, problem.min_nodes, len(pinned))
        for count in (*range(least, min(least + MORE_STAGES, len(chain)) + 1), len(chain)):
            # The roomiest come first: the embedding is there; the last takes the head, so it may be the roomiest too.
            yield chain[:count]
            yield [*chain[1:count], chain[0]]


def _joined(problem: Problem, ranked: Sequence[Unit]) -> list[Unit]:
    """Return the units in order of rank, each put at the end or the start where a link allows it, else left out."""
    chain: list[Unit] = []
    taken: set[DeviceKey] = set()
    for unit in ranked:
        joins(problem, chain, taken, unit)
    return chain
