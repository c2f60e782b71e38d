"""The placement problem in numbers: units that may hold a stage, the memory and time of layers, the hops between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName, PlacementRequest, Sharding

from shardbus_placer import cost
from shardbus_placer.candidates import Candidate, Survey
from shardbus_placer.capacity import LayerMemory, layer_memory
from shardbus_placer.policy import Policy
from shardbus_placer.score import Score, scores

MOST_SUBSETS_OF = 6
"""Up to so many alike devices every subset is a possible tensor group; among more only runs of the sorted list."""

ROUNDING = 1e-12
"""Relative slack of a bound that is a sum of floats: it must never be too high."""


@dataclass(frozen=True)
class Unit:
    """What may hold one stage: a device, or a tensor group of alike devices of one node."""

    devices: tuple[DeviceKey, ...]
    node: int
    room_bytes: int
    """What the stage as a whole may take: each device holds an equal share."""
    seconds: tuple[float, ...]
    """Running sums of the decode time by layer."""
    head_seconds: float
    seconds_by_count: tuple[float, ...] | None
    """Measured times by number of layers, which then replace ``seconds``; not always rising."""
    pin: int | None
    """The exact number of layers it must hold if used."""
    score: float

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

    @property
    def layers(self) -> int:
        """How many layers are to be placed."""
        return self.memory.layers

    @cached_property
    def even(self) -> bool:
        """Whether all layers take the same memory and, on each unit, the same time."""
        return len(self.layer_kinds[0]) == 1

    @cached_property
    def layer_kinds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """One layer of each kind, and how many there are of it; layers of a kind cost the same on every unit."""
        prefix = self.memory.prefix
        representatives: dict[object, int] = {}
        counts: dict[int, int] = {}
        tables = list({id(unit.seconds): unit.seconds for unit in self.units}.values())
        for layer in range(self.layers):
            times = tuple(float(f"{table[layer + 1] - table[layer]:.9e}") for table in tables)
            first = representatives.setdefault((prefix[layer + 1] - prefix[layer], times), layer)
            counts[first] = counts.get(first, 0) + 1
        return tuple(counts), tuple(counts.values())

    @cached_property
    def least_seconds(self) -> float:
        """The decode time of all layers if each were on the unit that is fastest for it: no plan takes less."""
        if any(unit.seconds_by_count is not None for unit in self.units):
            return 0.0
        tables = list({id(unit.seconds): unit.seconds for unit in self.units}.values())
        layers = range(self.layers)
        return sum(min(table[layer + 1] - table[layer] for table in tables) for layer in layers) * (1 - ROUNDING)

    def admits(self, order: Sequence[Unit]) -> bool:
        """Return whether the units in this order meet every condition but memory."""
        devices = [device for unit in order for device in unit.devices]
        nodes = {unit.node for unit in order}
        return (
            len(order) <= min(self.max_stages, self.layers)
            and len(devices) <= self.max_devices
            and len(set(devices)) == len(devices)
            and self.min_nodes <= len(nodes) <= self.max_nodes
            and self.pins.keys() <= set(devices)
            and all(self.hops[a.node][b.node] is not None for a, b in pairwise(order))
        )

    def most_layers(self, unit: Unit) -> int:
        """Return how many layers fit on a unit at most, wherever they lie and without embedding or head."""
        prefix, best, start = self.memory.prefix, 0, 0
        if self.even:
            return self.layers if prefix[1] == 0 else min(self.layers, unit.room_bytes // prefix[1])
        for end in range(1, self.layers + 1):
            while prefix[end] - prefix[start] > unit.room_bytes:
                start += 1
            best = max(best, end - start)
        return best

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
        """The quickest hop from each node to any unit that a unit of it may be used with, ``None`` where there is none."""
        stages: list[set[tuple[DeviceKey, ...]]] = [set() for _ in self.nodes]
        for unit in self.units:
            stages[unit.node].add(unit.devices)
        found: list[float | None] = []
        for a, row in enumerate(self.hops):
            apart = len({device for devices in stages[a] for device in devices}) > 1
            ways = [
                seconds for b, seconds in enumerate(row) if seconds is not None and stages[b] and (b != a or apart)
            ]
            found.append(min(ways, default=None))
        return tuple(found)

    def hop_after(self, order: Sequence[Unit]) -> list[float]:
        """Return each stage's outgoing hop in seconds, 0 after the last; the links must exist."""
        between = (self.hops[a.node][b.node] for a, b in pairwise(order))
        return [*(0.0 if seconds is None else seconds for seconds in between), 0.0]


