"""Time: how long a device decodes a range of layers, and a hop takes. All seconds.

Decoding reads memory: a stage's time is the bytes it must read for one token of each sequence (the active
weights and the KV cache at the asked context) over the device's effective bandwidth, which is its peak times
the efficiency of its runtime, lowered while it throttles, is busy or runs from a battery. Of a mixture of
experts, ``c`` sequences read at most ``c`` times what one reads, and never more than all. The head is read by
the last stage. A measured figure replaces the formula's for one sequence; what further sequences add stays
the formula's.
"""

from collections.abc import Collection
from itertools import accumulate

from shardbus_schemas.devices import LinkFigures, MeasuredSpeed
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

from shardbus_placer.policy import Policy


def speed_factor(device: FleetDevice, policy: Policy) -> tuple[float, tuple[str, ...]]:
    """Return the share of its speed that the device has to give now, and why it is less than 1."""
    factor, why = 1.0, list[str]()
    hot, limit = device.thermal_temperature_c, device.thermal_throttle_threshold_c
    if device.is_thermal_throttling or (
        device.is_thermal_throttling is None and hot is not None and limit is not None and hot >= limit
    ):
        factor *= policy.throttling_speed
        why.append("throttling")
    if device.is_plugged_in is False:
        factor *= policy.on_battery_speed
        why.append("on battery")
    if device.compute_utilization_percent:
        factor *= 1 - policy.utilization_weight * device.compute_utilization_percent / 100
        why.append(f"{device.compute_utilization_percent:.0f} % busy")
    return factor, tuple(why)


def assumed_bandwidth(device: FleetDevice, known: Collection[float], policy: Policy) -> float:
    """Return a device's peak memory bandwidth; an unknown one is slow, and never faster than any of ``known``."""
    if device.memory_bandwidth_bytes_per_second is not None:
        return device.memory_bandwidth_bytes_per_second
    figure = policy.of_backend(device.backend).unknown_bandwidth_bytes_per_second
    return min([figure, *known])


def peak_flops(device: FleetDevice, dtype: str | None) -> float | None:
    """Return the peak for a dtype, or the nearest usual one that is known."""
    usual = ("float16", "bfloat16", "float32")
    names = [dtype, *usual] if dtype else usual
    return next((device.peak_flops[name] for name in names if name in device.peak_flops), None)


def bytes_read_by_layer(model: ModelProfile, request: PlacementRequest, sequences: int) -> list[int]:
    """Return what one decode step of ``sequences`` tokens reads, per layer."""
    kv = model.kv_bytes_by_layer(request.context_tokens)
    return [
        min(held, active * sequences) + cache * sequences if active < held else held + cache * sequences
        for held, active, cache in zip(model.bytes_by_layer, model.active_bytes_by_layer, kv, strict=True)
    ]


def head_bytes_read(model: ModelProfile) -> int:
    """Return what the last stage reads of the head; the embedding's look-up of one row costs nothing."""
    return max(model.head_bytes, model.embedding_bytes) if model.tied_embedding else model.head_bytes


def measured_speed(device: FleetDevice, model: ModelProfile) -> MeasuredSpeed | None:
    """Return what was measured of this very model on this device."""
    return next((measured for measured in device.measured if measured.model_id == model.model_id), None)


def seconds_by_layer(
    device: FleetDevice,
    model: ModelProfile,
    request: PlacementRequest,
    *,
    bandwidth: float,
    factor: float,
    sequences: int,
) -> list[float]:
    """Return the decode time of each layer for one token of each of ``sequences``; ``bandwidth`` is effective."""
    by_formula = [count / bandwidth for count in bytes_read_by_layer(model, request, sequences)]
    measured = measured_speed(device, model)
    if measured is None or measured.seconds_per_layer is None:
        return by_formula
    nominal = measured.seconds_per_layer / factor
    one = bytes_read_by_layer(model, request, 1)
    return [nominal + all_of_them - of_one / bandwidth for all_of_them, of_one in zip(by_formula, one, strict=True)]


def seconds_by_count(
    device: FleetDevice, model: ModelProfile, *, factor: float, sequences: int
) -> tuple[float, ...] | None:
    """Return measured stage times, element k for k layers, or ``None`` where none were measured.

    The figures are token rates by number of layers held, ``sequences`` tokens a step. Beyond the last
    figure the time per layer stays as there.
    """
    measured = measured_speed(device, model)
    if measured is None or not measured.tokens_per_second_by_layers:
        return None
    seconds = [sequences / rate / factor for rate in measured.tokens_per_second_by_layers][: model.layers]
    per_layer = seconds[-1] / len(seconds)
    seconds += [per_layer * count for count in range(len(seconds) + 1, model.layers + 1)]
    return (0.0, *seconds)


def all_reduce_seconds(link: LinkFigures, devices: int, size: int) -> float:
    """Return the time of a ring all-reduce of ``size`` bytes: 2(n-1) steps of a share of 1/n each."""
    steps = 2 * (devices - 1)
    return steps * (link.latency_seconds + size / devices / link.bandwidth_bytes_per_second)


def hop_seconds(link: LinkFigures, size: int) -> float:
    """Return how long ``size`` bytes of activations take over a link."""
    return link.latency_seconds + size / link.bandwidth_bytes_per_second


def prefix_sums(values: list[float]) -> tuple[float, ...]:
    """Return running sums, 0 first."""
    return tuple(accumulate(values, initial=0.0))
