"""Counting: whether memory can be enough at all, from sums alone. A no is a proof; a yes is not."""

from collections.abc import Mapping

from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.placement import PlacementRequest

from shardbus_placer.candidates import max_layers
from shardbus_placer.capacity import LayerMemory

Rooms = Mapping[DeviceKey, int]
"""What layers, embedding and head may take on each device."""


def available_bytes(rooms: Rooms, request: PlacementRequest) -> int:
    """Return the most that the devices together have for layers under the request's limits."""
    allowed = len(rooms) if request.max_devices is None else min(request.max_devices, len(rooms))
    by_node: dict[NodeId, list[int]] = {}
    for key, room in rooms.items():
        by_node.setdefault(key.node_id, []).append(max(0, room))
    in_nodes = sorted((_largest(inside, allowed) for inside in by_node.values()), reverse=True)[: request.max_nodes]
    return min(_largest([max(0, room) for room in rooms.values()], allowed), sum(in_nodes))


def may_be_enough(memory: LayerMemory, rooms: Rooms, request: PlacementRequest, *, groups: bool) -> bool:
    """Return whether counting leaves room for all layers; with ``groups`` devices may share a layer."""
    if memory.prefix[-1] + memory.both_ends > available_bytes(rooms, request):
        return False
    if groups:
        return True
    allowed = min(request.max_devices or len(rooms), request.max_stages or len(rooms))
    return whole_layers(memory, list(rooms.values()), allowed) >= memory.layers


def whole_layers(memory: LayerMemory, rooms: list[int], stages: int) -> int:
    """Return how many whole layers so many devices hold at most, no device sharing any."""
    size = memory.prefix[1]
    if size == 0 or any(total != size * layer for layer, total in enumerate(memory.prefix)):
        return sum(sorted((max_layers(memory, room) for room in rooms), reverse=True)[:stages])
    counts = [max(0, room) // size for room in rooms]
    alone = max((room - memory.both_ends) // size for room in rooms)
    if stages == 1:
        return alone
    lost = sum(
        min(count - max(-1, room - extra) // size for count, room in zip(counts, rooms, strict=True) if count)
        if any(counts)
        else 0
        for extra in (memory.embedding, memory.head)
    )
    return max(alone, sum(sorted(counts, reverse=True)[:stages]) - lost)


def _largest(rooms: list[int], count: int) -> int:
    return sum(sorted(rooms, reverse=True)[:count])
