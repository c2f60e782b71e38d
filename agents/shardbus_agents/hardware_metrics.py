"""The hardware metrics of this process' nodes: they read the last snapshots whenever somebody collects.

Nothing is computed until then, and only if the settings say where metrics go.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from shardbus_infra.observability import meter
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId

from shardbus_agents.collector import Snapshot
from shardbus_agents.hardware import (
    METRICS,
    NODE_METRICS,
    Device,
    Metric,
    NodeMetric,
    Point,
    error_type,
    metric_of_gauge,
    points_of_battery,
)


@dataclass(slots=True)
class _Node:
    """What is remembered of a node between its snapshots."""

    lifetime_seconds: float
    taken_at: float = 0.0
    devices: Mapping[DeviceId, Device] = field(default_factory=dict[DeviceId, Device])
    facts: Mapping[DeviceId, DeviceFacts] = field(default_factory=dict[DeviceId, DeviceFacts])
    errors: Mapping[DeviceId, Counter[str]] = field(default_factory=dict[DeviceId, Counter[str]])


class HardwareMetrics:
    """The instruments of all nodes that one process speaks for.

    Readings come from one thread and are collected on others: what a watcher gets replaces what was there, whole.
    """

    def __init__(self, instruments: Meter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = instruments
        self._clock = clock
        self._nodes: dict[NodeId, _Node] = {}
        self._gauges: set[str] = set()
        self._lock = threading.Lock()
        for metric in METRICS:
            self._observe(metric, self._points(metric))
        for metric in NODE_METRICS:
            self._observe(metric, self._node_points(metric))

    def watcher(self, node_id: NodeId, *, lifetime_seconds: float) -> Callable[[Snapshot], None]:
        """Return what a node is to call with each of its snapshots.

        A snapshot older than ``lifetime_seconds`` is none: then the agent does not look any more, and its last
        readings must not pass for today's.
        """
        node = _Node(lifetime_seconds)
        with self._lock:
            self._nodes[node_id] = node

        def watch(snapshot: Snapshot) -> None:
            self._take(node_id, node, snapshot)

        return watch

    def _take(self, node_id: NodeId, node: _Node, snapshot: Snapshot) -> None:
        here = (*snapshot.devices, *snapshot.problems)
        # A device that fell off keeps its name, so that its failure is told of the same device.
        facts = {
            device_id: snapshot.devices.get(device_id) or node.facts.get(device_id) or DeviceFacts(device_id=device_id)
            for device_id in here
        }
        errors = {device_id: node.errors.get(device_id, Counter[str]()).copy() for device_id in here}
        for fault in snapshot.faults:
            if fault.device_id in errors:
                errors[fault.device_id][error_type(fault)] += 1
        devices = {
            device_id: Device(
                node_id,
                facts[device_id],
                snapshot.states.get(device_id),
                {} if device_id in snapshot.problems else snapshot.gauges.get(device_id, {}),
                errors[device_id],
                snapshot.problems.get(device_id),
            )
            for device_id in here
        }
        with self._lock:
            node.taken_at, node.devices, node.facts, node.errors = self._clock(), devices, facts, errors
        for name in {name for device in devices.values() for name in device.gauges} - self._gauges:
            self._gauges.add(name)
            if (metric := metric_of_gauge(name)) is not None:
                self._observe(metric, self._points(metric))

    def _observe(self, metric: Metric | NodeMetric, points: Callable[[], Iterator[Point]]) -> None:
        def observations(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, attributes) for value, attributes in points()]

        match metric.kind:
            case "gauge":
                create = self._meter.create_observable_gauge
            case "updowncounter":
                create = self._meter.create_observable_up_down_counter
            case "counter":
                create = self._meter.create_observable_counter
        create(metric.name, [observations], unit=metric.unit, description=metric.description)

    def _points(self, metric: Metric) -> Callable[[], Iterator[Point]]:
        def points() -> Iterator[Point]:
            for devices in self._living():
                for device in devices.values():
                    yield from metric.points(device)

        return points

    def _node_points(self, metric: NodeMetric) -> Callable[[], Iterator[Point]]:
        def points() -> Iterator[Point]:
            for devices in self._living():
                yield from points_of_battery(metric, devices)

        return points

    def _living(self) -> list[Mapping[DeviceId, Device]]:
        now = self._clock()
        with self._lock:
            return [node.devices for node in self._nodes.values() if now - node.taken_at <= node.lifetime_seconds]


@cache
def hardware_metrics() -> HardwareMetrics:
    """Return this process' hardware metrics: a name can be registered once, however many agents run in it."""
    return HardwareMetrics(meter())
