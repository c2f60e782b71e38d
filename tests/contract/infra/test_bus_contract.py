"""What every bus promises, asked of each adapter."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from shardbus_infra.bus.port import (
    AppendRejectedError,
    BusUnreachableError,
    ExpectedLast,
    Outgoing,
    Stored,
    StreamMissingError,
    StreamReplacedError,
    WorkItem,
    WrongSequenceError,
)
from shardbus_infra.bus.reconcile import StreamDriftError, reconcile
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, STREAMS, TELEMETRY, StreamSpec, declared
from support.buses import OpenBus, RunScenario, SomeBus
from support.waiting import until

NODE = "shardbus.v1.event.node"
INSTANCE = "shardbus.v1.event.instance"
INSTANCES = f"{INSTANCE}.*"
PLACE = "shardbus.v1.command.place"


def node(name: str = "attic", payload: bytes = b"{}", message_id: str | None = None) -> Outgoing:
    return Outgoing(f"{NODE}.{name}", payload, {"ce-type": "NodeJoined"}, message_id)


def instance(name: str, message_id: str | None = None) -> Outgoing:
    return Outgoing(f"{INSTANCE}.{name}", b"{}", {}, message_id)


def place(number: int = 0) -> Outgoing:
    return Outgoing(PLACE, b"%d" % number)


async def collect(
    batches: AsyncGenerator[Sequence[Stored], None],
    count: int,
    *,
    each: Callable[[Sequence[Stored]], None] | None = None,
) -> list[Stored]:
    """Return the first ``count`` messages, and close."""
    found: list[Stored] = []
    async with aclosing(batches):
        async for batch in batches:
            if each is not None:
                each(batch)
            found += batch
            if len(found) >= count:
                return found
    raise AssertionError(f"it ended after {len(found)} of {count} messages")


async def is_empty(bus: SomeBus) -> bool:
    return (await bus.info(COMMANDS)).messages == 0


async def next_item(items: AsyncGenerator[WorkItem, None]) -> WorkItem:
    return await asyncio.wait_for(anext(items), 10)


# --- appending


def test_an_append_tells_where_the_message_is(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        before = datetime.now(UTC) - timedelta(seconds=5)
        first, second = await bus.append(node("a", b"1")), await bus.append(node("b", b"2"))
        assert (first.stream, first.sequence, first.duplicate) == (FLEET, 1, False)
        assert second.sequence == 2
        stored = await bus.get(FLEET, 2)
        assert stored is not None
        assert (stored.stream, stored.sequence, stored.subject, stored.payload) == (FLEET, 2, f"{NODE}.b", b"2")
        assert stored.headers["ce-type"] == "NodeJoined"
        assert before < stored.recorded_at < datetime.now(UTC) + timedelta(seconds=5)

    run(scenario)


def test_a_message_id_is_stored_once(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        first = await bus.append(node(message_id="same"))
        again = await bus.append(node(message_id="same"))
        other = await bus.append(node(message_id="other"))
        assert (again.sequence, again.duplicate) == (first.sequence, True)
        assert (other.sequence, other.duplicate) == (first.sequence + 1, False)

    run(scenario)


def test_without_an_id_equal_messages_are_two(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        assert [(await bus.append(node())).sequence for _ in range(2)] == [1, 2]

    run(scenario)


def test_an_append_with_a_stale_expectation_is_refused(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append(instance("a"), expected=ExpectedLast(f"{INSTANCE}.a", 0))
        with pytest.raises(WrongSequenceError):
            await bus.append(instance("a"), expected=ExpectedLast(f"{INSTANCE}.a", 0))
        await bus.append(instance("a"), expected=ExpectedLast(f"{INSTANCE}.a", 1))
        assert (await bus.info(FLEET)).last_sequence == 2

    run(scenario)


def test_an_expectation_may_span_many_subjects(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append(instance("a"), expected=ExpectedLast(INSTANCES, 0))
        await bus.append(node("not an instance".replace(" ", "-")))
        with pytest.raises(WrongSequenceError):
            await bus.append(instance("b"), expected=ExpectedLast(INSTANCES, 0))
        placed = await bus.append(instance("b"), expected=ExpectedLast(INSTANCES, 1))
        assert placed.sequence == 3
        assert (await bus.append(instance("c"), expected=ExpectedLast(INSTANCES, 3))).sequence == 4

    run(scenario)


def test_of_racing_appends_with_one_expectation_one_wins(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        buses = [await open_bus(), await open_bus()]
        for last in range(10):
            tries = [
                buses[i % 2].append(instance(f"i{i}", f"{last}-{i}"), expected=ExpectedLast(INSTANCES, last))
                for i in range(8)
            ]
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
            assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
            assert all(isinstance(o, WrongSequenceError) for o in outcomes if isinstance(o, BaseException))

    run(scenario)


def test_a_retry_of_a_stored_message_is_not_taken_for_a_conflict(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        first = await bus.append(instance("a", "mine"), expected=ExpectedLast(INSTANCES, 0))
        await bus.append(instance("b", "theirs"), expected=ExpectedLast(INSTANCES, 1))
        again = await bus.append(instance("a", "mine"), expected=ExpectedLast(INSTANCES, 0))
        assert (again.sequence, again.duplicate) == (first.sequence, True)
        with pytest.raises(WrongSequenceError):
            await bus.append(instance("c", "late"), expected=ExpectedLast(INSTANCES, 0))

    run(scenario)


def test_a_subject_that_no_stream_takes_is_an_error(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        with pytest.raises(StreamMissingError, match=r"no stream.*elsewhere"):
            await bus.append(Outgoing("elsewhere", b""))
        with pytest.raises(StreamMissingError, match=r"no stream.*elsewhere"):
            await bus.append_many([node(), Outgoing("elsewhere", b""), node()])

    run(scenario)


@pytest.mark.parametrize(
    "message",
    [
        Outgoing("", b""),
        Outgoing(f"{NODE}.*", b""),
        Outgoing(f"{NODE}.>", b""),
        Outgoing(f"{NODE}..a", b""),
        Outgoing(f"{NODE}.a b", b""),
        Outgoing(f"{NODE}.a\r\nPUB x 0\r\n\r\n", b""),
        Outgoing(f"{NODE}.a", b"", {"a b": "c"}),
        Outgoing(f"{NODE}.a", b"", {"": "c"}),
        Outgoing(f"{NODE}.a", b"", {"a:b": "c"}),
        Outgoing(f"{NODE}.a", b"", {"a": "b\r\nc: d"}),
        Outgoing(f"{NODE}.a", b"", {"a": "b\nc"}),
    ],
    ids=lambda message: repr((message.subject, dict(message.headers))),
)
def test_what_can_never_be_stored_is_refused_and_harms_nobody(run: RunScenario, message: Outgoing) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        with pytest.raises(AppendRejectedError):
            await bus.append(message)
        with pytest.raises(AppendRejectedError):
            await bus.append_many([message])
        assert (await bus.append(node())).sequence == 1

    run(scenario)


def test_headers_come_back_as_they_were(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        headers = {"plain": "1", "colons": "a: b:c", "accents": "Größe 中", "empty": "", "spaced": "  x  "}
        await bus.append(Outgoing(f"{NODE}.a", b"\x00\xff\r\n", headers))
        await bus.append(Outgoing(f"{NODE}.a", b""))
        first, second = await collect(bus.follow(FLEET), 2)
        assert dict(first.headers) == headers | {"spaced": "x"}
        assert first.payload == b"\x00\xff\r\n"
        assert (dict(second.headers), second.payload) == ({}, b"")
        assert await bus.get(FLEET, 1) == first
        assert await bus.last(FLEET, f"{NODE}.a") == second

    run(scenario)


def test_many_are_appended_in_order(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        messages = [Outgoing(f"shardbus.v1.telemetry.n{i % 7}", b"%d" % i) for i in range(5000)]
        places = await bus.append_many(messages)
        assert [place.sequence for place in places] == list(range(1, 5001))
        stored = await collect(bus.follow(TELEMETRY), 5000)
        assert [(s.subject, s.payload) for s in stored] == [(m.subject, m.payload) for m in messages]
        assert await bus.append_many([]) == []

    run(scenario)


def test_many_appended_again_are_duplicates(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        messages = [node(f"n{i}", message_id=f"id-{i}") for i in range(300)]
        await bus.append_many(messages[:200])
        again = await bus.append_many(messages)
        assert [(p.sequence, p.duplicate) for p in again] == [(i + 1, i < 200) for i in range(300)]

    run(scenario)


# --- following


def test_a_follow_begins_where_it_is_told(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append_many([node(f"n{i}") for i in range(50)])
        assert [s.sequence for s in await collect(bus.follow(FLEET, start_sequence=31), 20)] == list(range(31, 51))
        assert (await collect(bus.follow(FLEET, start_sequence=50), 1))[0].subject == f"{NODE}.n49"

    run(scenario)


def test_a_follow_goes_on_with_what_comes_later(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus, writer = await open_bus(), await open_bus()
        following = asyncio.create_task(collect(bus.follow(FLEET, start_sequence=3), 3))
        for i in range(5):
            await writer.append(node(f"n{i}"))
        assert [s.sequence for s in await following] == [3, 4, 5]

    run(scenario)


def test_a_follow_from_beyond_the_end_waits_for_its_sequence(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append(node("first"))
        batches = bus.follow(FLEET, start_sequence=4, idle_seconds=0.1)
        assert await anext(batches) == []
        await bus.append_many([node(f"n{i}") for i in range(2, 6)])
        assert [s.sequence for s in await collect(batches, 2)] == [4, 5]

    run(scenario)


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [((f"{NODE}.a",), [1, 4]), ((INSTANCES,), [2, 5]), ((f"{NODE}.b", INSTANCES), [2, 3, 5, 6])],
)
def test_a_follow_may_be_of_some_subjects(run: RunScenario, subjects: Sequence[str], expected: list[int]) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        for _ in range(2):
            await bus.append_many([node("a"), instance("a"), node("b")])
        found = await collect(bus.follow(FLEET, subjects=subjects), len(expected))
        assert [s.sequence for s in found] == expected

    run(scenario)


def test_an_idle_follow_says_so_and_not_before_its_time(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        loop = asyncio.get_running_loop()
        async with aclosing(bus.follow(FLEET, subjects=(INSTANCES,), idle_seconds=0.3)) as batches:
            begun = loop.time()
            for _ in range(2):
                waiting = asyncio.ensure_future(anext(batches))
                await bus.append(node("of-no-interest"))
                assert await waiting == []
            assert loop.time() - begun >= 0.6
            await bus.append(instance("a"))
            assert len(await anext(batches)) == 1

    run(scenario)


def test_a_batch_is_no_larger_than_asked_for(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append_many([node() for _ in range(500)])
        sizes: list[int] = []
        found = await collect(bus.follow(FLEET, max_batch=7), 500, each=lambda batch: sizes.append(len(batch)))
        assert [s.sequence for s in found] == list(range(1, 501))
        assert max(sizes) == 7
        assert min(sizes) >= 1

    run(scenario)


def test_a_slow_reader_gets_everything_and_nothing_twice(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus, writer = await open_bus(), await open_bus()
        writing = asyncio.create_task(
            writer.append_many([Outgoing(f"shardbus.v1.telemetry.n{i % 5}", b"x" * 300) for i in range(12_000)])
        )
        found: list[int] = []
        async with aclosing(bus.follow(TELEMETRY)) as batches:
            async for batch in batches:
                found += [s.sequence for s in batch]
                if len(found) == 12_000:
                    break
                await asyncio.sleep(0.02)
        assert found == list(range(1, 12_001))
        await writing

    run(scenario)


def test_follows_do_not_disturb_each_other(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append_many([node() for _ in range(100)])
        first, second = await asyncio.gather(
            collect(bus.follow(FLEET), 100), collect(bus.follow(FLEET, start_sequence=51), 50)
        )
        assert [s.sequence for s in first][50:] == [s.sequence for s in second]

    run(scenario)


def test_a_missing_stream_cannot_be_followed(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        with pytest.raises(StreamMissingError, match="NOPE"):
            await anext(bus.follow("NOPE"))
        with pytest.raises(StreamMissingError, match="NOPE"):
            await anext(bus.work("NOPE", durable="d"))
        with pytest.raises(StreamMissingError, match="NOPE"):
            await bus.info("NOPE")

    run(scenario)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", "x\r\nPUB a 0"])
def test_what_cannot_be_a_stream_is_a_missing_one(run: RunScenario, name: str) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        for asked in (bus.info(name), bus.get(name, 1), bus.last(name, ">"), anext(bus.follow(name))):
            with pytest.raises(StreamMissingError):
                await asked
        assert (await bus.append(node())).sequence == 1

    run(scenario)


def test_large_messages_are_followed_in_order(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        messages = [Outgoing("shardbus.v1.telemetry.n", b"%d" % i + bytes(900_000)) for i in range(60)]
        await bus.append_many(messages)
        found = await collect(bus.follow(TELEMETRY), 60)
        assert [s.payload for s in found] == [m.payload for m in messages]

    run(scenario)


def test_a_stream_made_anew_is_not_followed_as_if_it_were_the_same(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus, other = await open_bus(), await open_bus()
        await bus.append_many([node() for _ in range(3)])
        batches = bus.follow(FLEET)
        assert len(await anext(batches)) == 3
        await other.delete_stream(FLEET)
        await reconcile(other)
        await other.append_many([node() for _ in range(5)])
        with pytest.raises(StreamReplacedError, match=FLEET):
            await asyncio.wait_for(anext(batches), 10)

    run(scenario)


# --- working


def test_an_item_comes_until_it_is_acknowledged(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append_many([place(1), place(2)])
        items = bus.work(COMMANDS, durable="placer")
        first = await next_item(items)
        assert (first.stored.sequence, first.stored.subject, first.stored.payload) == (1, PLACE, b"1")
        assert first.attempt == 1
        await first.ack()
        second = await next_item(items)
        assert second.stored.sequence == 2
        await second.nak()
        again = await next_item(items)
        assert (again.stored.sequence, again.attempt) == (2, 2)
        await again.ack()
        await items.aclose()
        info = await bus.info(COMMANDS)
        assert (info.messages, info.last_sequence, info.first_sequence) == (0, 2, 3)

    run(scenario)


def test_an_item_given_back_with_a_delay_lets_others_go_first(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        loop = asyncio.get_running_loop()
        await bus.append_many([place(1), place(2)])
        async with aclosing(bus.work(COMMANDS, durable="placer")) as items:
            delayed = await next_item(items)
            await delayed.nak(0.5)
            given_back = loop.time()
            other = await next_item(items)
            assert other.stored.sequence == 2
            await other.ack()
            again = await next_item(items)
            assert (again.stored.sequence, again.attempt) == (1, 2)
            assert loop.time() - given_back >= 0.45
            await again.ack()

    run(scenario)


def test_an_item_that_nobody_settles_comes_again(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append(place())
        async with aclosing(bus.work(COMMANDS, durable="placer", ack_wait_seconds=0.3)) as items:
            first, second = await next_item(items), await next_item(items)
            assert (first.stored, first.attempt, second.stored, second.attempt) == (first.stored, 1, first.stored, 2)
            await second.ack()
        assert (await bus.info(COMMANDS)).messages == 0

    run(scenario)


def test_an_item_in_progress_stays_with_its_worker(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus, other = await open_bus(), await open_bus()
        await bus.append(place())
        async with aclosing(bus.work(COMMANDS, durable="placer", ack_wait_seconds=0.5)) as items:
            item = await next_item(items)
            async with aclosing(other.work(COMMANDS, durable="placer", ack_wait_seconds=0.5)) as others:
                waiting = asyncio.ensure_future(anext(others))
                for _ in range(8):
                    await item.in_progress()
                    await asyncio.sleep(0.15)
                assert not waiting.done()
                await item.ack()
                waiting.cancel()
                await asyncio.wait({waiting})
        assert (await bus.info(COMMANDS)).messages == 0

    run(scenario)


def test_workers_of_one_name_share_the_queue(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        done: list[list[bytes]] = [[], []]

        async def worker(number: int, bus: SomeBus) -> None:
            async with aclosing(bus.work(COMMANDS, durable="placer")) as items:
                async for item in items:
                    done[number].append(item.stored.payload)
                    await asyncio.sleep(0.01)
                    await item.ack()

        buses = [await open_bus(), await open_bus()]
        workers = [asyncio.create_task(worker(i, bus)) for i, bus in enumerate(buses)]
        await buses[0].append_many([place(i) for i in range(40)])
        await until(lambda: len(done[0]) + len(done[1]) >= 40)
        await until(functools.partial(is_empty, buses[0]))
        for task in workers:
            task.cancel()
        await asyncio.wait(workers)
        assert sorted(done[0] + done[1], key=int) == [b"%d" % i for i in range(40)]
        assert min(map(len, done)) >= 5

    run(scenario)


@pytest.mark.parametrize("bound", [1, 3])
def test_a_worker_holds_no_more_than_it_asked_for(run: RunScenario, bound: int) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append_many([place(i) for i in range(8)])
        async with aclosing(bus.work(COMMANDS, durable="placer", max_pending=bound)) as items:
            held = [await next_item(items) for _ in range(bound)]
            waiting = asyncio.ensure_future(anext(items))
            await asyncio.wait({waiting}, timeout=0.2)
            assert not waiting.done()
            await held[0].ack()
            assert (await asyncio.wait_for(waiting, 10)).stored.sequence == bound + 1

    run(scenario)


def test_what_a_worker_has_not_begun_goes_to_others_when_it_stops(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus, other = await open_bus(), await open_bus()
        await bus.append_many([place(i) for i in range(5)])
        stopping = bus.work(COMMANDS, durable="placer", max_pending=5, ack_wait_seconds=60)
        first = await next_item(stopping)
        await stopping.aclose()
        await first.ack()
        async with aclosing(other.work(COMMANDS, durable="placer", max_pending=5, ack_wait_seconds=60)) as items:
            found = [await next_item(items) for _ in range(4)]
        assert sorted(item.stored.sequence for item in found) == [2, 3, 4, 5]

    run(scenario)


def test_an_item_acknowledged_late_or_twice_is_no_error(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.append(place())
        async with aclosing(bus.work(COMMANDS, durable="placer", ack_wait_seconds=0.2)) as items:
            item = await next_item(items)
            await asyncio.sleep(0.4)
            await item.ack()
            await item.ack()
        assert (await bus.info(COMMANDS)).messages == 0

    run(scenario)


# --- looking


def test_one_message_can_be_looked_up(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        assert await bus.get(FLEET, 1) is None
        assert await bus.last(FLEET, f"{NODE}.*") is None
        await bus.append_many([node("a", b"1"), node("b", b"2"), instance("i"), node("a", b"3")])
        found = await collect(bus.follow(FLEET), 4)
        assert [await bus.get(FLEET, sequence) for sequence in range(6)] == [None, *found, None]
        assert await bus.last(FLEET, f"{NODE}.b") == found[1]
        assert await bus.last(FLEET, f"{NODE}.*") == found[3]
        assert await bus.last(FLEET, "shardbus.v1.event.>") == found[3]
        assert await bus.last(FLEET, INSTANCES) == found[2]
        with pytest.raises(StreamMissingError):
            await bus.get("NOPE", 1)

    run(scenario)


def test_a_stream_tells_its_extent(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        empty = await bus.info(FLEET)
        assert (empty.name, empty.messages, empty.last_sequence) == (FLEET, 0, 0)
        await bus.append_many([node("a"), node("b")])
        info = await bus.info(FLEET)
        assert (info.first_sequence, info.last_sequence, info.messages, info.created) == (1, 2, 2, empty.created)
        assert info.bytes > 0
        await bus.delete_stream(FLEET)
        await reconcile(bus)
        assert (await bus.info(FLEET)).created > empty.created

    run(scenario)


def test_a_closed_bus_ends_what_runs_and_refuses_the_rest(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        ends = [
            asyncio.ensure_future(anext(generator, "ended"))
            for generator in (bus.follow(FLEET), bus.work(COMMANDS, durable="placer"))
        ]
        await asyncio.wait(ends, timeout=0.1)
        await bus.close()
        await bus.close()
        assert await asyncio.wait_for(asyncio.gather(*ends), 5) == ["ended", "ended"]
        with pytest.raises(BusUnreachableError, match="closed"):
            await bus.append(node())
        with pytest.raises(BusUnreachableError, match="closed"):
            await bus.append_many([node()])
        with pytest.raises(BusUnreachableError, match="closed"):
            await bus.info(FLEET)
        with pytest.raises(BusUnreachableError, match="closed"):
            await anext(bus.follow(FLEET))

    run(scenario)


# --- the declared streams


def without(stream: str) -> list[StreamSpec]:
    return [spec for spec in STREAMS if spec.name != stream]


def test_reconciling_brings_the_streams_about_and_again_changes_nothing(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.delete_stream(DEAD)
        assert await reconcile(bus) == [
            *(f"{stream}: as declared" for stream in (TELEMETRY, FLEET, COMMANDS)),
            "DEAD: created",
            "SNAPSHOTS: as declared",
        ]
        assert await reconcile(bus) == [f"{spec.name}: as declared" for spec in STREAMS]

    run(scenario)


def test_many_may_reconcile_at_once(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        buses = [await open_bus() for _ in range(4)]
        for spec in STREAMS:
            await buses[0].delete_stream(spec.name)
        await asyncio.gather(*(reconcile(bus) for bus in buses * 3))
        assert await reconcile(buses[0]) == [f"{spec.name}: as declared" for spec in STREAMS]

    run(scenario)


def test_what_may_be_changed_is_changed(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        smaller = declared(telemetry_max_bytes=50_000_000, telemetry_max_age=timedelta(hours=1))
        done = await reconcile(bus, smaller)
        assert done[0].startswith("TELEMETRY: changed max_age")
        assert "max_bytes" in done[0]
        config = await bus.stream_config(TELEMETRY)
        assert config is not None
        assert (config["max_bytes"], config["max_age"]) == (50_000_000, 3_600_000_000_000)
        assert await reconcile(bus, smaller) == [f"{spec.name}: as declared" for spec in STREAMS]

    run(scenario)


def test_what_cannot_be_changed_is_named(run: RunScenario) -> None:
    async def scenario(open_bus: OpenBus) -> None:
        bus = await open_bus()
        await bus.delete_stream(COMMANDS)
        await bus.create_stream({"name": COMMANDS, "subjects": ["shardbus.v1.command.>"], "storage": "memory"})
        with pytest.raises(StreamDriftError, match=r"COMMANDS.*storage 'memory' instead of 'file'.*retention"):
            await reconcile(bus)

    run(scenario)
