"""The request's conditions on which units are used together, as rows over kinds of units."""

from collections.abc import Sequence

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
    if problem.max_stages < sum(most):
        model.row([(column, 1.0) for column in used], upper=problem.max_stages)
    for device in problem.pins:
        holders = [column for column, kind in zip(used, kinds.units, strict=True) if device in kind.unit.devices]
        model.row([(column, 1.0) for column in holders], lower=1)
    across = [k for k, kind in enumerate(kinds.units) if len(kind.unit.nodes) > 1]
    for device in sorted({device for k in across for device in kinds.units[k].unit.devices}):
        holders = [column for column, kind in zip(used, kinds.units, strict=True) if device in kind.unit.devices]
        model.row([(column, 1.0) for column in holders], upper=1)
    if problem.min_nodes > 1 or problem.max_nodes < len(problem.nodes):
        _node_rows(model, problem, kinds, used, across)


def _node_rows(model: LinearModel, problem: Problem, kinds: Kinds, used: Sequence[int], across: Sequence[int]) -> None:
    """Add limits on nodes; the units ``across`` nodes are counted in each of theirs."""
    counted: list[tuple[int, float]] = []
    places = [(node.nodes, list(node.kinds)) for node in kinds.nodes]
    known = {one for nodes, _ in places for one in nodes}
    places += [((one,), []) for one in range(len(problem.nodes)) if one not in known]
    for nodes, members in places:
        members += [k for k in across if k not in members and any(one in nodes for one in kinds.units[k].unit.nodes)]
        here = model.column(0, len(nodes), integer=True)
        counted.append((here, 1.0))
        model.row([(here, 1.0), *((used[k], -1.0) for k in members)], upper=0)
        for k in members:
            model.row([(used[k], 1.0), (here, -float(kinds.units[k].on_node))], upper=0)
    model.row(counted, problem.min_nodes, problem.max_nodes)
