"""Spans that follow a message across the bus, by the W3C ``traceparent`` and ``tracestate`` headers."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SCOPE = "shardbus"
_W3C = TraceContextTextMapPropagator()


def tracer() -> Tracer:
    """Return the tracer of all of shardbus; its spans go nowhere unless ``configure`` said where."""
    return trace.get_tracer(SCOPE)


def meter() -> Meter:
    """Return the meter of all of shardbus; the instruments are declared in ``metrics``."""
    return metrics.get_meter(SCOPE)


def inject(headers: dict[str, str]) -> None:
    """Write the current span's context into ``headers``; writes nothing where there is no trace."""
    _W3C.inject(headers)


def extract(headers: Mapping[str, str]) -> Context:
    """Return the context that ``headers`` carry; an empty one where they carry none, or nonsense."""
    # NATS header names keep their case, and not every producer writes them in lower case.
    return _W3C.extract({name.lower(): value for name, value in headers.items()}, context=Context())


@contextmanager
def following(
    name: str,
    headers: Mapping[str, str],
    *,
    kind: SpanKind = SpanKind.CONSUMER,
    attributes: Mapping[str, str | int | float | bool] | None = None,
) -> Generator[Span]:
    """Yield a current span called ``name`` whose parent is the span that wrote ``headers``.

    What is published inside belongs to the same trace, with or without an exporter in this process.
    """
    with tracer().start_as_current_span(name, context=extract(headers), kind=kind, attributes=attributes) as span:
        yield span
