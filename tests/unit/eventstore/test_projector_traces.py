"""A trace that a person started is followed into the read model."""

import asyncio

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shardbus_eventstore import projector
from shardbus_eventstore.intake import take
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.projector import StreamProjector
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined
from support.histories import stored

POSTGRES = "postgresql://nobody@127.0.0.1:9/nowhere"


class Unwritten:
    """A projection that writes nowhere."""

    def commit(self, *arguments: object) -> None:
        """Do nothing."""


def project(message: Stored) -> None:
    async def scenario() -> None:
        settings = ProjectorSettings(postgres_url=POSTGRES)
        projecting = StreamProjector(
            MemoryBus(), open_engine(POSTGRES), message.stream, settings, asyncio.Event(), graveyard=None
        )
        unwritten: Projection = Unwritten()  # pyright: ignore[reportAssignmentType] -- only commit is called
        await projecting._commit(unwritten, [message], take(FleetState(), [message]), 0)

    asyncio.run(scenario())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(projector, "tracer", lambda: provider.get_tracer("test"))
    return exporter


def test_projecting_an_event_is_a_span_in_the_trace_of_who_published_it(spans: InMemorySpanExporter) -> None:
    joined = stored(NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10), 1)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    traced = Stored(
        joined.stream,
        joined.sequence,
        joined.subject,
        {**joined.headers, "traceparent": f"00-{trace}-{parent}-01"},
        joined.payload,
        joined.recorded_at,
    )
    project(traced)
    (span,) = spans.get_finished_spans()
    assert span.name == "project NodeJoined"
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (trace, parent)
    assert dict(span.attributes or {}) == {
        "shardbus.stream": FLEET,
        "shardbus.sequence": 1,
        "shardbus.event_id": "event-1",
    }


def test_telemetry_is_too_much_to_trace(spans: InMemorySpanExporter) -> None:
    message = stored(DeviceGPUStateUpdated(node_id="n1"), 1)
    assert message.stream == TELEMETRY
    project(message)
    assert spans.get_finished_spans() == ()
