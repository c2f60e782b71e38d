"""From meaning to bytes and back: ids, publishing, receiving, dead letters."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from shardbus_infra.bus.dead_letters import bury
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Appended, AppendRejectedError, ExpectedLast, Outgoing, Stored
from shardbus_infra.bus.publish import outgoing, publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, TELEMETRY
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_schemas.commands import Place
from shardbus_schemas.events import DeadLettered, DeviceGPUStateUpdated, GPUBandwidthMeasured, NodeJoined
from shardbus_schemas.ids import BootId, ModelId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import UnknownMessageError, UnreadableMessageError
from typing_extensions import override

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
JOINED = NodeJoined(node_id=NodeId("attic.1"), boot_id=BootId("b"), heartbeat_seconds=5)


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [uuid7(milliseconds) for milliseconds in (0, 1, 2**32, 2**48 - 1)]
    assert ids == sorted(ids)
    assert {(i.version, i.variant) for i in ids} == {(7, RFC_4122)}
    assert [i.int >> 80 for i in ids] == [0, 1, 2**32, 2**48 - 1]
    assert len({uuid7(5) for _ in range(1000)}) == 1000


def test_a_message_goes_out_with_subject_envelope_and_id() -> None:
    ready = outgoing(
        JOINED, source="agent/attic", event_id="e-1", occurred_at=NOW, correlation_id="c-1", causation_id="c-2"
    )
    assert ready.subject == "shardbus.v1.event.node.attic%2E1"
    assert ready.message_id == "e-1"
    assert dict(ready.headers) == {
        "ce-specversion": "1.0",
        "ce-id": "e-1",
        "ce-type": "NodeJoined",
        "ce-typeversion": "1",
        "ce-source": "agent/attic",
        "ce-time": "2026-11-01T12:00:00+00:00",
        "content-type": "application/json",
        "ce-correlationid": "c-1",
        "ce-causationid": "c-2",
    }


@pytest.mark.parametrize(
    "message",
    [
        DeviceGPUStateUpdated(node_id=NodeId("a")),
        GPUBandwidthMeasured.model_validate_json(
            '{"from": "a", "to": "b", "bandwidth_bytes_per_second": 1, "latency_seconds": 0,'
            ' "measured_at": "2026-11-01T12:00:00Z"}'
        ),
    ],
)
def test_telemetry_carries_no_message_id(message: FrozenModel) -> None:
    assert outgoing(message, source="x", event_id="e", occurred_at=NOW).message_id is None


def test_the_current_trace_travels_along() -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        ready = outgoing(JOINED, source="x", event_id="e", occurred_at=NOW)
    assert ready.headers["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"


def test_what_is_published_is_received() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        place = await publish(bus, JOINED, source="agent/attic", occurred_at=NOW, correlation_id="c-1")
        assert place == Appended(FLEET, 1)
        stored = await bus.get(FLEET, 1)
        assert stored is not None
        received = receive(stored)
        assert received.message == JOINED
        assert (received.stream, received.sequence, received.recorded_at) == (FLEET, 1, stored.recorded_at)
        assert (received.envelope.source, received.envelope.occurred_at) == ("agent/attic", NOW)
        assert received.envelope.correlation_id == "c-1"
        assert len(received.envelope.event_id) == 36

    asyncio.run(scenario())


def test_a_retry_with_its_event_id_is_stored_once() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        for duplicate in (False, True):
            place = await publish(bus, Place(model_id=ModelId("m")), source="x", event_id="e")
            assert place == Appended(COMMANDS, 1, duplicate=duplicate)
        await publish(bus, JOINED, source="x", expected=ExpectedLast("shardbus.v1.event.>", 0))
        assert (await bus.info(TELEMETRY)).messages == 0

    asyncio.run(scenario())


def test_a_bare_command_is_received_and_nonsense_is_not() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        for payload, headers in ((b'{"model_id": "m"}', {}), (b"\xff", {}), (b"{}", {"ce-type": "Strange"})):
            await bus.append(Outgoing("shardbus.v1.command.place", payload, headers))
        stored = [message for n in (1, 2, 3) if (message := await bus.get(COMMANDS, n))]
        assert receive(stored[0]).message == Place(model_id=ModelId("m"))
        with pytest.raises(UnreadableMessageError, match="UTF-8"):
            receive(stored[1])
        with pytest.raises(UnknownMessageError, match="Strange"):
            receive(stored[2])

    asyncio.run(scenario())


def unreadable(payload: bytes = b"\xff\x00", headers: Mapping[str, str] | None = None) -> Stored:
    return Stored(COMMANDS, 7, "shardbus.v1.command.place", headers or {}, payload, NOW)


async def buried(bus: MemoryBus, sequence: int = 1) -> DeadLettered:
    stored = await bus.get(DEAD, sequence)
    assert stored is not None
    message = receive(stored).message
    assert isinstance(message, DeadLettered)
    return message


def test_a_dead_letter_keeps_everything() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        stored = unreadable(headers={"ce-id": "e-7", "other": "Größe"})
        place = await bury(bus, stored, code="not_utf8", reason="not UTF-8", seen_by="placer/1")
        assert place == Appended(DEAD, 1)
        letter = await buried(bus)
        assert (letter.stream, letter.sequence, letter.subject) == (COMMANDS, 7, "shardbus.v1.command.place")
        assert (letter.code, letter.reason, letter.seen_by) == ("not_utf8", "not UTF-8", "placer/1")
        assert (letter.recorded_at, letter.headers) == (NOW, dict(stored.headers))
        assert base64.b64decode(letter.payload_base64) == b"\xff\x00"
        in_stream = await bus.get(DEAD, 1)
        assert in_stream is not None
        assert receive(in_stream).envelope.causation_id == "e-7"
        assert in_stream.subject == "shardbus.v1.dead.COMMANDS"

    asyncio.run(scenario())


def test_burying_again_changes_nothing_unless_somebody_else_does_it() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        for seen_by, sequence, duplicate in (("a", 1, False), ("a", 1, True), ("b", 2, False)):
            place = await bury(bus, unreadable(), code="x", reason="y", seen_by=seen_by)
            assert (place.sequence, place.duplicate) == (sequence, duplicate)

    asyncio.run(scenario())


def test_a_sequence_that_is_given_again_within_the_second_is_another_letter() -> None:
    """A killed server forgets its newest readings, and its stream counts on from before them."""

    async def scenario() -> None:
        bus = MemoryBus()
        for later in (timedelta(0), timedelta(microseconds=1)):
            again = replace(unreadable(), recorded_at=NOW + later)
            assert not (await bury(bus, again, code="x", reason="y", seen_by="a")).duplicate
        assert (await bus.info(DEAD)).messages == 2

    asyncio.run(scenario())


def test_what_is_too_large_is_cut_and_the_reason_says_so() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        stored = unreadable(b"x" * 900_000, {"long": "y" * 20_000, "ce-id": "z" * 400})
        await bury(bus, stored, code="x", reason="r" * 50_000, seen_by="a")
        letter = await buried(bus)
        assert base64.b64decode(letter.payload_base64) == b"x" * 524_288
        assert letter.headers == {}
        for words in ("of 50000 characters", "900000 bytes; the first 524288", "2 headers are too long"):
            assert words in letter.reason
        in_stream = await bus.get(DEAD, 1)
        assert in_stream is not None
        assert len(in_stream.payload) + sum(map(len, in_stream.headers.values())) < 1_000_000

    asyncio.run(scenario())


class _Narrow(MemoryBus):
    """Takes small messages only."""

    @override
    async def append(
        self, message: Outgoing, *, expected: ExpectedLast | None = None, timeout_seconds: float = 5
    ) -> Appended:
        if len(message.payload) > 20_000:
            raise AppendRejectedError("too large")
        return await super().append(message, expected=expected, timeout_seconds=timeout_seconds)


def test_a_server_that_takes_less_gets_less() -> None:
    async def scenario() -> None:
        bus = _Narrow()
        await bury(bus, unreadable(b"x" * 100_000), code="x", reason="r", seen_by="a")
        assert base64.b64decode((await buried(bus)).payload_base64) == b"x" * 1024
        with pytest.raises(AppendRejectedError):
            await bury(bus, unreadable(b"x"), code="x" * 30_000, reason="r", seen_by="a")

    asyncio.run(scenario())
