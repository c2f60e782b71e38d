"""What every bus promises of messages that no stream keeps, asked of each adapter."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import (
    AppendRejectedError,
    BusUnreachableError,
    Heard,
    NoAnswerError,
    NoRespondersError,
)
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import STREAMS
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas import subjects
from support.buses import OpenBus, RunScenario
from support.waiting import until

ATTIC = subjects.agent("attic")


def test_what_is_told_is_heard_by_all_who_listen_and_by_oneself(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        one, two = await open_bus(), await open_bus()
        async with one.listen(ATTIC) as first, two.listen("shardbus.v1.agent.*") as second:
            await one.tell(ATTIC, b"1")
            await one.tell(subjects.agent("cellar"), b"2")
            await one.tell(ATTIC, b"3")
            assert [(await anext(first)).payload for _ in range(2)] == [b"1", b"3"]
            heard = [await anext(second) for _ in range(3)]
            assert [each.payload for each in heard] == [b"1", b"2", b"3"]
            assert heard[1].subject == "shardbus.v1.agent.cellar"
            assert heard[0].reply is None

    run(scenario)


def test_headers_travel_with_what_is_told(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        async with bus.listen(ATTIC) as heard:
            await bus.tell(ATTIC, b"1", {"ce-type": "Word", "ce-id": "é 1"})
            await bus.tell(ATTIC, b"", {"ce-id": "2"})
            await bus.tell(ATTIC, b"3")
            came = [await anext(heard) for _ in range(3)]
            assert [(each.payload, dict(each.headers)) for each in came] == [
                (b"1", {"ce-type": "Word", "ce-id": "é 1"}),
                (b"", {"ce-id": "2"}),
                (b"3", {}),
            ]
            with pytest.raises(AppendRejectedError, match="line break"):
                await bus.tell(ATTIC, b"", {"ce-id": "a\r\nb"})

    run(scenario)


def test_of_a_group_one_hears_each_message_and_who_is_in_none_hears_all(run: RunScenario) -> None:
    """Whether two of a group, another group, or nobody's group listen: that is counted for each of them alone."""

    async def scenario(open_bus: OpenBus) -> None:
        telling, one, two = await open_bus(), await open_bus(), await open_bus()
        async with (
            one.listen("shardbus.v1.agent.*", group="placer") as first,
            two.listen(ATTIC, group="placer") as second,
            two.listen(ATTIC, group="another") as other,
            one.listen(ATTIC) as alone,
        ):
            sent = [b"%d" % number for number in range(60)]
            heard: dict[str, list[bytes]] = {"first": [], "second": [], "other": [], "alone": []}

            async def note(name: str, listening: AsyncIterator[Heard]) -> None:
                async for each in listening:
                    heard[name].append(each.payload)  # others look while it goes on

            listeners = {"first": first, "second": second, "other": other, "alone": alone}
            tasks = [asyncio.create_task(note(name, listening)) for name, listening in listeners.items()]
            for payload in sent:
                await telling.tell(ATTIC, payload)
            await until(lambda: [*map(len, (heard["alone"], heard["other"]))] == [60, 60])
            await until(lambda: len(heard["first"] + heard["second"]) >= 60)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        assert heard["alone"] == heard["other"] == sent
        assert sorted(heard["first"] + heard["second"], key=int) == sent
        assert heard["first"]
        assert heard["second"]

    run(scenario)


def test_a_request_is_answered_by_whoever_listens(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        asking, answering = await open_bus(), await open_bus()
        async with answering.listen(ATTIC) as questions:

            async def answer() -> None:
                async for question in questions:
                    assert question.reply is not None
                    await answering.tell(question.reply, b"yes, " + question.payload)

            task = asyncio.create_task(answer())
            answers = await asyncio.gather(*(asking.request(ATTIC, b"%d" % number) for number in range(20)))
            assert answers == [b"yes, %d" % number for number in range(20)]
            task.cancel()
            await asyncio.wait({task})

    run(scenario)


def test_where_nobody_listens_a_request_fails_at_once(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        async with bus.listen(ATTIC):
            pass  # whoever listened does not any more
        began = time.monotonic()
        with pytest.raises(NoRespondersError, match=r"shardbus\.v1\.agent\.attic"):
            await bus.request(ATTIC, b"?", timeout_seconds=25)
        assert time.monotonic() - began < 5
        await bus.tell(ATTIC, b"into the void")

    run(scenario)


def test_who_listens_and_does_not_answer_is_told_apart_from_nobody(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        async with bus.listen(ATTIC):
            with pytest.raises(NoAnswerError, match=r"gave no answer in 0\.1 s"):
                await bus.request(ATTIC, b"?", timeout_seconds=0.1)

    run(scenario)


def test_of_what_is_not_read_only_the_newest_is_kept(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        async with bus.listen(ATTIC, max_waiting=3) as heard, bus.listen("end") as end:
            for number in range(10):
                await bus.tell(ATTIC, b"%d" % number)
            await bus.tell("end", b"")
            await anext(end)
            assert [(await anext(heard)).payload for _ in range(3)] == [b"7", b"8", b"9"]

    run(scenario)


def test_listening_ends_with_the_bus(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        async with bus.listen(ATTIC) as heard:
            await bus.tell(ATTIC, b"last")

            async def read() -> list[bytes]:
                return [each.payload async for each in heard]

            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            await bus.close()
            assert (await asyncio.wait_for(reading, 5))[:1] in ([b"last"], [])
        with pytest.raises(BusUnreachableError, match="closed"):
            await bus.tell(ATTIC, b"")
        with pytest.raises(BusUnreachableError, match="closed"):
            await bus.request(ATTIC, b"")

    run(scenario)


@pytest.mark.parametrize("subject", ["", "a..b", "a.*", "a b"])
def test_nothing_is_told_on_what_is_no_subject(run: RunScenario, subject: str) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        with pytest.raises(AppendRejectedError):
            await bus.tell(subject, b"")
        with pytest.raises(AppendRejectedError):
            await bus.request(subject, b"")

    run(scenario)


def test_no_stream_keeps_what_agents_tell_one_another() -> None:
    told = [subjects.agent("attic"), subjects.PEERS, subjects.peers("attic")]
    kept = [pattern for spec in STREAMS for pattern in spec.subjects]
    assert not [(pattern, subject) for pattern in kept for subject in told if subjects.matches(pattern, subject)]


@pytest.mark.connected
def test_who_listens_hears_again_when_the_server_is_back(nats_restartable: EmbeddedNats) -> None:
    async def scenario() -> None:
        bus = await connect(nats_restartable.url, name="listens")
        other = await connect(nats_restartable.url, name="tells")
        await reconcile(bus)
        async with bus.listen(ATTIC) as heard:
            await other.tell(ATTIC, b"before")
            assert (await anext(heard)).payload == b"before"
            await asyncio.to_thread(nats_restartable.kill)
            await until(lambda: not other.health.connected and not bus.health.connected)
            with pytest.raises(BusUnreachableError):
                await other.tell(ATTIC, b"lost")
            with pytest.raises(BusUnreachableError):
                await other.request(ATTIC, b"lost")
            # Begun while there is no server, too.
            async with bus.listen("late") as late:
                await asyncio.to_thread(nats_restartable.start)
                await until(lambda: other.health.connected and bus.health.connected, within=20)
                await bus.tell("late", b"own")  # after its subscriptions, on the same connection
                assert (await anext(late)).payload == b"own"
                await other.tell(ATTIC, b"after")
                assert (await asyncio.wait_for(anext(heard), 10)).payload == b"after"
        await bus.close()
        await other.close()

    asyncio.run(scenario())
