"""The placement problem in numbers: units that may hold a stage, the memory and time of layers, the hops between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName, PlacementRequest

from shardbus_placer import cost, tensor
from shardbus_placer.candidates import Survey
from shardbus_placer.capacity import LayerMemory, layer_memory
from shardbus_placer.links import Links
from shardbus_placer.movement import NOTHING, Held, Moves, Moving
from shardbus_placer.policy import Policy
from shardbus_placer.score import Score, scores

HARDLY = 1e-10
"""The weight of a second of latency beside one of moving where the slowest stage counts."""
ROUNDING = 1e-12
"""Relative slack of a bound that is a sum of floats: it must never be too high."""


@dataclass(frozen=True)
class Unit:
    """What may hold one stage: a device, or a tensor group of alike devices."""

    devices: tuple[DeviceKey, ...]
    node: int
    """Where it is entered and left: the first device's node."""
    nodes: tuple[int, ...]
    """All nodes that it has devices of."""
    room_bytes: int
    """What the stage as a whole may take, so that each device has room for the largest share."""
    seconds: tuple[float, ...]
    """Running sums of the decode time by layer."""
    head_seconds: float
    seconds_by_count: tuple[float, ...] | None
    """Measured times by number of layers, which then replace ``seconds``; not always rising."""
    pin: int | None
    """The exact number of layers it must hold if used."""
    score: float
    moving: Moving | None = None
    """What fetching its weights adds to the price of a stage; ``None`` where that is not counted."""

    @cached_property
    def running(self) -> tuple[float, ...]:
        """Running sums of what each layer costs alone: its move, and its decode time unless measured by number."""
        decode = self.seconds if self.seconds_by_count is None else (0.0,) * len(self.seconds)
        if self.moving is None:
            return decode
        return tuple(a + b for a, b in zip(decode, self.moving.layers, strict=True))

    @cached_property
    def fetching(self) -> tuple[float, ...]:
        """Running sums of each layer's move, and hardly of its decode time: of cuts that move the same, the quicker."""
        moved = self.running if self.moving is None else self.moving.layers
        decode = self.seconds if self.seconds_by_count is None else (0.0,) * len(self.seconds)
        return tuple(a + HARDLY * b for a, b in zip(moved, decode, strict=True))

    def moved(self, start: int, end: int) -> float:
        """Return what fetching the layers ``start`` to ``end`` adds to the price of the stage."""
        return 0.0 if self.moving is None else self.moving.of(start, end)

    def stage_seconds(self, start: int, end: int, *, last: bool) -> float:
        """Return the decode time of the layers ``start`` to ``end``, the head's included for the last stage."""
        by_count = self.seconds_by_count
        layers = self.seconds[end] - self.seconds[start] if by_count is None else by_count[end - start]
        return layers + self.head_seconds * last


