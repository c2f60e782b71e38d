"""Traces that follow a message across the bus through its headers."""

from collections.abc import Generator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Tracer
from shardbus_infra.observability import extract, following, inject, tracer, tracing

HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Generator[InMemorySpanExporter]:
    """An exporter in memory. The provider is not made global: a process can have only one, ever."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def ours() -> Tracer:
        return provider.get_tracer("shardbus")

    monkeypatch.setattr(tracing, "tracer", ours)
    yield exporter
    provider.shutdown()


def test_one_trace_leads_from_the_command_through_the_placement_to_the_read_model(spans: InMemorySpanExporter) -> None:
    command, event = dict[str, str](), dict[str, str]()
    with following("publish command", {}, kind=SpanKind.PRODUCER):
        inject(command)
    with following("place", command, attributes={"stream_sequence": 17}):
        inject(event)
    with following("fold", event):
        pass
    finished: dict[str, ReadableSpan] = {span.name: span for span in spans.get_finished_spans()}
    first, second, third = (finished[name] for name in ("publish command", "place", "fold"))
    assert first.parent is None
    assert first.context
    assert second.parent
    assert second.context
    assert third.parent
    assert second.parent.span_id == first.context.span_id
    assert third.parent.span_id == second.context.span_id
    assert {span.context.trace_id for span in finished.values() if span.context} == {first.context.trace_id}
    assert second.attributes == {"stream_sequence": 17}
    assert f"{first.context.trace_id:032x}" in command["traceparent"]


def test_a_process_without_an_exporter_passes_the_trace_on() -> None:
    onward = dict[str, str]()
    with following("place", HEADERS):
        inject(onward)
    assert onward == HEADERS
    assert not tracer().start_span("nothing").is_recording()


def test_without_a_trace_nothing_is_written() -> None:
    headers = dict[str, str]()
    inject(headers)
    assert headers == {}


def test_a_message_without_a_trace_starts_a_new_one_whatever_is_current(spans: InMemorySpanExporter) -> None:
    with following("batch", HEADERS), following("message", {}):
        pass
    assert spans.get_finished_spans()[0].parent is None


def test_header_names_are_read_in_any_case() -> None:
    span = trace.get_current_span(extract({"Traceparent": HEADERS["traceparent"]}))
    assert span.get_span_context().trace_id == 0x0AF7651916CD43DD8448EB211C80319C


@pytest.mark.parametrize(
    "value",
    ["", "nonsense", "00-00-00-00", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-" + "0" * 5000],
)
def test_nonsense_in_the_header_is_no_trace_and_no_error(value: str) -> None:
    assert not trace.get_current_span(extract({"traceparent": value})).get_span_context().is_valid
