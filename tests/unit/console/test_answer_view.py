"""Every answer is said, and ends with the code that scripts rely on."""

from typing import get_args

import pytest
from shardbus_console.answer_view import code_of, gain_rows, print_answer
from shardbus_console.exits import Exit
from shardbus_schemas import events
from shardbus_schemas.placement import Refusal, StatePosition
from support.wanted import MODEL, REQUEST, deleted, moved, placed, plan, refused, scaled, waits

REJECTED = events.PlacementRejected(
    command_id="c", model_id="tiny", request=REQUEST, result=refused(), position=StatePosition()
)
LOST_THE_RACE = refused().model_copy(update={"refusal": Refusal(code="conflict", message="others were faster")})
AT = StatePosition()
ANSWERS: list[tuple[events.Answer, Exit, str]] = [
    (placed("one", "attic/g0"), Exit.DONE, "tiny is placed as one"),
    (moved("one", "attic/g0"), Exit.DONE, "one has a new plan: moved"),
    (waits("one", "4 GiB missing"), Exit.PENDING, "refused (insufficient_memory): 4 GiB missing"),
    (deleted("one"), Exit.DONE, "one is deleted"),
    (REJECTED, Exit.REFUSED, "refused (insufficient_memory): no room"),
    (REJECTED.model_copy(update={"result": LOST_THE_RACE}), Exit.CONFLICT, "others were faster"),
    (
        events.PlacementPreviewed(command_id="c", request=REQUEST, plan=plan("attic/g0"), position=AT),
        Exit.DONE,
        "would be placed (dry run)",
    ),
    (
        events.CommandRejected(
            command_id="c", command_type="Move", code="no_place", message="none", result=refused("1 GiB missing")
        ),
        Exit.REFUSED,
        "1 GiB missing",
    ),
    (events.ModelRegistered(profile=MODEL), Exit.DONE, "tiny is registered"),
    (events.Cordoned(node_id="attic"), Exit.DONE, "attic takes nothing new; what is there stays"),
    (
        events.Cordoned(node_id="attic", device_id="g0", drain=True),
        Exit.DONE,
        "attic/g0 takes nothing new; what is there moves away",
    ),
    (events.Uncordoned(node_id="attic"), Exit.DONE, "attic takes instances again"),
    (scaled("tiny", 1), Exit.DONE, "tiny wants 1 replica of tiny"),
    (scaled("tiny", 3).model_copy(update={"spread_by": "site"}), Exit.DONE, "3 replicas of tiny, spread by site"),
    (scaled("tiny", 0), Exit.DONE, "tiny wants no replica of tiny"),
    (
        events.FleetRebalanced(moved={}, threshold=0.1, position=AT, command_id="c"),
        Exit.DONE,
        "nothing is moved: no instance would gain more than 10%",
    ),
    (
        events.FleetRebalanced(moved={"one": 0.25}, threshold=0.1, position=AT, command_id="c"),
        Exit.DONE,
        "1 moved, each for a gain of more than 10%",
    ),
]


def test_there_is_an_example_of_every_answer() -> None:
    assert {type(answer) for answer, _, _ in ANSWERS} == set(get_args(events.Answer))


@pytest.mark.parametrize(("answer", "code", "said"), ANSWERS)
def test_an_answer_is_said_and_has_its_code(
    answer: events.Answer, code: Exit, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(answer) == code
    print_answer(answer)
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_who_gave_way_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(placed("one", "attic/g0").model_copy(update={"gave_way": ("low-1", "low-2")}))
    assert "gave way to it: low-1, low-2" in capsys.readouterr().out


def test_what_gains_most_is_listed_first() -> None:
    answer = events.FleetRebalanced(moved={"a": 0.2, "b": 0.5, "c": 0.2}, threshold=0.1, position=AT, command_id="c")
    assert [row["instance"] for row in gain_rows(answer)] == ["b", "a", "c"]
