"""The hardware metrics of a running agent: scraped from /metrics, and received by a collector.

The agent is a process of its own on the compiled driver stub, so that everything in between is real.
"""

import math
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from shardbus_infra.embedded.ports import free_port
from support.collector import Collector, collector
from support.command_line import Running, running
from support.nvml_stub import SYSTEM_NAME, StubState, build_stub
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow]

GIBIBYTE = 2**30


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub under the driver's own name, so that whoever asks the loader for it gets it."""
    return build_stub(tmp_path_factory.mktemp("driver"), name=SYSTEM_NAME)


@pytest.fixture
def driver(tmp_path: Path) -> StubState:
    state = StubState(tmp_path / "state")
    state.set(count=2, gpu0_used=6 * GIBIBYTE, gpu0_util=87, gpu0_temp=71, gpu1_util=3)
    return state


@contextmanager
def agent(nats_url: str, library: Path, driver: StubState, tmp_path: Path, **settings: str) -> Generator[Running]:
    with running(
        "agent",
        log=tmp_path / "agent.log",
        SHARDBUS_NATS_URL=nats_url,
        SHARDBUS_NODE_ID="attic",
        SHARDBUS_BACKENDS='["nvml", "psutil"]',
        SHARDBUS_SAMPLE_INTERVAL_SECONDS="0.2",
        SHARDBUS_DRIVER_PATIENCE_SECONDS="1",
        LD_LIBRARY_PATH=str(library.parent),
        NVML_STUB_STATE=str(driver.path),
        **settings,
    ) as started:
        yield started


class Page:
    """The metrics page of an agent, as a scraper sees it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    def families(self) -> dict[str, Metric]:
        try:
            with urllib.request.urlopen(self._url, timeout=5) as answer:
                return {found.name: found for found in text_string_to_metric_families(answer.read().decode())}
        except OSError:
            return {}  # it does not listen yet

    def values(self, family: str, **labels: str) -> list[float]:
        found = self.families().get(family)
        return [] if found is None else [one.value for one in found.samples if labels.items() <= one.labels.items()]

    def devices(self, family: str) -> set[str]:
        found = self.families().get(family)
        return set() if found is None else {one.labels["hw_id"] for one in found.samples}


@pytest.fixture
def page(nats_url: str, library: Path, driver: StubState, tmp_path: Path) -> Iterator[Page]:
    port = free_port()
    with agent(
        nats_url, library, driver, tmp_path, SHARDBUS_OTEL_EXPORTER="prometheus", SHARDBUS_PROMETHEUS_PORT=str(port)
    ) as started:
        page = Page(port)
        until_sync(lambda: len(page.devices("hw_gpu_utilization")) == 2, within=20, what="both cards on the page")
        yield page
        assert started.stop() == 0, started.said
        assert "Traceback" not in started.said, started.said
        assert "already" not in started.said, started.said


def test_a_scrape_finds_the_cards_and_the_processor(page: Page) -> None:
    card = {"shardbus_node_id": "attic", "hw_id": "GPU-00000000", "hw_type": "gpu", "hw_name": "cuda:0"}
    assert page.values("hw_gpu_utilization", **card, hw_gpu_task="general") == [0.87]
    assert page.values("hw_gpu_memory_usage_bytes", **card) == [6 * GIBIBYTE]
    [limit] = page.values("hw_gpu_memory_limit_bytes", **card)
    [share] = page.values("hw_gpu_memory_utilization", **card)
    assert math.isclose(share, 6 * GIBIBYTE / limit)
    assert page.values("hw_temperature_celsius", hw_id="GPU-00000000/temperature", hw_parent="GPU-00000000") == [71]
    [model] = {
        (one.labels["hw_model"], one.labels["hw_vendor"], one.labels["hw_driver_version"])
        for one in page.families()["hw_gpu_utilization"].samples
        if one.labels["hw_id"] == "GPU-00000000"
    }
    assert model[1:] == ("nvidia", "580.65.06")
    [host] = page.values("shardbus_device_memory_limit_bytes", hw_id="cpu", hw_type="cpu")
    assert host > GIBIBYTE / 4


def test_a_lost_card_disappears_and_is_marked_as_failed(page: Page, driver: StubState) -> None:
    driver.set(gpu0_lost=1)
    until_sync(
        lambda: page.values("hw_status", hw_id="GPU-00000000", hw_state="failed") == [1], what="the card as failed"
    )
    assert page.devices("hw_gpu_utilization") == {"GPU-00000001"}
    assert page.devices("hw_temperature_celsius") == {"GPU-00000001/temperature"}
    driver.set(gpu0_lost=0)
    until_sync(lambda: len(page.devices("hw_gpu_utilization")) == 2, what="the card again")
    assert 1 not in page.values("hw_status", hw_id="GPU-00000000", hw_state="failed")


def test_the_readings_of_a_hanging_driver_disappear(page: Page, driver: StubState) -> None:
    driver.set(gpu0_hang=1)
    until_sync(lambda: "GPU-00000000" not in page.devices("hw_gpu_utilization"), what="no more readings")
    until_sync(lambda: page.values("hw_status", hw_id="GPU-00000000", hw_state="failed") == [1], what="it as failed")
    assert "cpu" in page.devices("shardbus_device_memory_limit_bytes"), "the processor is still told"
    driver.set(gpu0_hang=0)
    until_sync(lambda: "GPU-00000000" in page.devices("hw_gpu_utilization"), what="the card again")


def test_a_collector_receives_the_same_over_otlp(
    nats_url: str, library: Path, driver: StubState, tmp_path: Path
) -> None:
    with collector() as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        with agent(
            nats_url, library, driver, tmp_path, SHARDBUS_OTEL_EXPORTER="otlp", SHARDBUS_OTLP_ENDPOINT=endpoint
        ) as started:
            until_sync(lambda: "hw.gpu.utilization" in received(server), within=30, what="the first export")
            assert started.stop() == 0, started.said
        found = received(server)
    metric = found["hw.gpu.memory.limit"]
    assert (metric.unit, metric.sum.is_monotonic, metric.WhichOneof("data")) == ("By", False, "sum")
    assert [found[name].unit for name in ("hw.gpu.utilization", "hw.temperature")] == ["1", "Cel"]
    assert found["hw.gpu.utilization"].WhichOneof("data") == "gauge"
    points = {
        attribute.value.string_value: {one.key: one.value.string_value for one in point.attributes}
        for point in found["hw.gpu.utilization"].gauge.data_points
        for attribute in point.attributes
        if attribute.key == "hw.id"
    }
    assert set(points) == {"GPU-00000000", "GPU-00000001"}
    card = points["GPU-00000000"]
    assert (card["hw.type"], card["hw.gpu.task"], card["shardbus.node.id"]) == ("gpu", "general", "attic")


def received(server: Collector) -> dict[str, Any]:
    """Return the last of each metric that was received."""
    found: dict[str, Any] = {}
    for path, body in list(server.received):
        if path == "/v1/metrics":
            request = ExportMetricsServiceRequest()
            request.ParseFromString(body)
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    found |= {metric.name: metric for metric in scope.metrics}
    return found
