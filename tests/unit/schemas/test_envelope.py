from datetime import UTC, datetime

import pytest
from shardbus_schemas.envelope import Envelope, to_headers
from shardbus_schemas.ids import EventId
from shardbus_schemas.registry import UnreadableMessageError
from support.messages import received

PLACE = b'{"model_id": "a"}'


def test_headers_carry_the_whole_envelope() -> None:
    envelope = Envelope(
        event_id=EventId("e1"),
        type="Place",
        version=1,
        occurred_at=datetime(2026, 11, 20, 9, 0, 0, 123456, tzinfo=UTC),
        source="console",
        correlation_id=EventId("c"),
        causation_id=EventId("d"),
        reply_to="_INBOX.a.b",
    )
    assert received(PLACE, headers=to_headers(envelope)).envelope == envelope


def test_a_cloud_event_of_another_tool_is_read() -> None:
    headers = {"ce-id": "1", "ce-type": "Place", "ce-time": "2026-11-20T10:00:00+01:00", "ce-subject": "x"}
    envelope = received(PLACE, headers=headers).envelope
    assert envelope.occurred_at == datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
    assert envelope.correlation_id is None


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("ce-typeversion", "one", "not a whole number"),
        ("ce-typeversion", "-1", "not a whole number"),
        ("ce-typeversion", "", "not a whole number"),
        ("ce-typeversion", "٣", "not a whole number"),
        ("ce-typeversion", "9" * 5000, "not a whole number"),
        ("ce-time", "yesterday", "not an RFC 3339 time"),
        ("ce-time", "2026-11-20T10:00:00", "without its offset"),
        ("ce-time", "0001-01-01T00:00:00+23:00", "no year in UTC"),
        ("ce-id", "x" * 301, "longer than 300"),
        ("ce-correlationid", "x" * 301, "longer than 300"),
        ("ce-replyto", "x" * 301, "up to 300 characters"),
        ("ce-replyto", "", "nothing can be published on it"),
        ("ce-replyto", "a..b", "nothing can be published on it"),
        ("ce-replyto", "_INBOX.>", "nothing can be published on it"),
        ("ce-replyto", "a b", "nothing can be published on it"),
        ("ce-replyto", "shardbus.v1.command.place", "not for that"),
        ("ce-replyto", "shardbus.v2.anything", "not for that"),
        ("ce-replyto", "$JS.API.STREAM.DELETE.FLEET", "not for that"),
        ("ce-replyto", "$SYS.REQ.SERVER.PING", "not for that"),
    ],
)
def test_a_header_that_cannot_be_read_is_named(header: str, value: str, said: str) -> None:
    with pytest.raises(UnreadableMessageError, match=header) as refusal:
        received(PLACE, headers={header: value})
    assert refusal.value.code == "bad_envelope"
    assert said in str(refusal.value)
