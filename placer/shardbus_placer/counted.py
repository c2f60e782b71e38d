"""Counting: whether memory can be enough at all, from sums alone. A no is a proof; a yes is not."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate, pairwise

from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

from shardbus_placer import capacity
from shardbus_placer.candidates import Survey
from shardbus_placer.capacity import LayerMemory
from shardbus_placer.policy import Policy

Kinds = Mapping[DeviceKey, object]
Rooms = Mapping[DeviceKey, int]
"""What layers, embedding and head may take on each device."""


def rooms_of(survey: Survey, fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> Rooms:
    """Return what every device that may be used has for layers: less than 0 where the runtime alone is too much."""
    fixed = capacity.activation_bytes(model, request, policy)
    too_small = {barred.key for barred in survey.barred if barred.reason == "no_room"}
    rooms = {candidate.key: candidate.room_bytes for candidate in survey.candidates}
    for key, _, device in fleet.devices() if too_small else ():
        if key in too_small:
            overhead = capacity.overhead_bytes(device, request, policy)
            rooms[key] = capacity.free_bytes(device, request, policy) - overhead - fixed
    return rooms


def available_bytes(rooms: Rooms, request: PlacementRequest) -> int:
    """Return the most that the devices together have for layers under the request's limits."""
    allowed = len(rooms) if request.max_devices is None else min(request.max_devices, len(rooms))
    by_node: dict[NodeId, list[int]] = {}
    for key, room in rooms.items():
        by_node.setdefault(key.node_id, []).append(max(0, room))
    in_nodes = sorted((_largest(inside, allowed) for inside in by_node.values()), reverse=True)[: request.max_nodes]
    return min(_largest([max(0, room) for room in rooms.values()], allowed), sum(in_nodes))


def may_be_enough(memory: LayerMemory, rooms: Rooms, request: PlacementRequest, kinds: Kinds) -> bool:
    """Return whether counting leaves room for all layers; devices of one of ``kinds`` may share layers."""
    if memory.prefix[-1] + memory.both_ends > available_bytes(rooms, request):
        return False
    allowed = min(request.max_devices or len(rooms), request.max_stages or len(rooms))
    together: dict[object, int] = {}
    for key, room in rooms.items():
        kind = kinds.get(key, key)
        together[kind] = together.get(kind, 0) + max(0, room)
    if len(together) < len(rooms) and allowed < len(rooms):
        return True  # which of them are together is not counted
    return whole_layers(memory, list(together.values()), allowed) >= memory.layers


def kinds_of(devices: Mapping[DeviceKey, FleetDevice], model: ModelProfile, request: PlacementRequest) -> Kinds:
    """Return for each device what those that may share its layers have in common; empty if none may."""
    if request.sharding == "pipeline" or not model.supports_tensor:
        return {}
    return {
        key: (device.name, device.backend, device.architecture, device.memory_total_bytes)
        for key, device in devices.items()
    }


def whole_layers(memory: LayerMemory, rooms: list[int], stages: int) -> int:
    """Return how many whole layers so many devices hold at most, no device sharing any."""
    if not memory.even:
        smallest_first = tuple(accumulate(sorted(b - a for a, b in pairwise(memory.prefix)), initial=0))
        return sum(sorted((bisect_right(smallest_first, max(0, room)) - 1 for room in rooms), reverse=True)[:stages])
    size = memory.prefix[1]
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
