"""A node's readings under OpenTelemetry's hardware conventions: which points there are, and when they end."""

import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, NumberDataPoint
from opentelemetry.semconv._incubating.attributes import hw_attributes
from opentelemetry.semconv._incubating.metrics import hw_metrics as conventions
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem, DeviceSample
from shardbus_agents.collector import Sampled, Snapshot, merge
from shardbus_agents.hardware import METRICS, NODE_METRICS, Metric, NodeMetric, metric_of_gauge
from shardbus_agents.hardware_metrics import HardwareMetrics
from shardbus_schemas.devices import DeviceFacts
from support.readings import NODE, START, facts, state

GIBIBYTE = 2**30
DASHBOARD = Path(__file__).parents[3] / "infra" / "grafana" / "shardbus-devices.json"
CARD = facts(
    "GPU-1",
    label="cuda:0",
    name="NVIDIA L4",
    vendor="nvidia",
    driver="580.65.06",
    backend="cuda",
    power_limit_watts=72.0,
)
BUSY = state(
    "GPU-1",
    memory_used_bytes=6 * GIBIBYTE,
    memory_total_bytes=24 * GIBIBYTE,
    compute_utilization_percent=87,
    thermal_temperature_c=71,
    thermal_throttle_threshold_c=93,
    is_thermal_throttling=False,
    throttle_reasons=("power_cap",),
    power_watts=70.5,
    health="degraded",
)
GAUGES = {"energy_joules": 1200.0, "clock_hertz": 2.04e9, "driver_seconds": 0.0004, "ecc_corrected_errors": 3.0}
WHO = {
    "shardbus.node.id": "attic",
    "hw.id": "GPU-1",
    "hw.type": "gpu",
    "hw.name": "cuda:0",
    "hw.model": "NVIDIA L4",
    "hw.vendor": "nvidia",
    "hw.driver_version": "580.65.06",
}
SENSOR = {
    "shardbus.node.id": "attic",
    "hw.id": "GPU-1/temperature",
    "hw.type": "temperature",
    "hw.name": "cuda:0 temperature",
    "hw.parent": "GPU-1",
}