@dataclass(frozen=True)
class Links:
    """The fleet's links, each way, as the planner sees them."""

    between: Mapping[tuple[NodeId, NodeId], LinkFigures]
    inside: Mapping[NodeId, LinkFigures]
    guessed: frozenset[NodeId]
    """Nodes that do not say what lies between their devices."""


def links_of(fleet: Fleet, policy: Policy) -> Links:
    """Return every link that exists: declared ones, the default for other pairs, and those inside nodes."""
    declared: dict[tuple[NodeId, NodeId], LinkFigures] = {(link.from_node, link.to_node): link for link in fleet.links}
    if fleet.default_link is not None:
        for a in fleet.nodes:
            for b in fleet.nodes:
                if a.node_id != b.node_id:
                    declared.setdefault((a.node_id, b.node_id), fleet.default_link)
    return Links(
        between=declared,
        inside={node.node_id: node.device_link or policy.device_link for node in fleet.nodes},
        guessed=frozenset(node.node_id for node in fleet.nodes if node.device_link is None),
    )


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
) -> Problem:
    """Return the problem of placing ``model`` on the surveyed candidates."""
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
        for members in _groups(survey.candidates, model, request.sharding, set(pins))
        if (unit := _unit(members, index, links, crossing, pins, score_of)) is not None and _holds_a_layer(unit, memory)
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


def tensor_divides(model: ModelProfile, devices: int) -> bool:
    """Return whether the model's layers may be split evenly over so many devices."""
    sizes = (model.num_attention_heads, model.num_key_value_heads, model.hidden_size)
    return model.supports_tensor and all(size is not None and size % devices == 0 for size in sizes)


def _groups(
    candidates: Sequence[Candidate], model: ModelProfile, sharding: Sharding, pinned: set[DeviceKey]
) -> list[tuple[Candidate, ...]]:
    """Return the single devices and tensor groups that may hold a stage.

    Devices that differ only in free memory are interchangeable but for it: a group is as roomy as its least
    roomy member, so among them only runs of the list sorted by room can be needed.
    """
    found: list[tuple[Candidate, ...]] = []
    if sharding != "tensor":
        found += [(candidate,) for candidate in candidates]
    if sharding == "pipeline" or not model.supports_tensor:
        return found
    alike: dict[object, list[Candidate]] = {}
    for candidate in candidates:
        device = candidate.device
        kind = (candidate.node, device.name, device.backend, device.architecture, device.memory_total_bytes)
        speed = (candidate.bandwidth, candidate.seconds, candidate.seconds_by_count, candidate.flops)
        alike.setdefault((kind, speed), []).append(candidate)
    for members in alike.values():
        members.sort(key=lambda candidate: (-candidate.room_bytes, candidate.key))
        every = len(members) <= MOST_SUBSETS_OF and any(candidate.key in pinned for candidate in members)
        for size in range(2, len(members) + 1):
            if not tensor_divides(model, size):
                continue
            if every:
                found += combinations(members, size)
            else:
                found += [tuple(members[start : start + size]) for start in range(len(members) - size + 1)]
    return found


def _unit(
    members: tuple[Candidate, ...],
    index: Mapping[NodeId, int],
    links: Links,
    crossing: int,
    pins: Mapping[DeviceKey, int],
    score_of: Mapping[DeviceKey, Score],
) -> Unit | None:
    pinned = {pins[member.key] for member in members if member.key in pins}
    if len(pinned) > 1:  # the devices of a group hold the same layers
        return None
    size, first = len(members), members[0]
    # A layer split over devices is put together twice: after attention and after the feed-forward part.
    together = 2 * cost.all_reduce_seconds(links.inside[first.node], size, crossing) if size > 1 else 0.0
    by_count = first.seconds_by_count
    return Unit(
        devices=tuple(sorted(member.key for member in members)),
        node=index[first.node],
        room_bytes=size * min(member.room_bytes for member in members),
        seconds=first.seconds
        if size == 1
        else tuple(total / size + together * layer for layer, total in enumerate(first.seconds)),
        head_seconds=first.head_seconds / size,
        seconds_by_count=by_count
        if by_count is None or size == 1
        else tuple(total / size + together * layer for layer, total in enumerate(by_count)),
        pin=pinned.pop() if pinned else None,
        score=sum(score_of[member.key].total for member in members) / size,
    )


def _holds_a_layer(unit: Unit, memory: LayerMemory) -> bool:
    return any(memory.stage(layer, layer + 1) <= unit.room_bytes for layer in range(memory.layers))
