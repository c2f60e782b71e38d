"""Traces, metrics and logs. Off by default: without an exporter everything here costs next to nothing."""

from shardbus_infra.observability.configuration import Shutdown, configure
from shardbus_infra.observability.logs import configure_logging
from shardbus_infra.observability.tracing import extract, following, inject, meter, tracer

__all__ = ["Shutdown", "configure", "configure_logging", "extract", "following", "inject", "meter", "tracer"]