class Bench:
    """Hardware metrics on a real SDK, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self._metrics = HardwareMetrics(self._provider.get_meter("test"), clock=lambda: self.now)
        self.watch = self._metrics.watcher(NODE, lifetime_seconds=8)

    def watcher(self, node: str) -> Any:
        return self._metrics.watcher(node, lifetime_seconds=8)

    def collect(self) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        data = self._reader.get_metrics_data()
        return {} if data is None else points_of(data)

    def close(self) -> None:
        self._provider.shutdown()


def points_of(data: MetricsData) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    assert isinstance(point, NumberDataPoint)
                    found.setdefault(metric.name, []).append((point.value, dict(point.attributes or {})))
    return found


@pytest.fixture
def bench() -> Iterable[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def sampled(*devices: tuple[DeviceFacts, Any], also: tuple[Any, ...] = ()) -> Snapshot:
    return merge([Sampled(tuple(one for one, _ in devices), (*(reading for _, reading in devices), *also))])


def test_a_card_is_told_in_the_names_units_and_attributes_of_the_conventions(bench: Bench) -> None:
    bench.watch(sampled((CARD, DeviceSample(BUSY, gauges=GAUGES))))
    found = bench.collect()
    assert found["hw.gpu.memory.limit"] == [(24 * GIBIBYTE, WHO)]
    assert found["hw.gpu.memory.usage"] == [(6 * GIBIBYTE, WHO)]
    assert found["hw.gpu.memory.utilization"] == [(0.25, WHO)]
    assert found["hw.gpu.utilization"] == [(0.87, {**WHO, "hw.gpu.task": "general"})]
    assert found["hw.temperature"] == [(71, SENSOR)]
    assert found["hw.temperature.limit"] == [(93, {**SENSOR, "hw.limit_type": "high.degraded"})]
    assert found["hw.power"] == [(70.5, WHO)]
    assert found["hw.energy"] == [(1200, WHO)]
    assert found["hw.errors"] == [(3, {**WHO, "error.type": "corrected"})]
    assert {point["hw.state"]: value for value, point in found["hw.status"]} == {"ok": 0, "degraded": 1, "failed": 0}
    reasons = {point["shardbus.throttle.reason"]: value for value, point in found["shardbus.device.throttled"]}
    assert reasons == {
        "power_cap": 1,
        "hardware": 0,
        "sync_boost": 0,
        "software_thermal": 0,
        "hardware_thermal": 0,
        "power_brake": 0,
    }
    assert found["shardbus.device.thermally_throttled"] == [(0, WHO)]
    assert found["shardbus.device.power.limit"] == [(72, WHO)]
    assert found["shardbus.device.clock"] == [(2.04e9, WHO)]
    assert found["shardbus.device.driver"] == [(0.0004, WHO)]
    assert "shardbus.device.energy" not in found
    assert "shardbus.device.ecc_corrected" not in found


def test_what_is_unknown_has_no_point_at_all(bench: Bench) -> None:
    bench.watch(sampled((facts("GPU-1", backend="cuda"), state("GPU-1"))))
    assert bench.collect() == {}


def test_a_processor_is_no_gpu(bench: Bench) -> None:
    readings = state("cpu", memory_used_bytes=1, memory_total_bytes=4, compute_utilization_percent=50)
    bench.watch(sampled((facts("cpu", backend="cpu", label="cpu"), readings)))
    found = bench.collect()
    who = {"shardbus.node.id": "attic", "hw.id": "cpu", "hw.type": "cpu", "hw.name": "cpu"}
    assert not [name for name in found if name.startswith("hw.gpu")]
    assert found["shardbus.device.utilization"] == [(0.5, who)]
    assert found["shardbus.device.memory.limit"] == [(4, who)]
    assert found["shardbus.device.memory.usage"] == [(1, who)]
    assert found["shardbus.device.memory.utilization"] == [(0.25, who)]


def test_a_slice_names_its_card_as_parent(bench: Bench) -> None:
    one = facts("MIG-1", backend="cuda", parent_device_id="GPU-1")
    bench.watch(sampled((one, state("MIG-1", memory_used_bytes=5))))
    [(used, who)] = bench.collect()["hw.gpu.memory.usage"]
    assert (used, who["hw.parent"]) == (5, "GPU-1")


def test_the_battery_is_the_nodes_and_told_once(bench: Bench) -> None:
    power = {"battery_percent": 40, "is_plugged_in": False}
    bench.watch(sampled((facts("metal:0"), state("metal:0", **power)), (facts("cpu"), state("cpu", **power))))
    found = bench.collect()
    who = {"shardbus.node.id": "attic", "hw.id": "battery", "hw.type": "battery", "hw.name": "battery"}
    assert found["hw.battery.charge"] == [(0.4, who)]
    assert found["shardbus.battery.plugged_in"] == [(0, who)]


def test_the_readings_of_a_lost_device_end_and_that_it_failed_remains(bench: Bench) -> None:
    other = facts("GPU-2", backend="cuda"), state("GPU-2", thermal_temperature_c=30)
    bench.watch(sampled((CARD, DeviceSample(BUSY, gauges=GAUGES)), other))
    bench.collect()
    fault = DeviceFault("GPU-1", "xid", "fell off the bus", START, code=79, is_critical=True)
    bench.watch(sampled(other, also=(DeviceProblem("GPU-1", "fell off"), fault)))
    found = bench.collect()
    of_the_card = {
        name
        for name, points in found.items()
        for _, point in points
        if "GPU-1" in {point["hw.id"], point.get("hw.parent")}
    }
    assert of_the_card == {"hw.status", "hw.errors"}
    assert {point["hw.state"]: value for value, point in found["hw.status"]} == {"ok": 0, "degraded": 0, "failed": 1}
    assert found["hw.status"][0][1] == {**WHO, "hw.state": "ok"}, "it keeps its name"
    assert found["hw.errors"] == [(1, {**WHO, "error.type": "xid_79"})]
    assert [value for value, _ in found["hw.temperature"]] == [30]


def test_a_device_that_was_taken_out_leaves_nothing_behind(bench: Bench) -> None:
    bench.watch(sampled((CARD, DeviceSample(BUSY, gauges=GAUGES))))
    bench.collect()
    bench.watch(Snapshot())
    assert bench.collect() == {}


def test_a_device_that_comes_back_is_told_again(bench: Bench) -> None:
    bench.watch(sampled((CARD, BUSY)))
    bench.watch(sampled(also=(DeviceProblem("GPU-1", "hangs"),)))
    bench.collect()
    bench.watch(sampled((CARD, BUSY)))
    found = bench.collect()
    assert found["hw.gpu.utilization"][0][0] == 0.87
    assert {point["hw.state"]: value for value, point in found["hw.status"]}["failed"] == 0


def test_errors_are_counted_over_snapshots(bench: Bench) -> None:
    for code in (31, 31, None):
        bench.watch(sampled((CARD, BUSY), also=(DeviceFault("GPU-1", "xid", "page fault", START, code=code),)))
    bench.watch(sampled((CARD, BUSY)))
    counts = {point["error.type"]: value for value, point in bench.collect()["hw.errors"]}
    assert counts == {"xid_31": 2, "xid": 1}


def test_readings_that_nobody_renews_end(bench: Bench) -> None:
    bench.watch(sampled((CARD, BUSY)))
    bench.now += 8
    assert bench.collect()
    bench.now += 0.1
    assert bench.collect() == {}, "an agent that does not look any more must not pass its last readings for today's"
    bench.watch(sampled((CARD, BUSY)))
    assert bench.collect()


def test_the_nodes_of_one_process_are_told_apart(bench: Bench) -> None:
    bench.watch(sampled((CARD, BUSY)))
    bench.watcher("den")(sampled((CARD, BUSY)))
    nodes = [point["shardbus.node.id"] for _, point in bench.collect()["hw.power"]]
    assert nodes == ["attic", "den"]


@pytest.mark.parametrize(
    ("gauge", "metric", "unit", "value"),
    [
        ("clock_hertz", "shardbus.device.clock", "Hz", 50),
        ("pcie_sent_bytes_per_second", "shardbus.device.pcie_sent", "By/s", 50),
        ("reserved_bytes", "shardbus.device.reserved", "By", 50),
        ("driver_seconds", "shardbus.device.driver", "s", 50),
        ("margin_c", "shardbus.device.margin", "Cel", 50),
        ("fan_percent", "shardbus.device.fan", "1", 0.5),
        ("nvlinks", "shardbus.device.nvlinks", "1", 50),
    ],
)
def test_a_gauge_says_its_unit_at_the_end_of_its_name(
    bench: Bench, gauge: str, metric: str, unit: str, value: float
) -> None:
    found = metric_of_gauge(gauge)
    assert found is not None
    assert (found.name, found.unit) == (metric, unit)
    bench.watch(sampled((CARD, DeviceSample(BUSY, gauges={gauge: 50}))))
    assert [told for told, _ in bench.collect()[metric]] == [value]


def published_conventions() -> dict[str, tuple[str, str, str]]:
    """Kind, unit and description of each metric, as OpenTelemetry's own package of conventions would make it."""
    found: dict[str, tuple[str, str, str]] = {}
    for name, create in inspect.getmembers(conventions, inspect.isfunction):
        if not name.startswith("create_hw"):
            continue
        meter = MagicMock()
        create(meter, *([None] if len(inspect.signature(create).parameters) > 1 else []))
        [(made, _, told)] = meter.mock_calls
        kind = made.removeprefix("create_").removeprefix("observable_").replace("_", "")
        found[told["name"]] = (kind, told["unit"], told["description"])
    return found


