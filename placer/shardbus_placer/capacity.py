"""Memory: what a device has to give, and what a range of layers takes. All bytes, all integers."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

from shardbus_placer.policy import Policy


def headroom_bytes(device: FleetDevice, request: PlacementRequest, policy: Policy) -> int:
    """Return what to leave free: the larger of the fraction and the bytes, the request's before the policy's."""
    rules = policy.of_backend(device.backend)
    fraction = rules.headroom_fraction if request.headroom_fraction is None else request.headroom_fraction
    least = rules.headroom_bytes if request.headroom_bytes is None else request.headroom_bytes
    return max(least, math.ceil(fraction * (device.memory_total_bytes or 0)))


def used_bytes(device: FleetDevice, policy: Policy) -> int:
    """Return what others use: the reading, or the policy's share of the total where there is none."""
    if device.memory_used_bytes is not None:
        return device.memory_used_bytes
    return math.ceil(policy.unknown_memory_used_fraction * (device.memory_total_bytes or 0))


def free_bytes(device: FleetDevice, request: PlacementRequest, policy: Policy) -> int:
    """Return what the model may take here after others' use, reservations and headroom; may be negative."""
    taken = used_bytes(device, policy) + device.memory_reserved_bytes + headroom_bytes(device, request, policy)
    return (device.memory_total_bytes or 0) - taken


def activation_bytes(model: ModelProfile, request: PlacementRequest, policy: Policy) -> int:
    """Return the activation buffers of one device: nothing at a context of 0, at most one prefill step's tokens."""
    tokens = min(request.context_tokens * request.concurrency, policy.activation_tokens)
    return model.activation_bytes_per_token * tokens * policy.activation_buffers


def overhead_bytes(device: FleetDevice, request: PlacementRequest, policy: Policy) -> int:
    """Return what the runtime itself takes on a device it uses."""
    if request.runtime_overhead_bytes is not None:
        return request.runtime_overhead_bytes
    return policy.of_backend(device.backend).runtime_overhead_bytes


@dataclass(frozen=True)
class LayerMemory:
    """What ranges of layers take: weights and the KV cache of all sequences at the full context."""

    prefix: tuple[int, ...]
    """``prefix[b] - prefix[a]`` is what the layers ``a`` to ``b`` take, without embedding and head."""
    embedding: int
    head: int
    both_ends: int
    """Embedding and head for a stage that holds both: once when they are one tensor."""

    @cached_property
    def layers(self) -> int:
        """How many layers the model has."""
        return len(self.prefix) - 1

    @cached_property
    def even(self) -> bool:
        """Whether all layers take the same, and not nothing."""
        size = self.prefix[1]
        return size > 0 and all(total == size * layer for layer, total in enumerate(self.prefix))

    def extra(self, *, first: bool, last: bool) -> int:
        """Return what a stage holds beside its layers."""
        if first and last:
            return self.both_ends
        return self.embedding * first + self.head * last

    def stage(self, start: int, end: int) -> int:
        """Return what one stage takes with the layers ``start`` to ``end``, embedding and head included."""
        return self.prefix[end] - self.prefix[start] + self.extra(first=start == 0, last=end == self.layers)


def layer_memory(model: ModelProfile, request: PlacementRequest) -> LayerMemory:
    """Return the model's memory by layer for this context and concurrency."""
    kv = model.kv_bytes_by_layer(request.context_tokens)
    by_layer = (weights + cache * request.concurrency for weights, cache in zip(model.bytes_by_layer, kv, strict=True))
    # A tied head is the embedding's tensor: the last stage needs a copy of it even if the profile calls the head 0.
    head = max(model.head_bytes, model.embedding_bytes) if model.tied_embedding else model.head_bytes
    return LayerMemory(
        prefix=tuple(accumulate(by_layer, initial=0)),
        embedding=model.embedding_bytes,
        head=head,
        both_ends=head if model.tied_embedding else model.embedding_bytes + head,
    )
