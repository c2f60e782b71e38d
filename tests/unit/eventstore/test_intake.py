"""What may be folded, what is refused at the edge, and what is skipped."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from shardbus_eventstore.edge import FUTURE_TOLERANCE
from shardbus_eventstore.intake import Examined, examine, take
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas import events
from shardbus_schemas.events import DeadLettered, DeviceGPUStateUpdated, NodeJoined
from support.histories import START, reading, stored

JOINED = stored(NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10), 1)
TICK = stored(DeviceGPUStateUpdated(node_id="n1", boot_id="b1", tick=1, states=(reading(),)), 1)


def refusal(message: Stored) -> tuple[str, str]:
    (rejected,) = examine([message]).rejected
    assert rejected.stored is message
    return rejected.code, rejected.reason


def with_headers(message: Stored, headers: Mapping[str, str]) -> Stored:
    return replace(message, headers={**message.headers, **headers})


def test_what_can_be_read_is_received() -> None:
    assert len(examine([JOINED]).received) == len(examine([TICK]).received) == 1


@pytest.mark.parametrize("beyond", [False, True])
def test_a_reading_from_the_future_is_refused_beyond_the_tolerance(*, beyond: bool) -> None:
    moment = TICK.recorded_at + FUTURE_TOLERANCE + timedelta(seconds=1 if beyond else 0)
    message = stored(DeviceGPUStateUpdated(node_id="n1", states=(reading(last_update=moment),)), 1)
    if not beyond:
        assert len(examine([message]).received) == 1
        return
    code, reason = refusal(message)
    assert code == "time_in_future"
    assert reason == (
        "last_update of n1/g1 is 2026-11-20T10:01:02+00:00, 61 s after the bus recorded it (60 s are tolerated); "
        "set the node's clock"
    )


def test_a_link_measured_in_the_future_is_refused() -> None:
    measured = events.GPUBandwidthMeasured.model_validate(
        {
            "from": "n1",
            "to": "n2",
            "bandwidth_bytes_per_second": 1.0,
            "latency_seconds": 0.0,
            "measured_at": START + timedelta(hours=1),
        }
    )
    assert refusal(stored(measured, 1))[0] == "time_in_future"


def test_an_envelope_from_the_future_is_refused() -> None:
    assert refusal(with_headers(TICK, {"ce-time": "2026-11-20T11:00:00Z"}))[0] == "time_in_future"


def test_a_message_about_another_node_than_its_subject_names_is_refused() -> None:
    code, reason = refusal(replace(TICK, subject="shardbus.v1.telemetry.n2"))
    assert code == "wrong_subject"
    assert reason == "published on shardbus.v1.telemetry.n2, but its content belongs on shardbus.v1.telemetry.n1"


def test_a_message_in_a_stream_of_other_types_is_refused() -> None:
    assert refusal(replace(JOINED, stream=TELEMETRY))[0] == "wrong_stream"
    assert refusal(replace(TICK, stream=FLEET))[0] == "wrong_stream"


def test_a_text_with_the_character_nul_is_refused_and_one_that_speaks_of_it_is_not() -> None:
    nul = stored(NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10, labels={"a": "x\x00y"}), 1)
    assert refusal(nul)[0] == "unstorable"
    spoken = stored(NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10, labels={"a": "\\u0000"}), 1)
    assert len(examine([spoken]).received) == 1
    assert refusal(with_headers(JOINED, {"ce-id": "a\x00b"}))[0] == "unstorable"


def test_a_number_beyond_64_bits_is_refused_and_a_name_of_many_digits_is_not() -> None:
    most = 2**63 - 1
    assert len(examine([stored(DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=most), 1)]).received) == 1
    assert refusal(stored(DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=most + 1), 1))[0] == "unstorable"
    named = NodeJoined(node_id="n1", boot_id="99999999999999999999999", heartbeat_seconds=10)
    assert len(examine([stored(named, 1)]).received) == 1


@pytest.mark.parametrize(
    ("payload", "code"), [(b"{", "not_json"), (b"\xff", "not_utf8"), (b"[]", "not_object"), (b"{}", "invalid")]
)
def test_what_cannot_be_read_is_refused(payload: bytes, code: str) -> None:
    assert refusal(replace(JOINED, payload=payload))[0] == code


@pytest.mark.parametrize("headers", [{"ce-type": "NodeRenamed"}, {"ce-typeversion": "99"}])
def test_what_a_newer_producer_says_is_skipped_not_refused(headers: Mapping[str, str]) -> None:
    examined = examine([with_headers(JOINED, headers)])
    assert (len(examined.skipped), examined.rejected, examined.received) == (1, (), ())


def test_the_position_moves_past_what_is_not_folded() -> None:
    batch = [JOINED, replace(JOINED, sequence=2, payload=b"nonsense")]
    assert take(FleetState(), batch).state.positions == {FLEET: 2}


def test_a_dead_letter_that_quotes_nul_can_be_stored() -> None:
    letter = DeadLettered(
        stream=FLEET,
        sequence=3,
        subject="s",
        code="unstorable",
        reason="a\x00b",
        recorded_at=START,
        payload_base64="",
        seen_by="projector",
    )
    examined: Examined = examine([stored(letter, 1)])
    (received,) = examined.received
    assert isinstance(received.message, DeadLettered)
    assert received.message.reason == "a\ufffdb"
    assert received.stream == DEAD
