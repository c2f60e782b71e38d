"""Moments as a person names them."""

from datetime import UTC, datetime, timedelta

import pytest
from shardbus_console.at import time_named
from shardbus_console.exits import CommandError
from shardbus_console.span_options import span_of

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("words", ["2h", "-2h"])
def test_how_long_ago_may_be_said_with_and_without_a_dash(words: str) -> None:
    before = datetime.now(UTC)
    assert timedelta(hours=2) <= before + timedelta(minutes=1) - time_named(words)
    assert time_named(words) <= datetime.now(UTC) - timedelta(hours=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [("yesterday", "is no moment; one is"), ("FLEET:12", "is a place in a stream"), ("2w", "is no moment")],
)
def test_what_is_no_time_is_refused_with_what_is(words: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        time_named(words)


def test_decisions_are_taken_from_a_place_in_fleet_or_a_time() -> None:
    span = span_of("FLEET:12", "2026-11-20T11:00:00Z", NOW)
    assert (span.since, span.until) == (12, NOW - timedelta(hours=1))
    with pytest.raises(CommandError, match="--since TELEMETRY:3: decisions are in FLEET"):
        span_of("TELEMETRY:3", None, NOW)
