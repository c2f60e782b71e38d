"""A command that is followed to its end: on the bus in memory, with the answers and events that a placer would give."""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Sequence

import pytest
from shardbus_console import progress
from shardbus_console.commanding import Waited, code_after_wait
from shardbus_console.exits import Exit
from shardbus_console.following import Line, follow
from shardbus_console.progress import End, Goal, InstancesRun, Reached
from shardbus_eventstore.live import following
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import StreamReplacedError
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas.ids import InstanceId
from support.wanted import moved, node, placed, said, waits
from typing_extensions import override


class Said(Line):
    """Keeps what was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    @override
    def show(self, text: str) -> None:
        self.lines.append(text)


def followed(
    goal: Goal, command_id: str, tell: Callable[[MemoryBus], Awaitable[None]], *, seconds: float = 20
) -> tuple[Reached, Sequence[str]]:
    line = Said()

    async def scenario() -> Reached:
        bus = MemoryBus()
        for event in node("attic", "g0"):
            await publish(bus, event, source="test")
        async with following(bus) as known:
            assert known.state.nodes, "what the streams hold is folded at once"
            telling = asyncio.create_task(tell(bus))
            reached = await follow(known, command_id, goal, line, asyncio.get_running_loop().time() + seconds)
            await telling
            return reached

    return asyncio.run(scenario()), line.lines


ONE = InstancesRun((InstanceId("one"),), "ready")


def test_each_change_is_one_line_and_the_end_is_the_end() -> None:
    async def tell(bus: MemoryBus) -> None:
        for event in (
            placed("other", "attic/g0"),
            placed("one", "attic/g0"),
            said("one", "attic/g0", "loading"),
            said("other", "attic/g0", "loading"),
            said("one", "attic/g0", "ready"),
        ):
            await publish(bus, event, source="test")
            await asyncio.sleep(0.01)

    reached, lines = followed(ONE, "c-one", tell)
    assert reached == Reached("one is placed, shards 1/1 ready", "reached")
    assert lines[-1] == "one is placed, shards 1/1 ready"
    assert len(set(lines)) == len(lines) <= 3


def test_when_the_time_is_over_it_says_how_far_it_is() -> None:
    async def tell(bus: MemoryBus) -> None:
        await publish(bus, placed("one", "attic/g0"), source="test")

    reached, _ = followed(ONE, "c-one", tell, seconds=0.3)
    assert reached == Reached("one is placed, shards 0/1 ready")


def test_without_any_runtime_it_ends_by_itself_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.3)

    async def tell(bus: MemoryBus) -> None:
        await publish(bus, placed("one", "attic/g0"), source="test")

    reached, lines = followed(InstancesRun((InstanceId("one"),)), "c-one", tell)
    assert reached.end == "reached"
    assert reached.text.endswith("no runtime reports its shards")
    assert lines == ["one is placed, shards 0/1 ready"]


def test_what_waits_for_a_place_is_followed_until_there_is_one() -> None:
    async def tell(bus: MemoryBus) -> None:
        await publish(bus, waits("one"), source="test")
        await asyncio.sleep(0.01)
        await publish(bus, moved("one", "attic/g0"), source="test")

    goal = InstancesRun((InstanceId("one"),), "placed", patient=True)
    assert followed(goal, "p-one", tell)[0].end == "reached"


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("reached", Exit.DONE, "reached"),
        ("pending", Exit.PENDING, "pending"),
        ("failed", Exit.FAILED, "failed"),
        (None, Exit.PENDING, "timeout"),
    ],
)
def test_how_it_ended_is_the_exit_code_and_in_the_json(end: End | None, code: Exit, told: str) -> None:
    reached = Reached("so far", end)
    assert code_after_wait(reached) == code
    assert Waited(reached, 1.23456).as_json() == {"end": told, "text": "so far", "seconds": 1.235}


def test_a_stream_that_is_made_anew_meanwhile_ends_the_wait_with_that_and_not_with_silence() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await publish(bus, placed("one", "attic/g0"), source="test")
        async with following(bus) as known:
            following_it = follow(known, "c-one", ONE, Said(), asyncio.get_running_loop().time() + 20)
            task = asyncio.create_task(following_it)
            await asyncio.sleep(0)
            config = bus.server.log(FLEET).config
            await bus.delete_stream(FLEET)
            await bus.create_stream(config)
            with pytest.raises(StreamReplacedError):
                await task

    asyncio.run(scenario())


def test_on_a_terminal_there_is_one_line_that_changes_and_the_end_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        @override
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "21")
    line = Line()
    line.show("one is placed, shards 0/2 ready")
    line.show("one is placed")
    line.show("one is placed")
    line.end()
    assert shown.getvalue() == "\rone is placed, shard\x1b[K\rone is placed\x1b[K\r\x1b[K"


def test_a_line_is_shown_without_what_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = Line()
    line.show("one\x1b[2J waits\nfor a place")
    line.end()
    assert capsys.readouterr().err == "one [2J waits for a place\n"
