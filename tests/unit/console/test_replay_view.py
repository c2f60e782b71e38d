"""How far a replay is, in words."""

import pytest
from shardbus_console.replay_view import ReplayView, rate_text
from shardbus_eventstore.replay import Progress


@pytest.mark.parametrize(
    ("progress", "seconds", "text"),
    [
        (Progress("S", 0, 0, 100), 1, ""),
        (Progress("S", 0, 100, 100), 1, ""),
        (Progress("S", 0, 50, 100), 0, ""),
        (Progress("S", 0, 50_000, 100_000), 2, " (25,000/s, 2 s left)"),
        (Progress("S", 40_000, 50_000, 1_000_000), 1, " (10,000/s, 1 min 35 s left)"),
        (Progress("S", 0, 1, 7_201), 1, " (1/s, 120 min 0 s left)"),
    ],
    ids=["not begun", "done", "at once", "half", "resumed", "long"],
)
def test_rate_and_rest_are_of_this_run(progress: Progress, seconds: float, text: str) -> None:
    assert rate_text(progress, seconds) == text


def test_without_a_terminal_a_line_is_said_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("shardbus_console.replay_view.say", said.append)
    with ReplayView() as view:
        view._began -= 10
        view.progress([Progress("FLEET", 0, 5, 5), Progress("TELEMETRY", 0, 500, 1500)])
        assert said == []
        view._said -= 3
        for _ in range(2):
            view.progress([Progress("FLEET", 0, 5, 5), Progress("TELEMETRY", 0, 500, 1500)])
    assert said == ["FLEET 5 of 5; TELEMETRY 500 of 1,500 (50/s, 20 s left)"]
    assert capsys.readouterr() == ("", "")
