"""What a follow takes for a stream that lost its newest part."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from shardbus_infra.bus import nats_follow
from shardbus_infra.bus.nats_follow import _Follower
from shardbus_infra.bus.port import Stored, StreamInfo, StreamShortenedError
from shardbus_infra.bus.streams import FLEET

CREATED = datetime(2026, 11, 20, tzinfo=UTC)


def stored(sequence: int) -> Stored:
    return Stored(FLEET, sequence, "subject", {}, b"", CREATED + timedelta(seconds=sequence))


def follower_at(sequence: int, monkeypatch: pytest.MonkeyPatch, *, last: int, grows: bool) -> _Follower:
    """Return one that has read up to a sequence, of a stream that ends at ``last``, or grows while it is looked at."""
    follower = object.__new__(_Follower)
    follower._connection = Any  # pyright: ignore[reportAttributeAccessIssue] -- nobody asks it
    follower._doubted_since = None
    follower._stream, follower._created, follower._newest = FLEET, CREATED, stored(sequence)

    def read_on() -> None:
        if grows:
            assert follower._newest is not None
            follower._newest = stored(follower._newest.sequence + 1)

    async def information(*_: object) -> StreamInfo:
        read_on()
        return StreamInfo(FLEET, CREATED, 1, last, last, 0)

    async def find(_: object, __: str, which: Mapping[str, int]) -> Stored:
        read_on()
        return stored(which["seq"])

    monkeypatch.setattr(nats_follow, "information", information)
    monkeypatch.setattr(nats_follow, "find", find)
    return follower


def test_reading_on_while_the_stream_is_looked_at_is_no_lost_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = follower_at(7, monkeypatch, last=7, grows=True)
    asyncio.run(follower._require_same_stream())
    assert follower._newest == stored(9)


def test_a_lost_tail_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StreamShortenedError, match="ends at 6, but 7 was read"):
        asyncio.run(follower_at(7, monkeypatch, last=6, grows=False)._require_same_stream())
