"""What people may call a moment."""

from datetime import UTC, datetime, timedelta

import pytest
from shardbus_eventstore.moments import Moment, MomentError, Place, parse_at

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("123", Place("FLEET", 123)),
        ("FLEET:123", Place("FLEET", 123)),
        ("fleet:7", Place("FLEET", 7)),
        ("TELEMETRY:456", Place("TELEMETRY", 456)),
        ("now", NOW),
        ("-10m", NOW - timedelta(minutes=10)),
        ("-2h", NOW - timedelta(hours=2)),
        ("-1.5d", NOW - timedelta(hours=36)),
        (" -30s ", NOW - timedelta(seconds=30)),
        ("2026-11-26T09:30:00Z", datetime(2026, 11, 26, 9, 30, tzinfo=UTC)),
        ("2026-11-26T10:30:00+01:00", datetime(2026, 11, 26, 9, 30, tzinfo=UTC)),
        ("2026-11-26T09:30", datetime(2026, 11, 26, 9, 30, tzinfo=UTC)),
        ("2026-11-26", datetime(2026, 11, 26, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_place_or_a_time(text: str, meant: Place | datetime) -> None:
    assert parse_at(text, NOW) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yesterday", "'yesterday' is no moment; one is FLEET:123"),
        ("", "'' is no moment"),
        ("-10", "'-10' is no moment"),
        ("-10y", "'-10y' is no moment"),
        ("-999999999d", "is no moment"),
        ("0001-01-01T00:00:00+23:00", "is no moment"),
        ("COMMANDS:3", "the state is folded from FLEET and TELEMETRY, not from COMMANDS"),
        ("2026-11-26T12:00:01Z", "is in the future; it is 2026-11-26T12:00:00Z now"),
    ],
)
def test_what_is_no_moment_is_said_with_what_would_be(text: str, said: str) -> None:
    with pytest.raises(MomentError, match=said):
        parse_at(text, NOW)


def test_a_moment_reads_as_its_time_and_its_places() -> None:
    assert str(Moment(NOW, 12, 34)) == "2026-11-26 12:00:00 UTC, TELEMETRY 34, FLEET 12"
    assert str(Moment(NOW, 12, None)) == "2026-11-26 12:00:00 UTC, TELEMETRY ?, FLEET 12"
