"""What a node's devices are and do, as points of OpenTelemetry's hardware metrics. Pure: a snapshot in, points out.

Names, units and kinds are those of the semantic conventions for hardware (https://opentelemetry.io/docs/specs/semconv/
hardware/); what these have no name for is under ``shardbus.device``. What is unknown has no point: never 0.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState, Health, ThrottleReason

from shardbus_agents.backends.protocol import DeviceFault

NODE: Final = "shardbus.node.id"
"""On every point, so that one process can play many nodes and a query needs no join."""

Kind = Literal["gauge", "updowncounter", "counter"]
Attributes = Mapping[str, str]
Point = tuple[float, Attributes]


@dataclass(frozen=True, slots=True)
class Device:
    """One device of one node as of the last snapshot. With a problem it has no readings."""

    node_id: NodeId
    facts: DeviceFacts
    state: DeviceGPUState | None = None
    gauges: Mapping[str, float] = field(default_factory=dict[str, float])
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    """``error.type`` to how many the agent was told of since it started."""
    problem: str | None = None

    @property
    def type(self) -> str:
        """The conventions' ``hw.type``."""
        return "cpu" if self.facts.backend == "cpu" else "gpu"

    @property
    def attributes(self) -> Attributes:
        """Who this is, as each of its points says it."""
        facts = self.facts
        known = {
            NODE: self.node_id,
            "hw.id": facts.device_id,
            "hw.type": self.type,
            "hw.name": facts.label or facts.device_id,
            "hw.model": facts.name,
            "hw.vendor": facts.vendor,
            "hw.driver_version": facts.driver,
            "hw.parent": facts.parent_device_id,
        }
        return {name: value for name, value in known.items() if value is not None}

    @property
    def sensor(self) -> Attributes:
        """Its temperature sensor, which is a component of its own."""
        return {
            NODE: self.node_id,
            "hw.id": f"{self.facts.device_id}/temperature",
            "hw.type": "temperature",
            "hw.name": f"{self.facts.label or self.facts.device_id} temperature",
            "hw.parent": self.facts.device_id,
        }


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, and how a device's points of it are found."""

    name: str
    unit: str
    kind: Kind
    description: str
    points: Callable[[Device], Iterator[Point]]


@dataclass(frozen=True, slots=True)
class NodeMetric:
    """One metric that all devices of a node share: the host has one battery."""

    name: str
    unit: str
    kind: Kind
    description: str
    points: Callable[[NodeId, DeviceGPUState], Iterator[Point]]


def metric_of_gauge(name: str) -> Metric | None:
    """Return the metric for ``DeviceSample.gauges[name]``, or ``None`` where another metric has it already.

    The name's last words are its unit: ``clock_hertz`` becomes ``shardbus.device.clock`` in Hz.
    """
    if name == ENERGY or name.endswith(ERRORS):
        return None
    suffix, (unit, scale) = next(((text, what) for text, what in _UNITS.items() if name.endswith(text)), ("", ("1", 1)))

    def points(device: Device) -> Iterator[Point]:
        if (value := device.gauges.get(name)) is not None:
            yield value * scale, device.attributes

    plain = name.removesuffix(suffix)
    description = f"{plain.replace('_', ' ').capitalize()}, as the device's backend tells it."
    return Metric(f"shardbus.device.{plain}", unit, "gauge", description, points)


ENERGY: Final = "energy_joules"
"""The gauge that is ``hw.energy``: all that the device consumed since its driver was loaded."""
ERRORS: Final = "_errors"
"""Gauges of this ending are ``hw.errors``: ``ecc_corrected_errors`` are those whose ``error.type`` is ``corrected``."""

_UNITS: Final[Mapping[str, tuple[str, float]]] = {
    "_bytes_per_second": ("By/s", 1),
    "_hertz": ("Hz", 1),
    "_watts": ("W", 1),
    "_joules": ("J", 1),
    "_bytes": ("By", 1),
    "_seconds": ("s", 1),
    "_celsius": ("Cel", 1),
    "_c": ("Cel", 1),
    "_percent": ("1", 0.01),
}
"""Ending of a gauge's name to its unit in UCUM, and the factor to it."""


def error_type(fault: DeviceFault) -> str:
    """Return what ``hw.errors`` counts a fault by: ``xid_79``, or its kind where it has no number."""
    return f"{fault.kind}_{fault.code}" if fault.code is not None else fault.kind


def _told(
    read: Callable[[DeviceGPUState], float | None],
    of: Literal["gpu", "cpu", "all"] = "all",
    more: Attributes | None = None,
) -> Callable[[Device], Iterator[Point]]:
    """Return how a reading is told of the devices of one type, or of all."""

    def points(device: Device) -> Iterator[Point]:
        if device.state is not None and of in {device.type, "all"} and (value := read(device.state)) is not None:
            yield value, {**device.attributes, **(more or {})}

    return points


def _sensed(
    read: Callable[[DeviceGPUState], float | None], more: Attributes | None = None
) -> Callable[[Device], Iterator[Point]]:
    """Return how a reading is told of the device's temperature sensor."""

    def points(device: Device) -> Iterator[Point]:
        if device.state is not None and (value := read(device.state)) is not None:
            yield value, {**device.sensor, **(more or {})}

    return points


def _total(state: DeviceGPUState) -> float | None:
    return state.memory_total_bytes


def _used(state: DeviceGPUState) -> float | None:
    return state.memory_used_bytes


def _used_share(state: DeviceGPUState) -> float | None:
    if state.memory_used_bytes is None or not state.memory_total_bytes:
        return None
    return state.memory_used_bytes / state.memory_total_bytes


