from datetime import UTC, datetime

from shardbus_console.commands.device_history import Every, history_row
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
