"""One node's devices from all its backends: a device that two of them know is one device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem, DeviceSample, Reading
from shardbus_agents.benchmarks import with_benchmark


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one backend says at one tick."""

    devices: tuple[DeviceFacts, ...] = ()
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one node is and does at one tick. A device with a problem is in ``problems`` alone."""

    devices: Mapping[DeviceId, DeviceFacts] = field(default_factory=dict[DeviceId, DeviceFacts])
    states: Mapping[DeviceId, DeviceGPUState] = field(default_factory=dict[DeviceId, DeviceGPUState])
    problems: Mapping[DeviceId, str] = field(default_factory=dict[DeviceId, str])
    faults: tuple[DeviceFault, ...] = ()
    """Errors that drivers told of since the last tick."""
    unknown: Mapping[DeviceId, Mapping[str, str]] = field(default_factory=dict[DeviceId, Mapping[str, str]])
    """Of each device, the readings that are unknown and why, as far as a backend says."""
    gauges: Mapping[DeviceId, Mapping[str, float]] = field(default_factory=dict[DeviceId, Mapping[str, float]])
    """Of each device, what is for dashboards and not for the bus."""


def merge(samples: Sequence[Sampled]) -> Snapshot:
    """Return one snapshot; ``samples`` come in order of trust: what an earlier one knows, a later one may not change.

    But what was measured replaces anybody's figure, and a problem that any backend sees wins over another's good
    word. The battery is the host's, whoever read it, so each device of the node carries it.
    """
    devices: dict[DeviceId, DeviceFacts] = {}
    states: dict[DeviceId, DeviceGPUState] = {}
    problems: dict[DeviceId, str] = {}
    faults: list[DeviceFault] = []
    unknown: dict[DeviceId, dict[str, str]] = {}
    gauges: dict[DeviceId, dict[str, float]] = {}
    for sampled in samples:
        for device in sampled.devices:
            known = devices.get(device.device_id)
            devices[device.device_id] = device if known is None else merge_facts(known, device)
        for reading in sampled.readings:
            if isinstance(reading, DeviceProblem):
                problems.setdefault(reading.device_id, reading.reason)
            elif isinstance(reading, DeviceFault):
                faults.append(reading)
            else:
                sample = reading if isinstance(reading, DeviceSample) else DeviceSample(reading)
                state = sample.state
                seen = states.get(state.device_id)
                states[state.device_id] = state if seen is None else _merge_states(seen, state)
                unknown[state.device_id] = {**sample.unknown, **unknown.get(state.device_id, {})}
                gauges[state.device_id] = {**sample.gauges, **gauges.get(state.device_id, {})}
    powered = next((state for state in states.values() if _has_power(state)), None)
    for device_id, state in states.items():
        if powered is not None:
            states[device_id] = _fill(state, powered, _POWER)
    return Snapshot(
        devices={
            device_id: with_benchmark(device) for device_id, device in devices.items() if device_id not in problems
        },
        states={device_id: state for device_id, state in states.items() if device_id not in problems},
        problems=problems,
        faults=tuple(faults),
        unknown={device_id: _still_unknown(states[device_id], why) for device_id, why in unknown.items()},
        gauges=gauges,
    )


def _still_unknown(state: DeviceGPUState, why: Mapping[str, str]) -> Mapping[str, str]:
    return {name: reason for name, reason in why.items() if getattr(state, name) is None}


def merge_facts(trusted: DeviceFacts, other: DeviceFacts) -> DeviceFacts:
    """Return ``trusted`` with what only ``other`` knows, both named in ``reported_by``."""
    filled = _fill(trusted, other, _FACTS)
    peak_flops = {**other.peak_flops, **trusted.peak_flops}
    unknown = {**other.unknown, **trusted.unknown}
    return filled.model_copy(
        update={
            "peak_flops": peak_flops,
            "measured": trusted.measured or other.measured,
            "sources": {**other.sources, **trusted.sources},
            "peers": trusted.peers or other.peers,
            "unknown": {
                name: why
                for name, why in unknown.items()
                if not (peak_flops if name == "peak_flops" else getattr(filled, name, None))
            },
            "reported_by": "+".join(name for name in (trusted.reported_by, other.reported_by) if name) or None,
        }
    )


_MERGED_APART = ("device_id", "peak_flops", "measured", "sources", "peers", "unknown", "reported_by")
_FACTS = tuple(name for name in DeviceFacts.model_fields if name not in _MERGED_APART)
_POWER = ("battery_percent", "is_plugged_in")
_MEMORY = ("memory_used_bytes", "memory_total_bytes")
_READINGS = (
    "compute_utilization_percent",
    "thermal_temperature_c",
    "thermal_throttle_threshold_c",
    "is_thermal_throttling",
    "throttle_reasons",
    "power_watts",
    "health",
    *_POWER,
)

ModelT = TypeVar("ModelT", bound=FrozenModel)


def _merge_states(trusted: DeviceGPUState, other: DeviceGPUState) -> DeviceGPUState:
    # Used and total are one reading: a total of one source may be less than the use that another counts.
    no_memory = trusted.memory_used_bytes is None and trusted.memory_total_bytes is None
    return _fill(trusted, other, (*_READINGS, *_MEMORY) if no_memory else _READINGS)


def _has_power(state: DeviceGPUState) -> bool:
    return state.battery_percent is not None or state.is_plugged_in is not None


def _fill(known: ModelT, other: ModelT, names: tuple[str, ...]) -> ModelT:
    gained = {name: getattr(other, name) for name in names if getattr(known, name) is None}
    return known.model_copy(update={name: value for name, value in gained.items() if value is not None})
