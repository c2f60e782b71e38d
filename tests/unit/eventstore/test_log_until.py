"""A log that ends before the real one does."""

import asyncio
import contextlib

import pytest
from shardbus_eventstore.log_until import LogUntil
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.streams import DEAD, FLEET

SUBJECT = "shardbus.v1.event.node.n"


async def filled(messages: int) -> MemoryBus:
    bus = MemoryBus()
    await bus.append_many([Outgoing(SUBJECT, str(number).encode()) for number in range(messages)])
    return bus


@pytest.mark.parametrize("end", [0, 1, 4, 7, 10, 12])
@pytest.mark.parametrize("max_batch", [1, 3, 100])
def test_it_is_followed_to_its_end_and_not_beyond(end: int, max_batch: int) -> None:
    async def scenario() -> None:
        bus = await filled(10)
        log = LogUntil(bus, {FLEET: end})
        seen: list[int] = []
        batches = log.follow(FLEET, max_batch=max_batch, idle_seconds=0.001)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                seen += [stored.sequence for stored in batch]
                if not batch and len(seen) >= min(end, 10):
                    break
        assert seen == list(range(1, min(end, 10) + 1))
        info = await log.info(FLEET)
        assert (info.last_sequence, info.messages) == (min(end, 10), min(end, 10))
        for sequence in (1, 5, 10):
            assert (await log.get(FLEET, sequence) is not None) == (sequence <= end)
        assert (await log.last(FLEET, SUBJECT) is not None) == (end >= 10)

    asyncio.run(scenario())


def test_a_stream_without_an_end_is_shown_whole() -> None:
    async def scenario() -> None:
        bus = await filled(3)
        log = LogUntil(bus, {DEAD: 0})
        assert await log.info(FLEET) == await bus.info(FLEET)
        assert await log.get(FLEET, 3) == await bus.get(FLEET, 3)
        assert await log.last(FLEET, SUBJECT) == await bus.last(FLEET, SUBJECT)

    asyncio.run(scenario())


def test_of_a_log_that_lost_its_beginning_the_rest_is_counted() -> None:
    async def scenario() -> None:
        bus = await filled(10)
        del bus.server.log(FLEET).messages[:6]
        for end, left in ((10, 4), (8, 2), (6, 0), (3, 0)):
            info = await LogUntil(bus, {FLEET: end}).info(FLEET)
            assert (info.first_sequence, info.last_sequence, info.messages) == (7, end, left)

    asyncio.run(scenario())
