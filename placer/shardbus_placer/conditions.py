"""The request's conditions on which units are used together, as rows over kinds of units."""

from collections.abc import Sequence

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.formulation import LinearModel
from shardbus_placer.kinds import Kinds
from shardbus_placer.problem import Problem


def condition_rows(model: LinearModel, problem: Problem, kinds: Kinds, used: Sequence[int]) -> None:
    """Add limits on devices, stages and nodes, and that pinned devices are used.

    What shares devices within a node is said by the rows of the node; see ``walk.py``.
    """
    sizes = [len(kind.unit.devices) for kind in kinds.units]
    most = [kind.on_node * kinds.nodes[kind.place].count for kind in kinds.units]
    if problem.max_devices < sum(size * count for size, count in zip(sizes, most, strict=True)):
        model.row([(column, float(size)) for column, size in zip(used, sizes, strict=True)], upper=problem.max_devices)
    stages = min(problem.max_stages, problem.layers)  # each holds a layer at least
    if stages < sum(most):
        model.row([(column, 1.0) for column in used], upper=stages)
    crossing = {device for kind in kinds.units if len(kind.unit.nodes) > 1 for device in kind.unit.devices}
    for device in sorted(crossing):
        model.row([(column, 1.0) for column in _holders(kinds, used, device)], upper=1)
    for device in problem.pins:
        model.row([(column, 1.0) for column in _holders(kinds, used, device)], lower=1)
    if problem.min_nodes <= 1 and problem.max_nodes >= len(problem.nodes):
        return
    places = {node: place for place, kind in enumerate(kinds.nodes) for node in kind.nodes}
    inside: dict[int, list[int]] = {}
    for k, kind in enumerate(kinds.units):
        for place in {places.get(node, -1 - node) for node in kind.unit.nodes}:
            inside.setdefault(place, []).append(k)
    nodes: list[tuple[int, float]] = []
    for place, members in inside.items():
        here = model.column(0, 1 if place < 0 else kinds.nodes[place].count, integer=True)
        nodes.append((here, 1.0))
        model.row([(here, 1.0), *((used[kind], -1.0) for kind in members)], upper=0)
        for kind in members:
            model.row([(used[kind], 1.0), (here, -float(kinds.units[kind].on_node))], upper=0)
    model.row(nodes, problem.min_nodes, problem.max_nodes)


def _holders(kinds: Kinds, used: Sequence[int], device: DeviceKey) -> list[int]:
    return [column for column, kind in zip(used, kinds.units, strict=True) if device in kind.unit.devices]
