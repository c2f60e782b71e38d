"""A plan that claims to answer a request: what every check looks at."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest

from shardbus_placer.movement import Held
from shardbus_placer.policy import Policy

CLOSE = 1e-6
"""Relative difference that two ways of adding the same floats may have."""

Wrong = Iterator[str]
"""What is wrong, a sentence each."""


@dataclass(frozen=True)
class Claim:
    """The plan, beside what it was made from."""

    fleet: Fleet
    model: ModelProfile
    request: PlacementRequest
    policy: Policy
    placed: Placed
    held: Held | None = None
    """What lay where before, if anybody said."""
    horizon_tokens: float | None = None
    """For how many tokens the plan was to stand, if that was said."""

    @cached_property
    def devices(self) -> dict[DeviceKey, FleetDevice]:
        """Every device of the fleet."""
        return {key: device for key, _, device in self.fleet.devices()}

    @cached_property
    def inside(self) -> dict[NodeId, LinkFigures]:
        """What joins the devices of each node."""
        return {node.node_id: node.device_link or self.policy.device_link for node in self.fleet.nodes}

    @cached_property
    def declared(self) -> dict[tuple[NodeId, NodeId], LinkFigures]:
        """The links that the fleet gives."""
        return {(link.from_node, link.to_node): link for link in self.fleet.links}

    @cached_property
    def slowest_bandwidth(self) -> float:
        """The least memory bandwidth that is known of any device; infinite if none is."""
        known = (device.memory_bandwidth_bytes_per_second for device in self.devices.values())
        return min((speed for speed in known if speed is not None), default=math.inf)

    def link(self, here: DeviceKey, there: DeviceKey) -> LinkFigures | None:
        """Return the way from one device to another; ``None`` if there is none."""
        if here.node_id == there.node_id:
            return self.inside[here.node_id]
        return self.declared.get((here.node_id, there.node_id), self.fleet.default_link)

    def slowest_link(self, group: tuple[DeviceKey, ...]) -> tuple[float, float]:
        """Return the highest latency (s) and the least bandwidth (bytes/s) between any two of ``group``."""
        links = [link for a, b in permutations(group, 2) if (link := self.link(a, b)) is not None]
        return max(link.latency_seconds for link in links), min(link.bandwidth_bytes_per_second for link in links)

    def head_bytes(self) -> int:
        """Return what the last stage reads besides its layers."""
        model = self.model
        return max(model.head_bytes, model.embedding_bytes) if model.tied_embedding else model.head_bytes

    def largest_share(self, devices: int) -> tuple[int, int]:
        """Return how many parts of how many the device with most of a layer holds: equal ones, or whole KV heads."""
        heads = self.model.num_key_value_heads
        if heads is None or heads % devices == 0 or not self.model.supports_uneven_tensor:
            return 1, devices
        return math.ceil(heads / devices), heads

    def speed(self, device: FleetDevice) -> float:
        """Return the share of its speed that the device has to give."""
        policy, speed = self.policy, 1.0
        hot, threshold = device.thermal_temperature_c, device.thermal_throttle_threshold_c
        throttling = device.is_thermal_throttling
        if throttling is None and hot is not None and threshold is not None:
            throttling = hot >= threshold
        if throttling:
            speed *= policy.throttling_speed
        if device.is_plugged_in is False:
            speed *= policy.on_battery_speed
        return speed * (1 - policy.utilization_weight * (device.compute_utilization_percent or 0) / 100)

    def bandwidth(self, device: FleetDevice) -> float:
        """Return the bytes/s that the device reads; if unknown the policy's, no faster than the slowest known."""
        rules = self.policy.of_backend(device.backend)
        unknown = min(rules.unknown_bandwidth_bytes_per_second, self.slowest_bandwidth)
        peak = device.memory_bandwidth_bytes_per_second or unknown
        return peak * rules.bandwidth_efficiency * self.speed(device)

    def flops(self, device: FleetDevice) -> float | None:
        """Return the operations per second that the device does; ``None`` if nobody knows."""
        names = [self.model.dtype, "float16", "bfloat16", "float32"]
        peak = next((device.peak_flops[name] for name in names if name in device.peak_flops), None)
        efficiency = self.policy.of_backend(device.backend).compute_efficiency
        return None if peak is None else peak * efficiency * self.speed(device)


def same(a: float, b: float) -> bool:
    """Return whether two figures are one, worked out in two ways."""
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-15)
