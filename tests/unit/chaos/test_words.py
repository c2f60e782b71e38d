"""What producers say is a function of the seed, and as unpleasant as producers are."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from chaos.words import words_of
from shardbus_schemas import subjects

BEGAN = datetime(2026, 11, 20, tzinfo=UTC)
WORDS = words_of(7, BEGAN)


def test_the_same_seed_says_the_same() -> None:
    assert words_of(7, BEGAN) == WORDS
    assert words_of(8, BEGAN) != WORDS


def test_everybody_is_introduced_before_anybody_reports() -> None:
    before = [word for word in WORDS if word.at < 0]
    assert WORDS[: len(before)] == before
    assert {word.lane for word in before} == {"fleet"}
    assert len(before) == 9


def test_some_of_it_comes_again_out_of_order_or_by_a_clock_that_is_wrong() -> None:
    said = [word for word in WORDS if word.at >= 0]
    assert [word.at for word in said] == sorted(word.at for word in said)
    for lane in ("fleet", "telemetry", "command"):
        ids = Counter(word.id for word in said if word.lane == lane)
        assert max(ids.values()) == 2, "said again"
        for message_id in ids:
            assert len({word.outgoing.payload for word in said if word.id == message_id}) == 1, "and the same"
    numbers = [int(word.id.rpartition("-")[2]) for word in said if word.lane == "telemetry"]
    assert numbers != sorted(numbers)
    times = [datetime.fromisoformat(word.outgoing.headers["ce-time"]) for word in said if word.lane == "fleet"]
    jumps = {round((moment - BEGAN) / timedelta(hours=1)) for moment in times}
    assert jumps == {-1, 0, 1}


def test_one_command_may_come_in_two_messages() -> None:
    commands = {word.id: word.command_id for word in WORDS if word.lane == "command"}
    assert len(set(commands.values())) == 8 < len(commands)
    assert {word.outgoing.subject for word in WORDS if word.lane == "command"} <= {
        subjects.command("place"),
        subjects.command("delete"),
        subjects.command("model"),
    }
