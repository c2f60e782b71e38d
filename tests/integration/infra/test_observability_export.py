"""Traces and metrics really leave the process: scraped and received over HTTP on the loopback interface.

Each export runs in a process of its own, because OpenTelemetry can be configured only once in one.
"""

import os
import subprocess
import sys
from socket import create_server

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from shardbus_infra.embedded.ports import free_port
from support.collector import collector

WORK = """
import sys, time, urllib.request
from shardbus_infra.errors import InfraError
from shardbus_infra.observability import configure, following, inject, metrics
from shardbus_infra.settings import CommonSettings

settings = CommonSettings()
try:
    shutdown = configure(settings, process="placer")
except InfraError as error:
    sys.exit(f"{type(error).__name__}: {error}")
metrics.folded(stream="FLEET", event_type="node_joined", count=3)
metrics.skipped(stream="FLEET")
metrics.buried(stream="COMMANDS", code="not_json")
metrics.lag(stream="TELEMETRY", messages=7, seconds=1.5)
metrics.placed(0.03, strategy="ilp")
metrics.refused(code="not_enough_memory")
metrics.published(2)
metrics.suppressed(5)
headers = {}
with following("publish", {}):
    inject(headers)
with following("place", headers):
    pass
if settings.otel_exporter == "prometheus":
    print(urllib.request.urlopen(f"http://127.0.0.1:{settings.prometheus_port}/metrics").read().decode())
started = time.monotonic()
shutdown()
print("shutdown took", time.monotonic() - started)
print("sdk imported:", any(name.startswith("opentelemetry.sdk") for name in sys.modules))
"""


def work(python: str = WORK, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHARDBUS_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", python],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_an_exporter_the_sdk_is_not_even_imported() -> None:
    done = work()
    assert done.returncode == 0, done.stderr
    assert "sdk imported: False" in done.stdout


def test_prometheus_scrapes_every_metric_on_loopback() -> None:
    done = work(SHARDBUS_OTEL_EXPORTER="prometheus", SHARDBUS_PROMETHEUS_PORT=str(free_port()))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()

    def value(metric: str, *labels: str) -> float:
        found = [line for line in lines if line.startswith(f"{metric}{{") and all(label in line for label in labels)]
        assert len(found) == 1, f"{metric} {labels}: {found}"
        return float(found[0].rsplit(" ", 1)[1])

    assert value("shardbus_events_folded_total", 'stream="FLEET"', 'type="node_joined"') == 3
    assert value("shardbus_messages_unknown_total", 'stream="FLEET"') == 1
    assert value("shardbus_dead_letters_total", 'stream="COMMANDS"', 'code="not_json"') == 1
    assert value("shardbus_projector_lag_messages", 'stream="TELEMETRY"') == 7
    assert value("shardbus_projector_lag_seconds", 'stream="TELEMETRY"') == 1.5
    assert value("shardbus_placement_duration_seconds_bucket", 'le="0.02"', 'strategy="ilp"') == 0
    assert value("shardbus_placement_duration_seconds_bucket", 'le="0.05"', 'strategy="ilp"') == 1
    assert value("shardbus_placement_refusals_total", 'code="not_enough_memory"') == 1
    assert value("shardbus_agent_messages_published_total") == 2
    assert value("shardbus_agent_samples_suppressed_total") == 5
    assert value("target_info", 'service_name="shardbus-placer"', 'service_namespace="shardbus"') == 1


def test_a_used_prometheus_port_is_refused_in_words() -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = work(SHARDBUS_OTEL_EXPORTER="prometheus", SHARDBUS_PROMETHEUS_PORT=str(port))
    assert done.returncode == 1
    assert f"SettingsError: can not serve metrics on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_collector_receives_the_whole_trace_and_the_metrics() -> None:
    with collector() as server:
        port = server.server_address[1]
        done = work(SHARDBUS_OTEL_EXPORTER="otlp", SHARDBUS_OTLP_ENDPOINT=f"http://127.0.0.1:{port}/")
        assert done.returncode == 0, done.stderr
        received = list(server.received)
    traces, metrics = ExportTraceServiceRequest(), ExportMetricsServiceRequest()
    for path, body in received:
        (traces if path == "/v1/traces" else metrics).MergeFromString(body)
    spans = {s.name: s for r in traces.resource_spans for scope in r.scope_spans for s in scope.spans}
    assert spans["place"].parent_span_id == spans["publish"].span_id
    assert spans["place"].trace_id == spans["publish"].trace_id
    names = {m.name for r in metrics.resource_metrics for scope in r.scope_metrics for m in scope.metrics}
    assert {"shardbus.events.folded", "shardbus.projector.lag.seconds", "shardbus.placement.duration"} <= names
    attributes = {a.key: a.value.string_value for a in traces.resource_spans[0].resource.attributes}
    assert attributes["service.name"] == "shardbus-placer"


def test_a_collector_that_is_not_there_holds_nobody_up() -> None:
    done = work(SHARDBUS_OTEL_EXPORTER="otlp", SHARDBUS_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 0, done.stderr
    took = next(line for line in done.stdout.splitlines() if line.startswith("shutdown took"))
    assert float(took.split()[-1]) < 10


@pytest.mark.parametrize("exporter", ["otlp", "prometheus"])
def test_without_the_extra_the_error_names_it(exporter: str) -> None:
    hidden = "import sys\nsys.modules['opentelemetry.sdk.resources'] = None\n"
    done = work(hidden + WORK, SHARDBUS_OTEL_EXPORTER=exporter)
    assert done.returncode == 1
    assert f"MissingExtraError: otel_exporter is {exporter}" in done.stderr
    assert "pip install 'shardbus[otel]'" in done.stderr
    assert "Traceback" not in done.stderr
