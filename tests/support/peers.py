"""Where others would put a model: their published rules, restated. Each looks at what it looks at, and at no more.

A plan is a list of devices with half-open layer ranges; ``None`` is a refusal. One device is one node to all of
them: exo and Parallax run one worker per machine, and pooling a machine's devices would hide from them which one is
full.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

Shards = tuple[tuple[DeviceKey, int, int], ...]
Rule = Callable[[Fleet, ModelProfile, PlacementRequest], Shards | None]

PARALLAX_SHARE_FOR_WEIGHTS = 0.5
PARALLAX_BISECTIONS = 40
MARGIN_BYTES = 1 << 30
"""What llama.cpp's own fitting leaves free on each device; fastest-first leaves as much."""


def exo(fleet: Fleet, model: ModelProfile, request: PlacementRequest) -> Shards | None:
    """Return exo's plan: the smallest set whose free memory holds the weights, layers in proportion to it.

    Largest remainders, one layer at least; then each device is checked, and one that is short refuses the request.
    The real one lists every cycle of the network first, which does not end on a dozen nodes that all see each other;
    here it is spared that. Among sets of a size it takes the one with the most memory.
    """
    del request
    nodes = sorted(((free(device), key) for key, _, device in fleet.devices()), key=lambda node: (-node[0], node[1]))
    sums = list(accumulate(memory for memory, _ in nodes))
    size = next((count for count, total in enumerate(sums, 1) if total >= model.weight_bytes), None)
    if size is None or size > model.layers:
        return None
    chosen = nodes[:size]
    counts = by_largest_remainder(model.layers, [memory / sums[size - 1] for memory, _ in chosen])
    for index in range(size):
        if counts[index] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[index] = 1
    if any(model.weight_bytes * n // model.layers > memory for n, (memory, _) in zip(counts, chosen, strict=True)):
        return None
    return ranges([key for _, key in chosen], counts)


def llama_cpp(fleet: Fleet, model: ModelProfile, request: PlacementRequest) -> Shards | None:
    """Return llama.cpp's default split: all devices, in the order they are listed, in proportion to free memory.

    The output head counts as one more layer. It never refuses: what does not fit fails when it is loaded.
    """
    del request
    devices = [(key, free(device)) for key, _, device in fleet.devices()]
    total = sum(memory for _, memory in devices)
    if total <= 0:
        return None
    splits = [part / total for part in accumulate(memory for _, memory in devices)]
    counts = [0] * len(devices)
    for layer in range(model.layers):
        counts[min(bisect_right(splits, layer / (model.layers + 1)), len(devices) - 1)] += 1
    return ranges([key for key, _ in devices], counts)


def parallax(fleet: Fleet, model: ModelProfile, request: PlacementRequest) -> Shards | None:
    """Return the first pipeline of Parallax' greedy: fewest stages, then filled like water by memory bandwidth.

    Half of a device's total memory is for weights, whatever is in use. The most capacious devices come first; a
    device that can hold everything is taken alone, the smallest such if the others still make a pipeline.
    """
    del request
    layer = sum(model.bytes_by_layer) / model.layers

    def capacity(device: FleetDevice, *, first: bool = False, last: bool = False) -> int:
        ends = model.embedding_bytes * first + model.head_bytes * last
        return max(0, int((PARALLAX_SHARE_FOR_WEIGHTS * (device.memory_total_bytes or 0) - ends) // layer))

    waiting = sorted(((key, d) for key, _, d in fleet.devices()), key=lambda one: (-capacity(one[1]), one[0]))
    spare = sum(capacity(device) for _, device in waiting) - model.layers
    if spare < 0:
        return None
    alone = [one for one in waiting if capacity(one[1], last=True) >= model.layers]
    alone = [one for one in alone if spare >= capacity(one[1], last=True)]
    pipeline = [alone[-1]] if alone and spare > model.layers else []
    while not pipeline or not _covers(pipeline, capacity, model.layers):
        rest = [one for one in waiting if one not in pipeline]
        if not rest:
            return None
        pipeline.append(rest[0])
    most = _capacities(pipeline, capacity)
    if min(most) <= 0:
        return None
    powers = [device.memory_bandwidth_bytes_per_second or 1.0 for _, device in pipeline]
    counts = _filled_like_water(model.layers, most, powers)
    return None if counts is None else ranges([key for key, _ in pipeline], counts)


def fastest_first(fleet: Fleet, model: ModelProfile, request: PlacementRequest) -> Shards | None:
    """Return the plan of a careful person without a solver: the fastest device is filled, then the next.

    It knows weights, KV cache, embedding and head, and leaves ``MARGIN_BYTES`` free on each device; no links.
    """
    devices = sorted(
        fleet.devices(), key=lambda one: (-(one[2].memory_bandwidth_bytes_per_second or 0), -free(one[2]), one[0])
    )
    cache = model.kv_bytes_by_layer(request.context_tokens)
    sizes = [weights + kv * request.concurrency for weights, kv in zip(model.bytes_by_layer, cache, strict=True)]
    sizes[0] += model.embedding_bytes
    sizes[-1] += max(model.head_bytes, model.embedding_bytes) if model.tied_embedding else model.head_bytes
    counts: list[int] = []
    placed = 0
    for _, _, device in devices:
        room, begun = free(device) - MARGIN_BYTES, placed
        while placed < model.layers and sizes[placed] <= room:
            room -= sizes[placed]
            placed += 1
        counts.append(placed - begun)
    return ranges([key for key, _, _ in devices], counts) if placed == model.layers else None


PEERS: dict[str, Rule] = {
    "exo": exo,
    "llama.cpp": llama_cpp,
    "Parallax": parallax,
    "fastest first": fastest_first,
}


def free(device: FleetDevice) -> int:
    """Return what a runtime reports as free: the total less what is in use."""
    return (device.memory_total_bytes or 0) - (device.memory_used_bytes or 0)


def by_largest_remainder(layers: int, shares: Sequence[float]) -> list[int]:
    """Return whole layers in proportion to ``shares``: rounded down, what is left to the largest remainders."""
    exact = [share * layers for share in shares]
    counts = [int(count) for count in exact]
    order = sorted(range(len(counts)), key=lambda index: exact[index] - counts[index], reverse=True)
    for index in order[: layers - sum(counts)]:
        counts[index] += 1
    return counts


def ranges(devices: Sequence[DeviceKey], counts: Sequence[int]) -> Shards:
    """Return consecutive layer ranges of these lengths; a device without a layer is left out."""
    ends = list(accumulate(counts))
    return tuple((key, end - count, end) for key, count, end in zip(devices, counts, ends, strict=True) if count)


_Capacity = Callable[..., int]
_Pipeline = Sequence[tuple[DeviceKey, FleetDevice]]


def _capacities(pipeline: _Pipeline, capacity: _Capacity) -> list[int]:
    """Return how many layers each may hold; of one alone only the embedding is counted, as in the original."""
    last = len(pipeline) - 1
    return [
        capacity(device, first=index == 0, last=index == last and index > 0)
        for index, (_, device) in enumerate(pipeline)
    ]


def _covers(pipeline: _Pipeline, capacity: _Capacity, layers: int) -> bool:
    return sum(_capacities(pipeline, capacity)) >= layers


def _filled_like_water(layers: int, most: Sequence[int], powers: Sequence[float]) -> list[int] | None:
    low, high = 0.0, max(cap / power for cap, power in zip(most, powers, strict=True))
    for _ in range(PARALLAX_BISECTIONS):
        level = (low + high) / 2
        enough = sum(min(cap, level * power) for cap, power in zip(most, powers, strict=True)) >= layers
        low, high = (low, level) if enough else (level, high)
    exact = [min(cap, high * power) for cap, power in zip(most, powers, strict=True)]
    counts = [int(count) for count in exact]
    for index in sorted(range(len(counts)), key=lambda i: exact[i] - counts[i], reverse=True):
        if sum(counts) < layers and counts[index] < most[index]:
            counts[index] += 1
    return counts if sum(counts) == layers else None
