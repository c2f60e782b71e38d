"""A story as a person reads it, where it is not the usual one."""

from datetime import UTC, datetime

import pytest
from shardbus_console.story_view import Projected, command_lines, projected_lines, state_lines
from shardbus_eventstore.story import AnswerPart, CommandPart, StatePart, Story, StreamUsed
from shardbus_schemas.events import Asked

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
TOLD = Story(
    name="c1",
    command=CommandPart(command_id="c1", type="Place"),
    answer=AnswerPart(
        type="InstancePlaced", source="placer/a", sequence=10, recorded_at=NOW, seconds_after_command=None, text="t"
    ),
)


@pytest.mark.parametrize(
    ("projected", "said"),
    [
        (Projected(why_not="Postgres does not answer"), "not asked: Postgres does not answer"),
        (Projected(position=9), "the projector is at FLEET 9, and not at 10 yet"),
        (Projected(position=10), "the decision is not there, though it should be"),
        (Projected(position=12, decision_sequence=10), "the decision is there, as of FLEET 10"),
        (
            Projected(position=12, decision_sequence=10, status="lost", updated_at=NOW),
            "the instance is lost, since 2026-11-26 12:00:00 UTC",
        ),
    ],
)
def test_what_the_read_model_has_is_said(projected: Projected, said: str) -> None:
    assert said in "\n".join(projected_lines(TOLD, projected))


def test_who_asked_is_said_or_that_nobody_noted_it() -> None:
    asked = Asked(source="console", occurred_at=NOW, recorded_at=NOW, sequence=3)
    known = "\n".join(command_lines(CommandPart(command_id="c1", type="Place", asked=asked)))
    assert "by console at 2026-11-26 12:00:00 UTC, COMMANDS 3, recorded 12:00:00.000" in known
    assert "by whom was not noted" in "\n".join(command_lines(CommandPart(command_id="c1", type="Place")))
    waiting = CommandPart(command_id="c1", type="Place", asked=asked, fate="waiting")
    assert "no placer has answered it yet" in "\n".join(command_lines(waiting))
    buried = CommandPart(command_id="c1", type="Place", fate="buried", why="not JSON")
    assert "put among the dead letters: not JSON" in "\n".join(command_lines(buried))


def test_what_was_known_is_said_with_its_age() -> None:
    part = StatePart(
        streams=(
            StreamUsed(stream="TELEMETRY", sequence=5, recorded_at=None, age_seconds=None),
            StreamUsed(stream="FLEET", sequence=7, recorded_at=NOW, age_seconds=1.5),
            StreamUsed(stream="FLEET", sequence=0, recorded_at=None, age_seconds=None),
        ),
        considered=(),
        chosen=(),
    )
    assert list(state_lines(part)) == [
        "TELEMETRY 5, which it does not hold any more",
        "FLEET 7, recorded 2026-11-26 12:00:00 UTC, 1.5 s before the answer",
        "FLEET 0: it had no message yet",
    ]
