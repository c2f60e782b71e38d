"""Which devices may take part at all, what each brings, and why the others may not."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from shardbus_schemas.dtypes import computes_in
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from shardbus_schemas.units import bytes_text

from shardbus_placer import capacity, cost
from shardbus_placer.policy import Policy

BarReason = Literal[
    "lost",
    "stale",
    "cordoned",
    "not_included",
    "excluded",
    "backend",
    "dtype",
    "memory_unknown",
    "battery",
    "shared_memory",
    "no_room",
]


@dataclass(frozen=True)
class Candidate:
    """A device that may hold layers, with its figures for this model and request."""

    key: DeviceKey
    node: NodeId
    device: FleetDevice
    usable_bytes: int
    room_bytes: int
    """Usable bytes less runtime overhead and activations: what layers, embedding and head may take."""
    max_layers: int
    speed_factor: float
    bandwidth: float
    """Effective, in bytes per second."""
    flops: float | None
    """Effective, or ``None`` if unknown."""
    seconds: tuple[float, ...]
    """Running sums of the decode time by layer."""
    head_seconds: float
    seconds_by_count: tuple[float, ...] | None


@dataclass(frozen=True)
class Barred:
    """A device that may not take part."""

    key: DeviceKey
    reason: BarReason
    why: str
    usable_bytes: int = 0
    short_bytes: int = 0
    """For ``no_room``: how much is missing for the smallest layer."""


@dataclass(frozen=True)
class Survey:
    """All devices of a fleet, sorted into those that may take part and those that may not, each by key."""

    candidates: tuple[Candidate, ...]
    barred: tuple[Barred, ...]
    assumptions: dict[DeviceKey, tuple[str, ...]]
    """What was not known of a candidate and how it was counted."""

    @property
    def reasons(self) -> dict[str, int]:
        """How many devices were barred, per reason."""
        counts: dict[str, int] = {}
        for barred in self.barred:
            counts[barred.reason] = counts.get(barred.reason, 0) + 1
        return dict(sorted(counts.items()))


def survey(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> Survey:
    """Return every device as a candidate or barred with its reason."""
    memory = capacity.layer_memory(model, request)
    named = {key: device for key, _, device in fleet.devices()}
    speeds = [
        device.memory_bandwidth_bytes_per_second
        for device in named.values()
        if device.memory_bandwidth_bytes_per_second is not None
    ]
    candidates: list[Candidate] = []
    barred: list[Barred] = []
    assumptions: dict[DeviceKey, tuple[str, ...]] = {}
    costs: dict[object, tuple[float, ...]] = {}
    # What is too small for a layer alone may still hold its share of one in a tensor group.
    in_groups = model.supports_tensor and request.sharding != "pipeline"
    owners = owners_of_shared_memory(fleet, policy)
    for key in sorted(named):
        device = named[key]
        refused = _bar(key, device, model, request, policy) or _bar_shared(key, device, owners)
        if refused is not None:
            barred.append(refused)
            continue
        free = capacity.free_bytes(device, request, policy)
        usable = max(0, free)
        fixed = capacity.overhead_bytes(device, request, policy) + capacity.activation_bytes(model, request, policy)
        most = max_layers(memory, free - fixed)
        if most == 0 and not (in_groups and free > fixed):
            barred.append(_no_room(key, memory, free, fixed))
            continue
        factor, _ = cost.speed_factor(device, policy)
        efficiency = policy.of_backend(device.backend)
        peak = cost.assumed_bandwidth(device, speeds, policy)
        bandwidth = peak * efficiency.bandwidth_efficiency * factor
        flops = cost.peak_flops(device, model.dtype)
        measured = cost.measured_speed(device, model)
        kind = (bandwidth, factor, measured)
        if kind not in costs:  # devices of one kind share their running sums
            costs[kind] = cost.prefix_sums(
                cost.seconds_by_layer(
                    device, model, request, bandwidth=bandwidth, factor=factor, sequences=request.concurrency
                )
            )
        candidates.append(
            Candidate(
                key=key,
                node=key.node_id,
                device=device,
                usable_bytes=usable,
                room_bytes=free - fixed,
                max_layers=most,
                speed_factor=factor,
                bandwidth=bandwidth,
                flops=None if flops is None else flops * efficiency.compute_efficiency * factor,
                seconds=costs[kind],
                head_seconds=cost.head_bytes_read(model) / bandwidth,
                seconds_by_count=cost.seconds_by_count(device, model, factor=factor, sequences=request.concurrency),
            )
        )
        assumptions[key] = tuple(_assumptions(device, peak, policy, measured=measured is not None))
    return Survey(tuple(candidates), tuple(barred), assumptions)


def owners_of_shared_memory(fleet: Fleet, policy: Policy) -> dict[NodeId, DeviceKey]:
    """Return, by node, the accelerator whose memory is the host's own, where there is one that can be used.

    The host's processor reports the same memory; promising it to both would promise it twice.
    """
    return {
        node.node_id: key
        for key, node, device in fleet.devices()
        if device.unified_memory and device.backend != "cpu" and device.status not in policy.barred_statuses
    }


def max_layers(memory: capacity.LayerMemory, room: int) -> int:
    """Return the length of the longest range of layers that fits in ``room`` bytes, its ends included."""
    prefix, layers = memory.prefix, memory.layers
    if prefix[-1] + memory.both_ends <= room:
        return layers
    if memory.even:
        size = prefix[1]
        # Alike layers: in the middle as many as fit, but not the last one or two, which bring the head or both ends.
        inside = min(layers - 2, room // size) if room >= 0 else 0
        at_end = min(layers - 1, max(0, room - min(memory.embedding, memory.head)) // size)
        return max(inside, at_end if room >= min(memory.embedding, memory.head) else 0, 0)
    best, start = 0, 0
    for end in range(1, layers + 1):
        while start < end and prefix[end] - prefix[start] + memory.extra(first=start == 0, last=end == layers) > room:
            start += 1
        best = max(best, end - start)
    return best


def names_of(fleet: Fleet) -> set[str]:
    """Return what ``include``, ``exclude`` and ``pin`` may name: nodes and devices."""
    return {*(str(node.node_id) for node in fleet.nodes), *(str(key) for key, _, _ in fleet.devices())}


def unknown_names(fleet: Fleet, names: Iterable[str]) -> dict[str, str | None]:
    """Return the names that match no node and no device, each with the nearest that does."""
    known = names_of(fleet)
    near = {name: difflib.get_close_matches(name, sorted(known), n=1) for name in names if name not in known}
    return {name: matches[0] if matches else None for name, matches in near.items()}


def _bar(
    key: DeviceKey, device: FleetDevice, model: ModelProfile, request: PlacementRequest, policy: Policy
) -> Barred | None:
    if device.status in policy.barred_statuses and device.status != "ok":
        said = {
            "lost": "it is lost, or its node left",
            "stale": "its last word is too old",
            "cordoned": "it is cordoned: nothing new goes there",
        }[device.status]
        return Barred(key, device.status, f"barred: {said}")
    names = {key, key.node_id}
    if request.include and names.isdisjoint(request.include):
        return Barred(key, "not_included", "barred: the request includes only other devices")
    if not names.isdisjoint(request.exclude):
        return Barred(key, "excluded", "barred: the request excludes it")
    if model.backends is not None and device.backend is not None and device.backend not in model.backends:
        can = ", ".join(model.backends) or "no backend"
        return Barred(key, "backend", f"barred: it runs {device.backend}, the model needs {can}")
    if not computes_in(device.dtypes, model.dtype):
        can = ", ".join(device.dtypes or ()) or "no dtype"
        return Barred(key, "dtype", f"barred: it computes in {can}, the model in {model.dtype}")
    if device.memory_total_bytes is None:
        return Barred(key, "memory_unknown", "barred: nobody knows how much memory it has")
    low = device.battery_percent is not None and device.battery_percent < policy.minimum_battery_percent
    if device.is_plugged_in is False and low:
        least = f"{policy.minimum_battery_percent:.0f} %"
        return Barred(key, "battery", f"barred: on battery at {device.battery_percent:.0f} %, less than {least}")
    return None


def _bar_shared(key: DeviceKey, device: FleetDevice, owners: dict[NodeId, DeviceKey]) -> Barred | None:
    owner = owners.get(key.node_id)
    if owner is None or device.backend != "cpu":
        return None
    return Barred(key, "shared_memory", f"barred: its memory is that of {owner}, and is counted there")


def _no_room(key: DeviceKey, memory: capacity.LayerMemory, free: int, fixed: int) -> Barred:
    smallest = min(memory.stage(index, index + 1) for index in range(memory.layers))
    usable, short = max(0, free), smallest + fixed - free
    why = f"barred: {bytes_text(usable)} usable, but one layer and the runtime take {bytes_text(smallest + fixed)}"
    return Barred(key, "no_room", why, usable_bytes=usable, short_bytes=max(0, short))


def _assumptions(device: FleetDevice, peak: float, policy: Policy, *, measured: bool) -> Iterable[str]:
    if device.memory_used_bytes is None:
        yield f"memory in use is unknown, taken as {policy.unknown_memory_used_fraction:.0%} of its total"
    if device.memory_bandwidth_bytes_per_second is None and not measured:
        yield f"memory bandwidth is unknown, taken as {peak / 1e9:.0f} GB/s"
