"""JetStream's way of writing things, read and written without a server."""

from datetime import UTC, datetime, timedelta

import pytest
from shardbus_infra.bus.port import AppendRejectedError, ExpectedLast, Outgoing
from shardbus_infra.bus.wire import (
    Delivery,
    Status,
    checked_subject,
    decode_headers,
    delivery_of,
    encode_headers,
    message_headers,
    moment,
    parse_moment,
    status_of,
)


@pytest.mark.parametrize(
    ("block", "status", "headers"),
    [
        (b"NATS/1.0 503\r\n\r\n", Status(503, ""), {}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", Status(404, "No Messages"), {}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 10\r\nNats-Last-Stream: 12\r\n\r\n",
            Status(100, "Idle Heartbeat"),
            {"Nats-Last-Consumer": "10", "Nats-Last-Stream": "12"},
        ),
        (
            b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 7\r\nNats-Pending-Bytes: 0\r\n\r\n",
            Status(408, "Request Timeout"),
            {"Nats-Pending-Messages": "7", "Nats-Pending-Bytes": "0"},
        ),
        (b"NATS/1.0 abc\r\n\r\n", None, {}),
        (b"NATS/1.0\r\n\r\n", None, {}),
        (b"NATS/1.0\r\na: b\r\n\r\n", None, {"a": "b"}),
        (b"", None, {}),
        (None, None, {}),
    ],
)
def test_a_block_is_a_status_or_headers_or_both(
    block: bytes | None, status: Status | None, headers: dict[str, str]
) -> None:
    assert status_of(block) == status
    assert decode_headers(block) == headers


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        (b"a: b: c:d", {"a": "b: c:d"}),
        (b"a:b", {"a": "b"}),
        (b"a:  b  ", {"a": "b"}),
        (b"a:\tb\t", {"a": "b"}),
        (b"a: b\x0b", {"a": "b"}),
        (b"a:", {"a": ""}),
        (b"a: ", {"a": ""}),
        (b"no colon", {}),
        (b"a b: c", {}),
        (b"\xff: c", {}),
        (b"a: \xff", {"a": "\ufffd"}),
        ("a: Größe".encode(), {"a": "Größe"}),
        (b"a: 1\r\na: 2", {"a": "2"}),
        (b"a: 1\r\nA: 2", {"a": "1", "A": "2"}),
    ],
)
def test_headers_are_read_whatever_their_form(line: bytes, headers: dict[str, str]) -> None:
    assert decode_headers(b"NATS/1.0\r\n" + line + b"\r\n\r\n") == headers
    # Read twice: the second time the names are known, and the short way is open.
    assert decode_headers(b"NATS/1.0\r\nb: 1\r\n" + line + b"\r\nc: 2\r\n\r\n") == {"b": "1"} | headers | {"c": "2"}


def test_headers_carry_the_id_and_the_expectation() -> None:
    message = Outgoing("s", b"", {"a": "1"}, "id-1")
    assert message_headers(message, ExpectedLast("s.*", 7)) == {
        "a": "1",
        "Nats-Msg-Id": "id-1",
        "Nats-Expected-Last-Subject-Sequence": "7",
        "Nats-Expected-Last-Subject-Sequence-Subject": "s.*",
    }
    assert message_headers(Outgoing("s", b"", {"a": "1"})) == {"a": "1"}


@pytest.mark.parametrize("name", ["", " ", "a b", "a:b", "a\r\n", "é", "a\x00"])
def test_a_header_name_that_would_break_the_block_is_refused(name: str) -> None:
    with pytest.raises(AppendRejectedError, match="name of a header"):
        encode_headers({name: "x"})


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb"])
def test_a_header_value_that_would_break_the_block_is_refused(value: str) -> None:
    with pytest.raises(AppendRejectedError, match="header name has a line break"):
        encode_headers({"other": "1", "name": value})


@pytest.mark.parametrize("subject", ["a", "a.b", "a.b*c", "a.>b", "shardbus.v1.event.node.a%2Eb", "é"])
def test_a_subject_without_wildcards_can_be_published_on(subject: str) -> None:
    assert checked_subject(subject) == subject


@pytest.mark.parametrize(
    "subject", ["", ".", "a.", ".a", "a..b", "*", ">", "a.*", "a.*.b", "a.>", "a b", "a\tb", "a\x00"]
)
def test_other_subjects_cannot_be_published_on(subject: str) -> None:
    with pytest.raises(AppendRejectedError, match="subject"):
        checked_subject(subject)


@pytest.mark.parametrize(
    "reply",
    [
        b"$JS.ACK.FLEET.c1.2.10.11.1795465990448904648.4",
        b"$JS.ACK.hub.ACCHASH.FLEET.c1.2.10.11.1795465990448904648.4",
        b"$JS.ACK._.ACCHASH.FLEET.c1.2.10.11.1795465990448904648.4.rAnDom",
    ],
)
def test_a_delivery_is_read_from_both_forms_of_the_reply_subject(reply: bytes) -> None:
    assert delivery_of(reply) == Delivery(10, 11, 2, 1795465990448904648)


@pytest.mark.parametrize("reply", [b"", b"_INBOX.a.b.c.d.e.f.g.h", b"$JS.ACK.a.b.1.2.3.4", b"$JS.ACK.a.b.x.2.3.4.5"])
def test_other_reply_subjects_are_an_error(reply: bytes) -> None:
    with pytest.raises(ValueError, match=r"reply subject|invalid literal"):
        delivery_of(reply)


def test_both_ways_of_a_moment_agree_to_the_microsecond() -> None:
    expected = datetime(2026, 11, 23, 20, 7, 48, 226815, tzinfo=UTC)
    nanoseconds = (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000 + 999
    assert moment(nanoseconds) == expected
    assert parse_moment("2026-11-23T20:07:48.226815999Z") == expected
    assert parse_moment("2026-11-23T21:07:48.226815999+01:00") == expected
    assert parse_moment("2026-11-23T20:07:48.2Z") == expected.replace(microsecond=200_000)
    assert parse_moment("2026-11-23T20:07:48Z") == expected.replace(microsecond=0)


def test_a_moment_is_exact_to_the_microsecond_for_two_centuries() -> None:
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    for microseconds in range(0, 6_000_000_000_000_000, 77_777_777_777_777):
        for step in range(50):
            exact = begin + timedelta(microseconds=microseconds + step)
            assert moment((microseconds + step) * 1000 + 999) == exact
