"""Whatever a stream can hold, a segment gives it back."""

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shardbus_eventstore.archive.segment import BadSegmentError, line_of, message_in, pack, unpack
from shardbus_infra.bus.port import Stored

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
TEXTS = st.text(max_size=12)
PAYLOADS = (
    st.binary(max_size=40) | TEXTS.map(str.encode) | st.sampled_from([b"", b"\n", b"\xff", b'{"a":\r\n1}', b"\x00"])
)
STORED = st.builds(
    Stored,
    stream=st.just("S"),
    sequence=st.integers(1, 2**63),
    subject=TEXTS,
    headers=st.dictionaries(TEXTS, TEXTS, max_size=3),
    payload=PAYLOADS,
    recorded_at=MOMENTS,
)

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CALM
@given(STORED)
def test_a_line_gives_the_message_back(stored: Stored) -> None:
    line = line_of(stored)
    assert line.count(b"\n") == 1
    assert message_in(line, "S") == stored


@CALM
@given(st.lists(STORED, max_size=6))
def test_a_segment_gives_its_messages_back(messages: list[Stored]) -> None:
    assert list(unpack(pack(map(line_of, messages)), "S")) == messages


@CALM
@given(st.lists(STORED, min_size=1, max_size=4), st.data())
def test_a_torn_segment_is_no_segment(messages: list[Stored], data: st.DataObject) -> None:
    whole = pack(map(line_of, messages))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadSegmentError):
        unpack(whole[:cut], "S")


@CALM
@given(st.binary())
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadSegmentError):
        unpack(data, "S")
    with pytest.raises(BadSegmentError):
        message_in(data, "S")
