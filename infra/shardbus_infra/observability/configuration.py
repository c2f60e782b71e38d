"""Where traces and metrics go, decided once at the start of a process."""

import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from shardbus_infra.errors import MissingExtraError, SettingsError
from shardbus_infra.settings import CommonSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

Shutdown = Callable[[], None]
"""Sends what is still waiting and stops; takes a few seconds at most."""

EXPORT_TIMEOUT_SECONDS = 3
METRICS_EVERY_SECONDS = 10
TRACES_PATH = "/v1/traces"
METRICS_PATH = "/v1/metrics"


def configure(settings: CommonSettings, *, process: str) -> Shutdown:
    """Send the traces and metrics of this process where the settings say; returns what ends that.

    Call it once per process. Without an exporter the SDK is not even imported. Raises MissingExtraError if it is not
    installed, SettingsError if Prometheus' port is taken.
    """
    if settings.otel_exporter == "none":
        return _nothing
    try:
        # The SDK and its exporters come with an extra; a process that exports nothing needs none of them.
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

        resource = Resource.create(
            {
                "service.namespace": "shardbus",
                "service.name": f"shardbus-{process}",
                "service.version": _version(),
                "service.instance.id": f"{platform.node()}-{os.getpid()}",
            }
        )
        if settings.otel_exporter == "prometheus":
            return _serve_prometheus(resource, settings.prometheus_host, settings.prometheus_port)
        return _send_otlp(resource, settings.otlp_endpoint.rstrip("/"))
    except ImportError as error:
        raise MissingExtraError(
            f"otel_exporter is {settings.otel_exporter}, but {error.name} is not installed. "
            "Install it with: pip install 'shardbus[otel]'"
        ) from error


def _nothing() -> None:
    """Nothing was started, nothing is to be stopped."""


def _serve_prometheus(resource: "Resource", host: str, port: int) -> Shutdown:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415 -- see configure
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from prometheus_client import start_http_server  # noqa: PLC0415

    try:
        server, thread = start_http_server(port, host)
    except OSError as error:
        raise SettingsError(
            f"can not serve metrics on {host}:{port}: {error.strerror}. Set SHARDBUS_PROMETHEUS_PORT to a free port."
        ) from error
    provider = MeterProvider([PrometheusMetricReader()], resource)
    metrics.set_meter_provider(provider)

    def shutdown() -> None:
        provider.shutdown()
        server.shutdown()
        server.server_close()
        thread.join()

    return shutdown


def _send_otlp(resource: "Resource", endpoint: str) -> Shutdown:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 -- see configure
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    spans = TracerProvider(resource=resource, shutdown_on_exit=False)
    spans.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint + TRACES_PATH, timeout=EXPORT_TIMEOUT_SECONDS))
    )
    trace.set_tracer_provider(spans)
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint + METRICS_PATH, timeout=EXPORT_TIMEOUT_SECONDS),
        export_interval_millis=METRICS_EVERY_SECONDS * 1000,
    )
    meters = MeterProvider([reader], resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)

    def shutdown() -> None:
        spans.shutdown()
        meters.shutdown(timeout_millis=EXPORT_TIMEOUT_SECONDS * 1000)

    return shutdown


def _version() -> str:
    try:
        return metadata.version("shardbus")
    except metadata.PackageNotFoundError:
        return "unknown"
