"""Which words of runners are told, and when."""

from typing import Any

import pytest
from shardbus_agents.runners.report import ReportError
from shardbus_agents.runners.shards import ShardKey, Shards, Telling, Word
from shardbus_schemas.ids import DeviceId, InstanceId
from support.readings import START

KEY: ShardKey = (InstanceId("llama-1"), DeviceId("cuda-1"))
STEP = 100.0


def word(state: Any = "loading", **what: Any) -> Word:
    return Word(state, START, **what)


class Talk:
    """Words about shards, and what is told of them."""

    def __init__(self, **options: Any) -> None:
        self.shards = Shards(**options)

    def say(self, said: Word, at: float, key: ShardKey = KEY) -> list[Word]:
        self.shards.take(key, said, at, memory_step=STEP)
        return self.due(at)

    def due(self, at: float) -> list[Word]:
        return [telling.word for telling in self.tellings(at)]

    def tellings(self, at: float) -> tuple[Telling, ...]:
        return self.shards.due(at)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_the_first_word_is_told_at_once(talk: Talk) -> None:
    assert talk.say(word(), 0) == [word()]


def test_the_same_word_again_is_not_told(talk: Talk) -> None:
    talk.say(word(memory_used_bytes=1000), 0)
    assert talk.say(word(memory_used_bytes=1000), 50) == []
    assert talk.shards.seconds_to_due(50) is None


@pytest.mark.parametrize(
    "changed",
    [
        word("ready", memory_used_bytes=1000),
        word(layers=(0, 4), memory_used_bytes=1000),
        word(memory_used_bytes=1100),
        word(memory_used_bytes=None),
        word(memory_used_bytes=900),
    ],
)
def test_a_change_is_told_but_not_within_a_second_of_the_last(talk: Talk, changed: Word) -> None:
    talk.say(word(memory_used_bytes=1000), 0)
    assert talk.say(changed, 0.25) == []
    assert talk.shards.seconds_to_due(0.25) == 0.75
    assert talk.due(0.99) == []
    assert talk.due(1.0) == [changed]
    assert talk.due(100) == []


def test_memory_that_moved_by_less_than_the_step_is_not_told(talk: Talk) -> None:
    talk.say(word(memory_used_bytes=1000), 0)
    assert talk.say(word(memory_used_bytes=1099), 50) == []


def test_memory_that_creeps_is_told_once_it_crept_a_step_from_what_was_told(talk: Talk) -> None:
    talk.say(word(memory_used_bytes=0), 0)
    told = [each.memory_used_bytes for at in range(1, 31) for each in talk.say(word(memory_used_bytes=at * 10), at)]
    assert told == [100, 200, 300]


def test_where_the_message_alone_changed_it_waits_for_ten_seconds(talk: Talk) -> None:
    talk.say(word(message="1 %"), 0)
    told = [each.message for at in range(1, 31) for each in talk.say(word(message=f"{at} %"), at)]
    assert told == ["10 %", "20 %", "30 %"]


def test_a_message_that_waits_does_not_hold_up_a_new_state(talk: Talk) -> None:
    talk.say(word(message="1 %"), 0)
    assert talk.say(word(message="2 %"), 2) == []
    assert talk.say(word("failed", message="out of memory"), 2.1) == [word("failed", message="out of memory")]


def test_of_what_waits_the_last_is_told(talk: Talk) -> None:
    talk.say(word(), 0)
    assert talk.say(word("ready"), 0.1) == []
    assert talk.say(word("failed"), 0.2) == []
    assert talk.due(1) == [word("failed")]


def test_what_is_again_as_it_was_told_is_not_told(talk: Talk) -> None:
    talk.say(word(), 0)
    talk.say(word("ready"), 0.1)
    assert talk.say(word(), 0.2) == []
    assert talk.due(100) == []


def test_layers_that_a_word_leaves_out_are_those_of_the_word_before(talk: Talk) -> None:
    talk.say(word(layers=(0, 8)), 0)
    assert talk.say(word("ready"), 2) == [word("ready", layers=(0, 8))]
    talk.say(word("stopped"), 4)
    assert talk.say(word("loading"), 6) == [word("loading")]  # another life of it


def test_it_says_whether_the_device_holds_more_or_less_now(talk: Talk) -> None:
    shards = talk.shards
    moves: list[bool] = []
    said = [word(memory_used_bytes=5), word(memory_used_bytes=5, message="half"), word("ready", memory_used_bytes=5)]
    for at, each in enumerate(said):
        shards.take(KEY, each, at * 20, memory_step=STEP)
        moves += [telling.moves_memory for telling in shards.due(at * 20)]
    assert moves == [True, False, True]


def other(number: int) -> ShardKey:
    return InstanceId(f"other-{number}"), DeviceId("cuda-1")


def test_shards_beyond_what_is_remembered_are_refused_until_some_have_ended_for_a_minute() -> None:
    talk = Talk(most=2)
    talk.say(word("ready"), 0, other(0))
    talk.say(word("ready"), 0, other(1))
    with pytest.raises(ReportError, match="knows of 2 shards"):
        talk.say(word(), 500, other(2))
    talk.say(word("stopped"), 501, other(0))
    with pytest.raises(ReportError, match="try again in a minute"):
        talk.say(word(), 560, other(2))
    assert talk.say(word(), 561, other(2)) == [word()]
    assert talk.shards.said(other(0)) is None
    assert talk.shards.said(other(1)) == word("ready")


def test_shards_do_not_wait_for_each_other(talk: Talk) -> None:
    talk.say(word(), 0)
    assert talk.say(word(), 0.1, other(0)) == [word()]
