"""What is alike: units that may stand for each other, and nodes that may.

A fleet of 64 devices of four kinds is a small problem: a program counts how many of each kind are used, and which
ones they are is decided afterwards. Two units are of one kind if every figure that a plan's cost or feasibility
depends on is equal; two nodes, if they have equal units and equal links to all other nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardbus_schemas.ids import DeviceKey

from shardbus_placer.problem import Problem, Unit


@dataclass(frozen=True)
class UnitKind:
    """Units of one node kind that may stand for each other."""

    unit: Unit
    """Any one of them."""
    place: int
    """The node kind they are in."""
    on_node: int
    """How many of them one node can use at once."""


@dataclass(frozen=True)
class NodeKind:
    """Nodes that may stand for each other."""

    nodes: tuple[int, ...]
    units: Mapping[int, Sequence[Sequence[Unit]]]
    """Per node and unit kind (in the order of ``kinds``), the units of that kind."""
    kinds: tuple[int, ...]
    """Indices of its unit kinds."""
    shared: tuple[tuple[Mapping[int, int], int], ...]
    """Unit kind to the devices that each of its units takes, and how many there are for all together on one node."""
    stages: int
    """How many stages one node can have at once."""
    inner_hop: float | None
    between_hop: float | None
    """From one of these nodes to another of them."""

    @property
    def count(self) -> int:
        """How many nodes there are of this kind."""
        return len(self.nodes)


@dataclass(frozen=True)
class Kinds:
    """All kinds of a problem."""

    units: tuple[UnitKind, ...]
    nodes: tuple[NodeKind, ...]

    def hop(self, problem: Problem, a: int, b: int) -> float | None:
        """Return the time from a node of kind ``a`` to another node of kind ``b``, ``None`` where there is no link."""
        if a == b:
            return self.nodes[a].between_hop
        return problem.hops[self.nodes[a].nodes[0]][self.nodes[b].nodes[0]]


Figures = tuple[object, ...]


def kinds_of(problem: Problem, slowest: float | None = None) -> Kinds:
    """Return the kinds of units and nodes; of a stage no more than ``slowest`` seconds matter, if given."""
    tables: dict[tuple[float, ...], int] = {}
    inside: list[list[Unit]] = [[] for _ in problem.nodes]
    for unit in problem.units:
        inside[unit.node].append(unit)
    # Devices that may be grouped across nodes are told apart: who shares them cannot be said node by node.
    crossing = {device for unit in problem.units if len(unit.nodes) > 1 for device in unit.devices}
    figures = {unit.devices: _figures(problem, unit, slowest, tables, crossing) for unit in problem.units}
    composed = [_compose(units, figures) for units in inside]
    used = [node for node, units in enumerate(inside) if units]
    unit_kinds: list[UnitKind] = []
    node_kinds: list[NodeKind] = []
    for members in _alike_nodes(problem, used, composed):
        first = composed[members[0]]
        names = list(first.by_kind)
        numbers = {name: len(unit_kinds) + position for position, name in enumerate(names)}
        unit_kinds += [UnitKind(first.by_kind[name][0], len(node_kinds), first.most[name]) for name in names]
        a = members[0]
        node_kinds.append(
            NodeKind(
                nodes=tuple(members),
                units={node: [composed[node].by_kind[name] for name in names] for node in members},
                kinds=tuple(numbers.values()),
                shared=tuple(
                    ({numbers[name]: size for name, size in sizes}, limit) for sizes, limit in first.shared if sizes
                ),
                stages=first.stages,
                inner_hop=problem.hops[a][a],
                between_hop=problem.hops[a][members[1]] if len(members) > 1 else None,
            )
        )
    return Kinds(tuple(unit_kinds), tuple(node_kinds))


def _figures(
    problem: Problem,
    unit: Unit,
    slowest: float | None,
    tables: dict[tuple[float, ...], int],
    crossing: set[DeviceKey],
) -> Figures:
    """Return all that a plan's cost or feasibility depends on."""
    room: object = unit.room_bytes
    memory = problem.memory
    if problem.even and memory.prefix[1]:
        most = problem.layers
        each = unit.seconds[-1] / problem.layers
        if slowest is not None and unit.seconds_by_count is None and each > 0:
            most = min(most, int(slowest / each * (1 + 1e-9)))
        ends = (0, memory.embedding, memory.head, memory.both_ends)
        room = tuple(max(-1, min(most, (unit.room_bytes - end) // memory.prefix[1])) for end in ends)
    return (
        len(unit.devices),
        room,
        tables.setdefault(unit.seconds, len(tables)),
        unit.head_seconds,
        unit.seconds_by_count,
        (unit.pin, unit.devices) if unit.pin is not None else None,
        unit.score if problem.objective == "score" else None,
        unit.moving,
        None if crossing.isdisjoint(unit.devices) else unit.devices,
    )


@dataclass(frozen=True)
class _Composition:
    by_kind: dict[Figures, list[Unit]]
    most: dict[Figures, int]
    shared: list[tuple[tuple[tuple[Figures, int], ...], int]]
    stages: int
    key: object


def _compose(units: Sequence[Unit], figures: Mapping[tuple[DeviceKey, ...], Figures]) -> _Composition:
    """Return the kinds of one node's units, and which of them compete for devices.

    Devices that share a unit kind are taken together. Where each size of group has one kind there, any so many
    devices serve; elsewhere every group is a kind of its own, and every device can be in one.
    """
    pool: dict[str, str] = {}

    def root(device: str) -> str:
        while pool.setdefault(device, device) != device:
            device = pool[device]
        return device

    groups = any(len(unit.devices) > 1 for unit in units)
    if groups:
        for unit in units:
            for device in unit.devices[1:]:
                pool[root(device)] = root(unit.devices[0])
    pools: dict[str, list[Unit]] = {}
    for unit in units:
        pools.setdefault(root(unit.devices[0]) if groups else "", []).append(unit)
    by_kind: dict[Figures, list[Unit]] = {}
    most: dict[Figures, int] = {}
    shared: list[tuple[tuple[tuple[Figures, int], ...], int]] = []
    stages = 0
    for members in pools.values():
        devices = {device for unit in members for device in unit.devices}
        sizes = {len(unit.devices) for unit in members}
        named = {unit.devices: figures[unit.devices] for unit in members}
        apart = groups and len(set(named.values())) > len(sizes)
        for unit in members:
            name = (*named[unit.devices], *unit.devices) if apart else named[unit.devices]
            by_kind.setdefault(name, []).append(unit)
            most[name] = 1 if apart or unit.pin is not None else len(devices) // len(unit.devices)
        if not groups:
            for name in set(named.values()):
                most[name] = len(by_kind[name])
        elif apart:
            for device in sorted(devices):
                takers = tuple(((*named[unit.devices], *unit.devices), 1) for unit in members if device in unit.devices)
                shared.append((takers if len(takers) > 1 else (), 1))
        else:
            taking = {name: len(names) for names, name in named.items()}
            shared.append((tuple(taking.items()), len(devices)))
        stages += len(devices) // min(sizes) if not apart else min(len(members), len(devices))
    key = (tuple(sorted((hash(name), len(found)) for name, found in by_kind.items())), len(shared))
    return _Composition(by_kind, most, shared, stages, key)


def _alike_nodes(problem: Problem, used: Sequence[int], composed: Sequence[_Composition]) -> list[list[int]]:
    hops = problem.hops
    likely: dict[object, list[list[int]]] = {}
    for node in used:
        row = tuple(sorted((-1.0 if hops[node][other] is None else hops[node][other] or 0.0) for other in used))
        groups = likely.setdefault((composed[node].key, row), [])
        for members in groups:
            if _alike(problem, used, composed, members, node):
                members.append(node)
                break
        else:
            groups.append([node])
    return sorted(members for groups in likely.values() for members in groups)


def _alike(
    problem: Problem, used: Sequence[int], composed: Sequence[_Composition], members: Sequence[int], node: int
) -> bool:
    hops, first = problem.hops, members[0]
    between = hops[first][node] if len(members) == 1 else hops[first][members[1]]
    if composed[first].by_kind.keys() != composed[node].by_kind.keys() or hops[first][first] != hops[node][node]:
        return False
    if any(len(composed[first].by_kind[name]) != len(units) for name, units in composed[node].by_kind.items()):
        return False
    if any(hops[one][node] != between or hops[node][one] != between for one in members):
        return False
    others = [other for other in used if other != node and other not in members]
    return all(hops[first][o] == hops[node][o] and hops[o][first] == hops[o][node] for o in others)
