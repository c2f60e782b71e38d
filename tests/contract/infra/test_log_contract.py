"""What every log promises to who only reads: asked of the buses and of an archive of one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from shardbus_eventstore.archive.archiver import Limits, archive
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.log import ArchiveLog
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.port import BusUnreachableError, Outgoing, Stored, StreamMissingError
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY

SomeLog = MemoryBus | NatsBus | ArchiveLog
ReadFilled = Callable[[Sequence[Outgoing], Callable[[SomeLog], Awaitable[None]]], None]
NODE = "shardbus.v1.event.node"
INSTANCE = "shardbus.v1.event.instance"
MESSAGES = [
    Outgoing(f"{NODE}.a", b"1", {"ce-type": "NodeJoined", "accents": "Größe 中", "empty": ""}),
    Outgoing(f"{INSTANCE}.x", b"\x00\xff\r\n", {}, "id-2"),
    Outgoing(f"{NODE}.b", b"", {}),
    Outgoing(f"{INSTANCE}.y", '{"a": "ü"}\n'.encode(), {}),
    Outgoing(f"{NODE}.a", b"5", {}),
]


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.connected), "archive"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> ReadFilled:
    """Runs a scenario on a log that holds these messages, and closes it."""
    url = request.getfixturevalue("nats_url") if request.param == "nats" else None

    async def filled(messages: Sequence[Outgoing]) -> SomeLog:
        if url is not None:
            bus = await connect(url, name="contract")
            await reconcile(bus)
        else:
            bus = MemoryBus()
        await bus.append_many(messages)
        if request.param != "archive":
            return bus
        await archive(bus, Files(tmp_path), limits=Limits(messages=2))
        return ArchiveLog(tmp_path)

    async def whole(messages: Sequence[Outgoing], scenario: Callable[[SomeLog], Awaitable[None]]) -> None:
        async with asyncio.timeout(30):
            log = await filled(messages)
            try:
                await scenario(log)
            finally:
                await log.close()

    return lambda messages, scenario: asyncio.run(whole(messages, scenario))


async def collect(log: SomeLog, count: int, *, start: int = 1, subjects: Sequence[str] = ()) -> list[Stored]:
    found: list[Stored] = []
    async with aclosing(log.follow(FLEET, start_sequence=start, subjects=subjects, max_batch=3)) as batches:
        async for batch in batches:
            assert 0 < len(batch) <= 3
            found += batch
            if len(found) >= count:
                break
    return found


def test_messages_come_back_as_they_were_and_in_order(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        found = await collect(log, 5)
        assert [stored.sequence for stored in found] == [1, 2, 3, 4, 5]
        assert [stored.subject for stored in found] == [message.subject for message in MESSAGES]
        assert [stored.payload for stored in found] == [message.payload for message in MESSAGES]
        assert found[0].headers == MESSAGES[0].headers
        assert {stored.stream for stored in found} == {FLEET}
        for stored in found:
            assert await log.get(FLEET, stored.sequence) == stored

    read(MESSAGES, scenario)


@pytest.mark.parametrize(("start", "expected"), [(1, [1, 2, 3, 4, 5]), (3, [3, 4, 5]), (5, [5])])
def test_a_follow_begins_where_it_is_told(read: ReadFilled, start: int, expected: list[int]) -> None:
    async def scenario(log: SomeLog) -> None:
        found = await collect(log, len(expected), start=start)
        assert [stored.sequence for stored in found] == expected

    read(MESSAGES, scenario)


def test_a_follow_gives_only_what_matches(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        found = await collect(log, 3, subjects=(f"{INSTANCE}.*", f"{NODE}.b"))
        assert [stored.sequence for stored in found] == [2, 3, 4]

    read(MESSAGES, scenario)


def test_silence_is_told_to_who_asked_for_it(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        async with aclosing(log.follow(FLEET, start_sequence=5, idle_seconds=0.1)) as batches:
            assert [stored.sequence for stored in await anext(batches)] == [5]
            assert list(await anext(batches)) == []
            assert list(await anext(batches)) == []

    read(MESSAGES, scenario)


def test_the_newest_on_a_subject_is_found(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        newest = [await log.last(FLEET, subjects) for subjects in (f"{NODE}.a", f"{INSTANCE}.*", f"{NODE}.none", ">")]
        assert [None if stored is None else stored.sequence for stored in newest] == [5, 4, None, 5]

    read(MESSAGES, scenario)


def test_what_is_not_there_is_none(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        assert await log.get(FLEET, 6) is None
        assert await log.get(TELEMETRY, 1) is None

    read(MESSAGES, scenario)


def test_the_extent_of_a_stream(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        info, empty = await log.info(FLEET), await log.info(DEAD)
        assert (info.name, info.first_sequence, info.last_sequence, info.messages) == (FLEET, 1, 5, 5)
        assert (empty.last_sequence, empty.messages) == (0, 0)
        assert info.bytes > 0
        assert empty.bytes == 0

    read(MESSAGES, scenario)


def test_a_stream_that_is_not_there_is_named(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        with pytest.raises(StreamMissingError, match="NOWHERE"):
            await log.info("NOWHERE")
        with pytest.raises(StreamMissingError, match="NOWHERE"):
            await anext(log.follow("NOWHERE"))

    read(MESSAGES, scenario)


def test_closing_ends_who_follows(read: ReadFilled) -> None:
    async def scenario(log: SomeLog) -> None:
        async def all_of_it() -> int:
            return len([stored async for batch in log.follow(FLEET, start_sequence=4) for stored in batch])

        following = asyncio.create_task(all_of_it())
        await asyncio.sleep(0.05)
        await log.close()
        assert await asyncio.wait_for(following, 10) <= 2
        with pytest.raises(BusUnreachableError):
            await log.info(FLEET)

    read(MESSAGES, scenario)