@dataclass(frozen=True)
class Problem:
    """Everything a search needs; indices of nodes and units run over these tuples."""

    units: tuple[Unit, ...]
    """Sorted by their first device and size, so that equal fleets give equal problems."""
    memory: LayerMemory
    hops: tuple[tuple[float | None, ...], ...]
    """Seconds from node to node, ``None`` where there is no link; the diagonal is inside the node."""
    nodes: tuple[NodeId, ...]
    objective: ObjectiveName
    min_nodes: int
    max_nodes: int
    max_devices: int
    max_stages: int
    pins: Mapping[DeviceKey, int]
    """Devices that must be used."""

    @cached_property
    def layers(self) -> int:
        """How many layers are to be placed."""
        return self.memory.layers

    @cached_property
    def even(self) -> bool:
        """Whether all layers take the same memory and, on each unit, the same time."""
        return not self.moves and len(self.layer_kinds[0]) == 1

    @cached_property
    def moves(self) -> bool:
        """Whether what must be fetched is part of the price: then layers differ by where they lie."""
        return any(unit.moving is not None for unit in self.units)

    @property
    def counted_in(self) -> str:
        """What is said behind a cost that is more than seconds of decoding."""
        return ", what is fetched counted in" if self.moves else ""

    @cached_property
    def unmoved(self) -> "Problem":
        """The same without a price on moving: no plan costs less there than here less ``least_moved``."""
        return replace(self, units=tuple(replace(unit, moving=None) for unit in self.units))

    @cached_property
    def least_moved(self) -> float:
        """What moving adds to the price of any plan at the least: each layer goes to whom it costs least."""
        if not self.moves:
            return 0.0
        return (sum(self.least_moved_by_layer) + self.least_moved_ends) * (1 - ROUNDING)

    @cached_property
    def least_moved_by_layer(self) -> list[float]:
        """Of this, what each layer adds."""
        moving = {id(unit.moving): unit.moving.layers for unit in self.units if unit.moving is not None}
        return _least_by_layer(list(moving.values()))

    @cached_property
    def least_moved_ends(self) -> float:
        """Of this, what embedding and head add."""
        moving = [unit.moving for unit in self.units if unit.moving is not None]
        if not moving:
            return 0.0
        apart = min(one.first for one in moving) + min(one.last for one in moving)
        return min([apart, *(one.both for one in moving)])

    @cached_property
    def layer_kinds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """One layer of each kind, and how many there are of it; layers of a kind cost the same on every unit."""
        prefix = self.memory.prefix
        representatives: dict[object, int] = {}
        counts: dict[int, int] = {}
        tables = list({id(unit.seconds): unit.seconds for unit in self.units}.values())
        tables += list({id(unit.moving): unit.moving.layers for unit in self.units if unit.moving is not None}.values())
        for layer in range(self.layers):
            times = tuple(float(f"{table[layer + 1] - table[layer]:.9e}") for table in tables)
            first = representatives.setdefault((prefix[layer + 1] - prefix[layer], times), layer)
            counts[first] = counts.get(first, 0) + 1
        return tuple(counts), tuple(counts.values())

    @cached_property
    def least_seconds(self) -> float:
        """What all layers cost if each were on the unit that it costs least on: no plan's latency is less."""
        return sum(self.least_by_layer) * (1 - ROUNDING)

    @cached_property
    def least_by_layer(self) -> list[float]:
        """What each layer costs at the least, in decode time and move."""
        return _least_by_layer(list({id(unit.running): unit.running for unit in self.units}.values()))

    def admits(self, order: Sequence[Unit]) -> bool:
        """Return whether the units in this order meet every condition but memory."""
        hops = self.hops
        if len(order) > self.max_stages or len(order) > self.layers:
            return False
        if any(hops[a.node][b.node] is None for a, b in pairwise(order)):
            return False
        devices = [device for unit in order for device in unit.devices]
        different = set(devices)
        nodes = {node for unit in order for node in unit.nodes}
        return (
            len(devices) <= self.max_devices
            and len(different) == len(devices)
            and self.min_nodes <= len(nodes) <= self.max_nodes
            and self.pins.keys() <= different
        )

    def most_layers(self, unit: Unit) -> int:
        """Return how many layers fit on a unit at most, wherever they lie and without embedding or head."""
        prefix, best, start = self.memory.prefix, 0, 0
        if self.even or (self.moves and self.memory.even):
            return self.layers if prefix[1] == 0 else min(self.layers, unit.room_bytes // prefix[1])
        for end in range(1, self.layers + 1):
            while prefix[end] - prefix[start] > unit.room_bytes:
                start += 1
            best = max(best, end - start)
        return best

    def quickest_layer(self, unit: Unit) -> float:
        """Return the least time that a unit takes for a stage: that of one layer, or the least that was measured."""
        if unit.seconds_by_count is not None:
            return min(unit.seconds_by_count[1:])
        return min(unit.seconds[layer + 1] - unit.seconds[layer] for layer in self.layer_kinds[0])

    @cached_property
    def _ranges(self) -> dict[tuple[int, int], tuple[float, ...]]:
        return {}

    def quickest_ranges(self, unit: Unit, room: int) -> tuple[float, ...]:
        """Return, by number of layers, the least time of a range of so many that fits in ``room`` bytes."""
        key = (id(unit.seconds), room)
        if key not in self._ranges:
            prefix, seconds, layers = self.memory.prefix, unit.seconds, self.layers
            found = [0.0]
            for count in range(1, layers + 1):
                times = [
                    seconds[start + count] - seconds[start]
                    for start in range(layers - count + 1)
                    if prefix[start + count] - prefix[start] <= room
                ]
                if not times:
                    break
                found.append(max(found[-1], min(times)))
            self._ranges[key] = tuple(found)
        return self._ranges[key]

    @cached_property
    def least_hops(self) -> tuple[float | None, ...]:
        """The quickest hop from each node to a unit that may follow one of its own, ``None`` where there is none."""
        stages: list[set[tuple[DeviceKey, ...]]] = [set() for _ in self.nodes]
        for unit in self.units:
            stages[unit.node].add(unit.devices)
        found: list[float | None] = []
        for a, row in enumerate(self.hops):
            apart = len({device for devices in stages[a] for device in devices}) > 1
            ways = [seconds for b, seconds in enumerate(row) if seconds is not None and stages[b] and (b != a or apart)]
            found.append(min(ways, default=None))
        return tuple(found)

    def hop_after(self, order: Sequence[Unit]) -> list[float]:
        """Return each stage's outgoing hop in seconds, 0 after the last; the links must exist."""
        hops = self.hops
        return [*[hops[a.node][b.node] or 0.0 for a, b in pairwise(order)], 0.0]


def _least_by_layer(tables: Sequence[Sequence[float]]) -> list[float]:
    """Return for each layer the least step of any of these running sums."""
    return [min(table[layer + 1] - table[layer] for table in tables) for layer in range(len(tables[0]) - 1)]


def device_scores(survey: Survey, links: Links, policy: Policy) -> dict[DeviceKey, Score]:
    """Return the weighted score of every candidate."""
    speeds = {pair: link.bandwidth_bytes_per_second for pair, link in links.between.items()}
    return scores(survey.candidates, speeds, policy)


def formulate(
    survey: Survey,
    links: Links,
    model: ModelProfile,
    request: PlacementRequest,
    score_of: Mapping[DeviceKey, Score],
    held: Held = NOTHING,
) -> Problem:
    """Return the problem of placing ``model`` on the surveyed candidates, some of which hold layers already."""
    memory = layer_memory(model, request)
    nodes = tuple(sorted({candidate.node for candidate in survey.candidates}))
    index = {node: position for position, node in enumerate(nodes)}
    crossing = model.activation_bytes_per_token * request.concurrency
    pins = {DeviceKey(name): count for name, count in request.pin.items()}

    def hop(a: NodeId, b: NodeId) -> float | None:
        link = links.inside[a] if a == b else links.between.get((a, b))
        return None if link is None else cost.hop_seconds(link, crossing)

    units = [
        unit
        for members in tensor.groups(survey.candidates, model, request.sharding, set(pins), links, held)
        if (unit := _unit(members, index, links, crossing, pins, score_of, model)) is not None
        and _holds_a_layer(unit, memory)
    ]
    unbounded = len(survey.candidates) + 1
    return Problem(
        units=tuple(sorted(units, key=lambda unit: (unit.devices[0], len(unit.devices), unit.devices))),
        memory=memory,
        hops=tuple(tuple(hop(a, b) for b in nodes) for a in nodes),
        nodes=nodes,
        objective=request.objective,
        min_nodes=request.min_nodes,
        max_nodes=request.max_nodes or unbounded,
        max_devices=request.max_devices or unbounded,
        max_stages=request.max_stages or unbounded,
        pins=pins,
    )


def with_movement(problem: Problem, moves: Moves, horizon_tokens: float) -> Problem:
    """Return the problem with the seconds that fetching takes, spread over ``horizon_tokens``, added to the price."""
    alike: dict[object, Moving] = {}
    units: list[Unit] = []
    for unit in problem.units:
        kind = moves.kind(unit.devices)
        if kind not in alike:
            alike[kind] = moves.moving(unit.devices, horizon_tokens)
        units.append(replace(unit, moving=alike[kind]))
    return replace(problem, units=tuple(units))


def _unit(
    members: tensor.Group,
    index: Mapping[NodeId, int],
    links: Links,
    crossing: int,
    pins: Mapping[DeviceKey, int],
    score_of: Mapping[DeviceKey, Score],
    model: ModelProfile,
) -> Unit | None:
    pinned = {pins[member.key] for member in members if member.key in pins}
    share = tensor.largest_share(model, len(members))
    if len(pinned) > 1 or share is None:  # the devices of a group hold the same layers
        return None
    devices = tuple(sorted(member.key for member in members))
    first = members[0]
    # A layer split over devices is put together twice: after attention and after the feed-forward part.
    together = 0.0
    if len(devices) > 1:
        together = 2 * cost.all_reduce_seconds(tensor.joining_link(links, devices), len(devices), crossing)

    def shared(seconds: tuple[float, ...]) -> tuple[float, ...]:
        if len(devices) == 1:
            return seconds
        return tuple(tensor.share_seconds(total, share) + together * layer for layer, total in enumerate(seconds))

    return Unit(
        devices=devices,
        node=index[min(devices).node_id],
        nodes=tuple(sorted({index[member.node] for member in members})),
        room_bytes=tensor.together_bytes(min(member.room_bytes for member in members), share),
        seconds=shared(first.seconds),
        head_seconds=tensor.share_seconds(first.head_seconds, share),
        seconds_by_count=None if first.seconds_by_count is None else shared(first.seconds_by_count),
        pin=pinned.pop() if pinned else None,
        score=sum(score_of[member.key].total for member in members) / len(members),
    )


def _holds_a_layer(unit: Unit, memory: LayerMemory) -> bool:
    return any(memory.stage(layer, layer + 1) <= unit.room_bytes for layer in range(memory.layers))
