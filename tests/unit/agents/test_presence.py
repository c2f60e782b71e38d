"""One agent for each node id."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from shardbus_agents.presence import DuplicateNodeError, Presence
from shardbus_infra.bus.memory import MemoryServer
from shardbus_infra.bus.port import BusUnreachableError
from shardbus_schemas import subjects
from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.presence import AgentPresent
from support.unreliable_bus import UnreliableBus
from support.waiting import until
from typing_extensions import override

SINCE = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)


def word(boot: str, node: str = "attic") -> AgentPresent:
    return AgentPresent(
        node_id=NodeId(node), boot_id=BootId(boot), started_at=SINCE, hostname=f"host-of-{boot}", process_id=4711
    )


class SlowBus(UnreliableBus):
    """Where an answer takes its time, so that all have asked before anybody listens."""

    @override
    async def request(self, subject: str, payload: bytes, *, timeout_seconds: float = 2) -> bytes:
        try:
            return await super().request(subject, payload, timeout_seconds=timeout_seconds)
        finally:
            await asyncio.sleep(0.02)


class House:
    """Agents on one bus."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.tasks: list[asyncio.Task[None]] = []
        self.contested: list[str] = []

    def start(self, boot: str, node: str = "attic", **options: float) -> tuple[Presence, asyncio.Task[None]]:
        presence = Presence(word(boot, node), SlowBus(server=self.server), **options)
        presence.contested = lambda: self.contested.append(boot)
        self.tasks.append(asyncio.create_task(presence.run()))
        return presence, self.tasks[-1]


def run(scenario: Callable[[House], Awaitable[None]]) -> None:
    async def whole() -> None:
        house = House()
        async with asyncio.timeout(20):
            try:
                await scenario(house)
            finally:
                for task in house.tasks:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, DuplicateNodeError):
                        await task

    asyncio.run(whole())


def test_an_agent_that_is_alone_is_admitted_at_once() -> None:
    async def scenario(house: House) -> None:
        began = asyncio.get_running_loop().time()
        presence, task = house.start("1")
        await presence.admitted.wait()
        assert asyncio.get_running_loop().time() - began < 1
        await until(lambda: house.server.hearings)
        assert not task.done()

    run(scenario)


@pytest.mark.parametrize("boot", ["0", "2"])
def test_the_second_is_refused_and_told_who_is_there(boot: str) -> None:
    async def scenario(house: House) -> None:
        first, running = house.start("1")
        await first.admitted.wait()
        second, task = house.start(boot)
        with pytest.raises(DuplicateNodeError) as refused:
            await task
        assert str(refused.value) == (
            "an agent on host host-of-1 (process 4711) speaks since 2026-03-01 08:30:00 UTC for the node id 'attic', "
            "so this one stops: stop the other one, or give this one a name of its own with --node-id or "
            "SHARDBUS_NODE_ID"
        )
        assert not second.admitted.is_set()
        assert not running.done()

    run(scenario)


def test_agents_of_other_nodes_are_no_concern() -> None:
    async def scenario(house: House) -> None:
        admitted = [house.start("1", node)[0].admitted for node in ("attic", "cellar", "at.tic")]
        await asyncio.gather(*(each.wait() for each in admitted))

    run(scenario)


def test_when_the_first_is_gone_the_next_is_admitted() -> None:
    async def scenario(house: House) -> None:
        first, running = house.start("1")
        await first.admitted.wait()
        running.cancel()
        await asyncio.wait({running})
        second, _ = house.start("2")
        await second.admitted.wait()

    run(scenario)


def test_of_many_that_start_together_exactly_one_goes_on() -> None:
    async def scenario(house: House) -> None:
        started = [house.start(f"{number}") for number in range(5)]
        await until(lambda: sum(task.done() for _, task in started) == 4)
        assert [number for number, (_, task) in enumerate(started) if not task.done()] == [0]
        for _, task in started[1:]:
            assert isinstance(task.exception(), DuplicateNodeError)
        # It says again that it is there, for the others may have said so too.
        assert set(house.contested) == {"0"}

    run(scenario)


def test_two_that_a_cut_network_let_in_find_each_other_afterwards() -> None:
    async def scenario(house: House) -> None:
        other = MemoryServer()
        bus = UnreliableBus(server=other)
        apart = Presence(word("1"), bus, claim_seconds=0.05)
        house.tasks.append(asyncio.create_task(apart.run()))
        second, task = house.start("2", claim_seconds=0.05)
        await asyncio.gather(apart.admitted.wait(), second.admitted.wait())
        house.server.hearings.extend(other.hearings)
        other.hearings.extend(house.server.hearings)
        with pytest.raises(DuplicateNodeError, match="host-of-1"):
            await task
        assert not house.tasks[0].done()

    run(scenario)


def test_while_the_bus_is_away_nobody_is_admitted_and_then_it_is_checked() -> None:
    async def scenario(house: House) -> None:
        bus = UnreliableBus(server=house.server)
        bus.away = True
        presence = Presence(word("2"), bus)
        task = asyncio.create_task(presence.run())
        house.tasks.append(task)
        await until(lambda: bus.attempts > 1)
        assert not presence.admitted.is_set()
        first, _ = house.start("1")
        await first.admitted.wait()
        bus.away = False
        with pytest.raises(DuplicateNodeError):
            await task
        assert not presence.admitted.is_set()

    run(scenario)


def test_one_that_listens_and_does_not_answer_is_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shardbus_agents.presence._ANSWER_SECONDS", 0.05)

    async def scenario(house: House) -> None:
        async with UnreliableBus(server=house.server).listen(subjects.agent("attic")):
            presence, _ = house.start("1")
            await presence.admitted.wait()
        assert "taken for dead" in caplog.text

    run(scenario)


def test_an_answer_that_is_not_understood_is_an_answer() -> None:
    async def scenario(house: House) -> None:
        bus = UnreliableBus(server=house.server)

        async with bus.listen(subjects.agent("attic")) as questions:
            _, task = house.start("1")
            question = await anext(questions)
            assert question.reply is not None
            await bus.tell(question.reply, b'{"from": "the future"}')
            with pytest.raises(DuplicateNodeError, match="does not understand"):
                await task

    run(scenario)


def test_garbage_on_its_subject_does_not_disturb_an_agent() -> None:
    async def scenario(house: House) -> None:
        presence, task = house.start("1")
        await presence.admitted.wait()
        bus = UnreliableBus(server=house.server)
        for payload in (b"", b"{}", b"\xff\xfe", b"[" * 100_000, word("2").write()[:-3]):
            await bus.tell(subjects.agent("attic"), payload)
        answer = await bus.request(subjects.agent("attic"), word("3").write())
        assert AgentPresent.read(answer) == word("1")
        assert not task.done()

    run(scenario)


def test_the_unreliable_bus_takes_messages_away_too() -> None:
    async def scenario(house: House) -> None:
        bus = UnreliableBus(server=house.server)
        bus.away = True
        with pytest.raises(BusUnreachableError):
            await bus.tell("a", b"")
        with pytest.raises(BusUnreachableError):
            await bus.request("a", b"")

    run(scenario)


def test_a_newer_agents_word_is_read_without_what_is_new_in_it() -> None:
    newer = word("1").write()[:-1] + b', "mood": "good"}'
    assert AgentPresent.read(newer) == word("1")