@pytest.mark.parametrize("metric", [*METRICS, *NODE_METRICS], ids=lambda metric: metric.name)
def test_each_name_is_of_the_published_conventions_or_our_own(metric: Metric | NodeMetric) -> None:
    known = published_conventions()
    if metric.name.startswith("shardbus."):
        assert metric.name.removeprefix("shardbus.") not in known
    else:
        assert (metric.kind, metric.unit, metric.description) == known[metric.name]


def test_each_attribute_is_of_the_published_conventions_or_our_own(bench: Bench) -> None:
    known = {value for name, value in vars(hw_attributes).items() if name.startswith("HW_")} | {"error.type"}
    power = BUSY.model_copy(update={"battery_percent": 5.0, "is_plugged_in": True})
    bench.watch(sampled((CARD, DeviceSample(power, gauges=GAUGES))))
    found = bench.collect()
    assert {metric.name for metric in METRICS if not metric.name.startswith("shardbus.device.")} <= set(found)
    for name, points in found.items():
        for _, attributes in points:
            assert {"hw.id", "hw.type"} <= set(attributes), name
            assert {one for one in attributes if not one.startswith("shardbus.")} <= known, name
            assert attributes["hw.type"] in {one.value for one in hw_attributes.HwTypeValues}
            if "hw.state" in attributes:
                assert attributes["hw.state"] in {one.value for one in hw_attributes.HwStateValues}
            if "hw.limit_type" in attributes:
                assert attributes["hw.limit_type"] in {one.value for one in hw_attributes.HwLimitTypeValues}


def samples_on_the_page(snapshot: Snapshot) -> dict[str, set[str]]:
    """Return each sample's name on the Prometheus page with the labels that it has."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    HardwareMetrics(provider.get_meter("test")).watcher(NODE, lifetime_seconds=60)(snapshot)
    page = generate_latest(registry).decode()
    provider.shutdown()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_the_dashboard_asks_only_for_what_is_on_the_metrics_page() -> None:
    everything = DeviceSample(BUSY.model_copy(update={"battery_percent": 5.0, "is_plugged_in": True}), gauges=GAUGES)
    known = samples_on_the_page(sampled((CARD, everything), (facts("cpu", backend="cpu"), state("cpu"))))
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = [target for panel in document["panels"] for target in panel["targets"]]
    assert len(targets) >= 8
    labels = {label for of_sample in known.values() for label in of_sample}
    for target in targets:
        query = target["expr"]
        asked = re.findall(r"((?:hw|shardbus)_\w+)\{([^}]*)\}", query)
        assert asked, query
        for name, selector in asked:
            assert name in known, query
            assert set(re.findall(r"(\w+)=", selector)) <= known[name], query
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels
    assert {row["id"] for row in document["panels"]} == set(range(1, len(document["panels"]) + 1))
    assert {variable["name"] for variable in document["templating"]["list"]} == {"datasource", "node"}
