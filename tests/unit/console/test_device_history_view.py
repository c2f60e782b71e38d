from datetime import UTC, datetime, timedelta

import pytest
from shardbus_console.commands.device_history import Every, history_row
from shardbus_console.exits import CommandError
from shardbus_console.since import moment_since
from shardbus_eventstore.read_model.queries import FigureView, HistoryView

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MINUTE = HistoryView(
    at=NOW,
    samples=3,
    figures={
        "utilization_percent": FigureView(least=10, mean=42.4, most=99, known_seconds=60),
        "temperature_c": FigureView(least=61, mean=61, most=61, known_seconds=60),
        "power_watts": FigureView(least=None, mean=None, most=None, known_seconds=0),
        "memory_used_bytes": FigureView(least=2**30, mean=1.5 * 2**30, most=2**31, known_seconds=60),
    },
)


def test_a_minute_shows_the_mean_and_how_far_it_went() -> None:
    assert history_row(MINUTE, Every.MINUTE) == {
        "UTC": "2026-11-20 12:00",
        "readings": 3,
        "busy %": "42 (10-99)",
        "°C": "61",
        "watts": "?",
        "memory": "1.5 GiB (1.0 GiB - 2.0 GiB)",
    }


def test_a_reading_shows_what_it_said() -> None:
    row = history_row(
        MINUTE.model_copy(update={"figures": {name: FigureView.of(5e9) for name in MINUTE.figures}}), Every.RAW
    )
    assert list(row) == ["UTC", "busy %", "°C", "watts", "memory"]
    assert (row["UTC"], row["memory"]) == ("2026-11-20 12:00:00", "4.7 GiB")


@pytest.mark.parametrize(
    ("words", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("-2h", NOW - timedelta(hours=2)),
        ("1.5d", NOW - timedelta(days=1.5)),
        ("2026-11-19T10:00:00+01:00", NOW.replace(day=19, hour=9)),
        ("2026-11-19", NOW.replace(day=19, hour=0)),
    ],
)
def test_a_moment_is_said_in_words_or_as_a_time(words: str, moment: datetime) -> None:
    assert moment_since(words, NOW) == moment


@pytest.mark.parametrize("words", ["", "yesterday", "2w", "2 h", "0x3h", "2026-13-01"])
def test_what_is_no_moment_is_refused_with_what_is(words: str) -> None:
    with pytest.raises(CommandError, match=r"no moment; write 30m, 2h, 7d or 2026"):
        moment_since(words, NOW)
