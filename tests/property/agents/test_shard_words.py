"""Whatever runners say and however fast: what the bus believes is right, soon and cheaply."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.runners.shards import ShardKey, Shards, Word
from shardbus_schemas.ids import DeviceId, InstanceId
from support.readings import after

STEP = 10
PAUSE, CHATTER = 1.0, 10.0

KEYS = st.sampled_from([(InstanceId(name), DeviceId("cuda-1")) for name in ("a", "b")])
WORDS = st.tuples(
    st.sampled_from(["loading", "ready", "failed", "stopped"]),
    st.sampled_from([None, (0, 4), (0, 8)]),
    st.none() | st.integers(0, 40),
    st.sampled_from([None, "1 %", "2 %"]),
)
TALKS = st.lists(st.tuples(KEYS, WORDS, st.sampled_from([0.0, 0.3, 0.7, 1.0, 4.0, 30.0])), max_size=40)


def close(told: Word, said: Word) -> bool:
    """Return whether who heard ``told`` knows what ``said`` says, but for memory within the step."""
    if (told.state, told.layers, told.message) != (said.state, said.layers, said.message):
        return False
    if told.memory_used_bytes is None or said.memory_used_bytes is None:
        return told.memory_used_bytes == said.memory_used_bytes
    return abs(told.memory_used_bytes - said.memory_used_bytes) < STEP


@given(TALKS)
def test_the_bus_is_right_within_the_step_once_nothing_waits_and_is_never_told_too_often(
    talk: list[tuple[ShardKey, tuple[str, tuple[int, int] | None, int | None, str | None], float]],
) -> None:
    shards, now = Shards(pause_seconds=PAUSE, chatter_seconds=CHATTER), 0.0
    told: dict[ShardKey, list[tuple[float, Word]]] = defaultdict(list)

    def listen() -> None:
        for telling in shards.due(now):
            told[telling.instance_id, telling.device_id].append((now, telling.word))

    def pass_time(seconds: float) -> None:
        nonlocal now
        end = now + seconds
        while (wait := shards.seconds_to_due(now)) is not None and now + wait <= end:
            now += wait
            listen()
        now = end

    for key, (state, layers, memory, message), pause in talk:
        said = Word(state, after(now), layers, memory, message)
        shards.take(key, said, now, memory_step=STEP)
        listen()
        pass_time(pause)

    late = shards.seconds_to_due(now)
    assert late is None or late <= CHATTER
    pass_time(2 * CHATTER)
    assert shards.seconds_to_due(now) is None
    for key in {key for key, _, _ in talk}:
        said_last = shards.said(key)
        assert said_last is not None
        assert close(told[key][-1][1], said_last)
        for (before, first), (then, second) in zip(told[key], told[key][1:], strict=False):
            assert then - before >= PAUSE - 1e-9
            assert not close(first, second)
