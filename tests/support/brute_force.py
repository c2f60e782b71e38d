"""Every plan there is for a small placement problem, priced by formulas written apart from the planner's.

It knows only the raw inputs and the policy's figures, walks through all ordered choices of devices and tensor
groups with all their contiguous cuts, and keeps those that hold. Slow, plain, and easy to check by eye.
"""

import math
from collections.abc import Iterator
from itertools import combinations, pairwise, permutations

from shardbus_placer.policy import Policy
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

Group = tuple[DeviceKey, ...]


class BruteForce:
    def __init__(self, fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> None:
        self.fleet, self.model, self.request, self.policy = fleet, model, request, policy
        self.devices = {key: device for key, _, device in fleet.devices()}
        self.held = model.bytes_by_layer
        self.kv = model.kv_bytes_by_layer(request.context_tokens)
        c = request.concurrency
        active = zip(self.held, model.active_bytes_by_layer, self.kv, strict=True)
        self.read = [min(weights, used * c) + cache * c for weights, used, cache in active]
        self.inside = {node.node_id: node.device_link or policy.device_link for node in fleet.nodes}
        self.between: dict[tuple[str, str], LinkFigures] = {
            (link.from_node, link.to_node): link for link in fleet.links
        }
        peaks = [device.memory_bandwidth_bytes_per_second for device in self.devices.values()]
        self.slowest_peak = min([peak for peak in peaks if peak is not None], default=math.inf)

    def best(self, scores: dict[str, float] | None = None) -> float | None:
        """The best objective of all plans, or None if there is none."""
        values = [self._objective(order, bounds, scores or {}) for order, bounds in self.plans()]
        if not values:
            return None
        return max(values) if self.request.objective == "score" else min(values)

    def plans(self) -> Iterator[tuple[tuple[Group, ...], tuple[int, ...]]]:
        request, layers = self.request, self.model.layers
        groups = list(self._groups())
        for count in range(1, min(len(self.devices), layers) + 1):
            if request.max_stages is not None and count > request.max_stages:
                continue
            for order in permutations(groups, count):
                if not self._may_follow(order):
                    continue
                for inner in combinations(range(1, layers), count - 1):
                    bounds = (0, *inner, layers)
                    if self._holds(order, bounds):
                        yield order, bounds

    def _usable(self, key: DeviceKey) -> bool:
        device, request = self.devices[key], self.request
        names = {key, key.split("/")[0]}
        if device.status != "ok" or device.memory_total_bytes is None or names & set(request.exclude):
            return False
        if request.include and not names & set(request.include):
            return False
        same = {"bf16": "bfloat16", "fp16": "float16"}
        known = None if device.dtypes is None else {same.get(name, name) for name in device.dtypes}
        wanted = self.model.dtype
        if known is not None and wanted is not None and same.get(wanted, wanted) not in known:
            return False
        if self.model.backends is not None and device.backend is not None and device.backend not in self.model.backends:
            return False
        battery = 100.0 if device.battery_percent is None else device.battery_percent
        return not (device.is_plugged_in is False and battery < 30)

    def _groups(self) -> Iterator[Group]:
        usable = [key for key in self.devices if self._usable(key)]
        if self.request.sharding != "tensor":
            yield from ((key,) for key in usable)
        if self.request.sharding == "pipeline" or not self.model.supports_tensor:
            return
        with_room = [key for key in usable if self._has_room(key)]
        for size in range(2, len(with_room) + 1):
            if self.share(size) is None:
                continue
            for members in combinations(with_room, size):
                if len({self._kind(key) for key in members}) == 1 and self._joined(members, with_room):
                    yield tuple(sorted(members))

    def _has_room(self, key: DeviceKey) -> bool:
        """Whether the device holds a layer alone, or has anything to give to a group."""
        alone = any(self.needed(key, layer, layer + 1, 1) <= self.free(key) for layer in range(self.model.layers))
        return alone or self.free(key) > self.fixed(key)

    def share(self, size: int) -> tuple[int, int] | None:
        """How many parts of how many a device must hold where so many share a layer, or None if they cannot."""
        model = self.model
        parts = (model.num_attention_heads, model.num_key_value_heads, model.hidden_size)
        if size == 1 or all(part is not None and part % size == 0 for part in parts):
            return 1, size
        if model.supports_uneven_tensor and model.num_key_value_heads and size <= model.num_key_value_heads:
            return math.ceil(model.num_key_value_heads / size), model.num_key_value_heads
        return None

    def _joined(self, members: Group, with_room: list[DeviceKey]) -> bool:
        """Whether a group is of one node, or takes all that is alike from nodes that are quickly joined."""
        nodes = {key.split("/")[0] for key in members}
        if len(nodes) == 1:
            return True
        least = self.policy.tensor_link
        alike = [key for key in with_room if key.split("/")[0] in nodes and self._kind(key) == self._kind(members[0])]
        counts = {sum(key.split("/")[0] == node for key in members) for node in nodes}
        if least is None or len(counts) > 1 or len(alike) != len(members):
            return False
        return all(
            (link := self._link(a, b)) is not None
            and link.bandwidth_bytes_per_second >= least.bandwidth_bytes_per_second
            and link.latency_seconds <= least.latency_seconds
            for a, b in permutations(members, 2)
            if a.split("/")[0] != b.split("/")[0]
        )

    def _kind(self, key: DeviceKey) -> tuple[object, ...]:
        d = self.devices[key]
        kind = (d.name, d.backend, d.memory_total_bytes)
        return (*kind, self._speed(d), tuple(d.peak_flops.items()), d.measured)

    def _link(self, a: DeviceKey, b: DeviceKey) -> LinkFigures | None:
        here, there = a.split("/")[0], b.split("/")[0]
        if here == there:
            return self.inside[here]
        return self.between.get((here, there), self.fleet.default_link)

    def _may_follow(self, order: tuple[Group, ...]) -> bool:
        request = self.request
        devices = [key for group in order for key in group]
        nodes = {key.split("/")[0] for key in devices}
        if len(devices) != len(set(devices)) or len(nodes) < request.min_nodes:
            return False
        if request.max_nodes is not None and len(nodes) > request.max_nodes:
            return False
        if request.max_devices is not None and len(devices) > request.max_devices:
            return False
        if not set(request.pin) <= set(devices):
            return False
        return all(self._link(a[0], b[0]) is not None for a, b in pairwise(order))

    def _holds(self, order: tuple[Group, ...], bounds: tuple[int, ...]) -> bool:
        for index, group in enumerate(order):
            start, end = bounds[index], bounds[index + 1]
            if any(self.request.pin.get(key, end - start) != end - start for key in group):
                return False
            if any(self.needed(key, start, end, len(group)) > self.free(key) for key in group):
                return False
        return True

    def free(self, key: DeviceKey) -> int:
        device, request = self.devices[key], self.request
        total = device.memory_total_bytes or 0
        rules = self.policy.of_backend(device.backend)
        share = rules.headroom_fraction if request.headroom_fraction is None else request.headroom_fraction
        least = rules.headroom_bytes if request.headroom_bytes is None else request.headroom_bytes
        return (
            total
            - (device.memory_used_bytes or 0)
            - device.memory_reserved_bytes
            - max(least, math.ceil(share * total))
        )

    def needed(self, key: DeviceKey, start: int, end: int, size: int) -> int:
        model, request = self.model, self.request
        total = sum(self.held[start:end]) + request.concurrency * sum(self.kv[start:end])
        if model.tied_embedding:
            if start == 0 or end == model.layers:
                total += max(model.embedding_bytes, model.head_bytes) if end == model.layers else model.embedding_bytes
        else:
            total += model.embedding_bytes * (start == 0) + model.head_bytes * (end == model.layers)
        share = self.share(size)
        assert share is not None
        return math.ceil(total * share[0] / share[1]) + self.fixed(key)

    def fixed(self, key: DeviceKey) -> int:
        """What a device holds whatever its layers."""
        request = self.request
        tokens = min(request.context_tokens * request.concurrency, self.policy.activation_tokens)
        fixed = tokens * self.model.activation_bytes_per_token * self.policy.activation_buffers
        overhead = request.runtime_overhead_bytes
        if overhead is None:
            overhead = self.policy.of_backend(self.devices[key].backend).runtime_overhead_bytes
        return fixed + overhead

    def _speed(self, device: FleetDevice) -> float:
        policy = self.policy
        rules = policy.of_backend(device.backend)
        peak = device.memory_bandwidth_bytes_per_second
        if peak is None:
            peak = min(rules.unknown_bandwidth_bytes_per_second, self.slowest_peak)
        return peak * rules.bandwidth_efficiency * self._slow(device)

    def _slow(self, device: FleetDevice) -> float:
        policy, factor = self.policy, 1.0
        hot, threshold = device.thermal_temperature_c, device.thermal_throttle_threshold_c
        throttling = device.is_thermal_throttling
        if throttling is None:
            throttling = hot is not None and threshold is not None and hot >= threshold
        if throttling:
            factor *= policy.throttling_speed
        if device.is_plugged_in is False:
            factor *= policy.on_battery_speed
        return factor * (1 - policy.utilization_weight * (device.compute_utilization_percent or 0) / 100)

    def seconds(self, group: Group, start: int, end: int) -> float:
        model, request = self.model, self.request
        device = self.devices[group[0]]
        c, speed, size = request.concurrency, self._speed(device), len(group)
        count, slow = end - start, self._slow(device)
        total = sum(self.read[start:end]) / speed
        for measured in device.measured:
            if measured.model_id != model.model_id:
                continue
            if measured.seconds_per_layer is not None:
                one = sum(min(self.held[i], model.active_bytes_by_layer[i]) + self.kv[i] for i in range(start, end))
                total = count * measured.seconds_per_layer / slow + (sum(self.read[start:end]) - one) / speed
            if measured.tokens_per_second_by_layers:
                rates = measured.tokens_per_second_by_layers
                known = min(count, len(rates), model.layers)
                total = c / rates[known - 1] / slow * count / known
        if end == model.layers:
            head = max(model.head_bytes, model.embedding_bytes) if model.tied_embedding else model.head_bytes
            total += head / speed
        share = self.share(size)
        assert share is not None
        total *= share[0] / share[1]
        if size > 1:
            links = [link for a, b in permutations(group, 2) if (link := self._link(a, b)) is not None]
            slowest, narrowest = (
                max(link.latency_seconds for link in links),
                min(link.bandwidth_bytes_per_second for link in links),
            )
            piece = model.activation_bytes_per_token * c / size
            one = 2 * (size - 1) * (slowest + piece / narrowest)
            total += 2 * one * (end - start)
        return total

    def _objective(self, order: tuple[Group, ...], bounds: tuple[int, ...], scores: dict[str, float]) -> float:
        stages = [self.seconds(group, bounds[i], bounds[i + 1]) for i, group in enumerate(order)]
        size = self.model.activation_bytes_per_token * self.request.concurrency
        hops = [0.0] * len(order)
        for i, (a, b) in enumerate(pairwise(order)):
            link = self._link(a[0], b[0])
            assert link is not None
            hops[i] = link.latency_seconds + size / link.bandwidth_bytes_per_second
        if self.request.objective == "throughput":
            return max(stage + hop for stage, hop in zip(stages, hops, strict=True))
        if self.request.objective == "latency":
            return sum(stages) + sum(hops)
        return sum(
            (bounds[i + 1] - bounds[i]) * sum(scores[key] for key in group) / len(group)
            for i, group in enumerate(order)
        )
