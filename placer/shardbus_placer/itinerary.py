"""Reading a pipeline off a solution that only counts: how many units of each kind, and how often it goes where."""

from collections.abc import Sequence

from shardbus_placer.kinds import Kinds, NodeKind
from shardbus_placer.pace_program import BETWEEN, INSIDE, LAST, Way
from shardbus_placer.problem import Unit
from shardbus_placer.walk import Walk


def order_of(
    walk: Walk,
    values: Sequence[float],
    loss: dict[tuple[int, Way], int] | None = None,
    chosen: dict[tuple[int, Way], int] | None = None,
) -> list[Unit] | None:
    """Return units in a pipeline order that a whole-number solution stands for, or ``None`` if it stands for none.

    Of the units of a node, one of a kind that is ``chosen`` for it leaves for the next, or the one that loses least.
    """
    places = _places(walk, values)
    if places is None:
        return None
    visits: dict[int, list[int]] = {}
    for position, place in enumerate(places):
        visits.setdefault(place, []).append(position)
    stages: list[list[Unit]] = [[] for _ in places]
    for place, positions in visits.items():
        node = walk.kinds.nodes[place]
        counts = {kind: round(values[walk.used[kind]]) for kind in node.kinds}
        onward: list[Way] = []
        for position in positions:
            after = places[position + 1] if position + 1 < len(places) else None
            onward.append(LAST if after is None else BETWEEN if after == place else after)
        found = _filled(walk.kinds, node, counts, onward, (loss or {}, dict(chosen or {})))
        if found is None:
            return None
        for position, units in zip(positions, found, strict=True):
            stages[position] = units
    return [unit for units in stages for unit in units]


def _places(walk: Walk, values: Sequence[float]) -> list[int] | None:
    """Return the kinds of nodes in the order of an Eulerian trail (Hierholzer) over all steps between nodes."""
    steps: dict[int, list[int]] = {}
    total = 0
    for (a, b), column in sorted(walk.between.items(), reverse=True):
        count = round(values[column])
        steps.setdefault(a, []).extend([b] * count)
        total += count
    start = next((a for a, terms in enumerate(walk.first) if sum(values[c] * v for c, v in terms) > 0.5), None)  # noqa: PLR2004 - one of 0 and 1
    if start is None:
        return None
    trail, stack = list[int](), [start]
    while stack:
        if steps.get(stack[-1]):
            stack.append(steps[stack[-1]].pop())
        else:
            trail.append(stack.pop())
    trail.reverse()
    return trail if len(trail) == total + 1 else None


def _filled(
    kinds: Kinds,
    node: NodeKind,
    counts: dict[int, int],
    onward: Sequence[Way],
    preferred: tuple[dict[tuple[int, Way], int], dict[tuple[int, Way], int]],
) -> list[list[Unit]] | None:
    """Return the units of each visit to a kind of node, the one that goes on to ``onward`` last."""
    loss, chosen_ways = preferred
    hosts = [node.nodes[visit % node.count] for visit in range(len(onward))]
    room = {host: {k: kinds.units[k].on_node for k in node.kinds} for host in hosts}
    left = dict(counts)
    chosen: list[list[int]] = []
    for host, way in zip(hosts, onward, strict=True):
        ready = [k for k in node.kinds if left[k] > 0 and room[host][k] > 0]
        if not ready:
            return None
        k = min(ready, key=lambda k: (-min(1, chosen_ways.get((k, way), 0)), loss.get((k, way), 1 << 30), k))
        chosen_ways[k, way] = chosen_ways.get((k, way), 0) - 1
        chosen.append([k])
        left[k] -= 1
        room[host][k] -= 1
    for k in node.kinds:
        if loss and (k, INSIDE) not in loss and chosen_ways.get((k, INSIDE), 0) <= 0:
            left[k] = 0  # it would hold nothing there: the plan is better off without it
        for visit, host in enumerate(hosts):
            while left[k] > 0 and room[host][k] > 0:
                chosen[visit].insert(0, k)
                left[k] -= 1
                room[host][k] -= 1
    if any(left.values()):
        return None
    taken: set[str] = set()
    units: dict[tuple[int, int], Unit] = {}
    wanted = [(visit, place) for visit, some in enumerate(chosen) for place in range(len(some))]
    for visit, place in sorted(wanted, key=lambda one: -len(kinds.units[chosen[one[0]][one[1]]].unit.devices)):
        members = node.units[hosts[visit]][node.kinds.index(chosen[visit][place])]
        free = next((unit for unit in members if taken.isdisjoint(unit.devices)), None)
        if free is None:
            return None
        taken.update(free.devices)
        units[visit, place] = free
    return [[units[visit, place] for place in range(len(some))] for visit, some in enumerate(chosen)]