def _utilization(state: DeviceGPUState) -> float | None:
    return None if state.compute_utilization_percent is None else state.compute_utilization_percent / 100


def _thermally_throttled(state: DeviceGPUState) -> float | None:
    return None if state.is_thermal_throttling is None else int(state.is_thermal_throttling)


def _energy(device: Device) -> Iterator[Point]:
    if (joules := device.gauges.get(ENERGY)) is not None:
        yield joules, device.attributes


def _status(device: Device) -> Iterator[Point]:
    """Tell which state it is in, also of a device that fell off: that it failed is then all that is known of it."""
    health = "failed" if device.problem is not None else None if device.state is None else device.state.health
    if health is not None:
        for state in get_args(Health):
            yield int(state == health), {**device.attributes, "hw.state": state}


def _errors(device: Device) -> Iterator[Point]:
    for kind, count in device.errors.items():
        yield count, {**device.attributes, "error.type": kind}
    for name, total in device.gauges.items():
        if name.endswith(ERRORS):
            # The conventions' own words for what a GPU's ECC finds are "corrected" and "uncorrected".
            yield total, {**device.attributes, "error.type": name.removesuffix(ERRORS).removeprefix("ecc_")}


def _throttling(device: Device) -> Iterator[Point]:
    if device.state is not None and device.state.throttle_reasons is not None:
        for reason in get_args(ThrottleReason):
            held_back = int(reason in device.state.throttle_reasons)
            yield held_back, {**device.attributes, "shardbus.throttle.reason": reason}


def _power_limit(device: Device) -> Iterator[Point]:
    if device.problem is None and device.facts.power_limit_watts is not None:
        yield device.facts.power_limit_watts, device.attributes


METRICS: Final = (
    Metric("hw.gpu.memory.limit", "By", "updowncounter", "Size of the GPU memory.", _told(_total, "gpu")),
    Metric("hw.gpu.memory.usage", "By", "updowncounter", "GPU memory used.", _told(_used, "gpu")),
    Metric("hw.gpu.memory.utilization", "1", "gauge", "Fraction of GPU memory used.", _told(_used_share, "gpu")),
    Metric(
        "hw.gpu.utilization",
        "1",
        "gauge",
        "Fraction of time spent in a specific task.",
        _told(_utilization, "gpu", {"hw.gpu.task": "general"}),
    ),
    Metric(
        "hw.temperature",
        "Cel",
        "gauge",
        "Temperature in degrees Celsius.",
        _sensed(lambda state: state.thermal_temperature_c),
    ),
    Metric(
        "hw.temperature.limit",
        "Cel",
        "gauge",
        "Temperature limit in degrees Celsius.",
        _sensed(lambda state: state.thermal_throttle_threshold_c, {"hw.limit_type": "high.degraded"}),
    ),
    Metric(
        "hw.power",
        "W",
        "gauge",
        "Instantaneous power consumed by the component.",
        _told(lambda state: state.power_watts),
    ),
    Metric("hw.energy", "J", "counter", "Energy consumed by the component.", _energy),
    Metric(
        "hw.status",
        "1",
        "updowncounter",
        "Operational status: `1` (true) or `0` (false) for each of the possible states.",
        _status,
    ),
    Metric("hw.errors", "{error}", "counter", "Number of errors encountered by the component.", _errors),
    Metric(
        "shardbus.device.throttled",
        "1",
        "gauge",
        "Whether the device is held back, by reason: 1 (true) or 0 (false) for each.",
        _throttling,
    ),
    Metric(
        "shardbus.device.thermally_throttled",
        "1",
        "gauge",
        "Whether heat holds the device back: 1 (true) or 0 (false).",
        _told(_thermally_throttled),
    ),
    Metric("shardbus.device.power.limit", "W", "gauge", "What the device may consume at most.", _power_limit),
    # The conventions have no such figures for a processor.
    Metric("shardbus.device.memory.limit", "By", "updowncounter", "Size of the host's memory.", _told(_total, "cpu")),
    Metric("shardbus.device.memory.usage", "By", "updowncounter", "The host's memory used.", _told(_used, "cpu")),
    Metric(
        "shardbus.device.memory.utilization",
        "1",
        "gauge",
        "Fraction of the host's memory used.",
        _told(_used_share, "cpu"),
    ),
    Metric(
        "shardbus.device.utilization",
        "1",
        "gauge",
        "Fraction of time the processor worked.",
        _told(_utilization, "cpu"),
    ),
)
"""All that is told of devices, beside their gauges."""


def _charge(node_id: NodeId, state: DeviceGPUState) -> Iterator[Point]:
    if state.battery_percent is not None:
        yield state.battery_percent / 100, _battery(node_id)


def _plugged_in(node_id: NodeId, state: DeviceGPUState) -> Iterator[Point]:
    if state.is_plugged_in is not None:
        yield int(state.is_plugged_in), _battery(node_id)


def _battery(node_id: NodeId) -> Attributes:
    return {NODE: node_id, "hw.id": "battery", "hw.type": "battery", "hw.name": "battery"}


NODE_METRICS: Final = (
    NodeMetric("hw.battery.charge", "1", "gauge", "Remaining fraction of battery charge.", _charge),
    NodeMetric("shardbus.battery.plugged_in", "1", "gauge", "Whether the host has mains: 1 or 0.", _plugged_in),
)
"""The battery is the host's: each device of the node carries it, and it is told once."""


def points_of_battery(metric: NodeMetric, devices: Mapping[DeviceId, Device]) -> Iterator[Point]:
    """Return the first answer that any device has."""
    for device in devices.values():
        if device.state is not None and (points := tuple(metric.points(device.node_id, device.state))):
            yield from points
            return
