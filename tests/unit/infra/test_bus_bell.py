"""Waking one who waits."""

import asyncio

import pytest
from shardbus_infra.bus.bell import Bell


def test_a_ring_wakes_and_a_timeout_ends_the_wait() -> None:
    async def scenario() -> None:
        bell = Bell()
        bell.ring()  # heard by nobody
        await asyncio.wait_for(bell.wait(0.01), 1)
        waiting = asyncio.create_task(bell.wait(None))
        await asyncio.sleep(0)
        bell.ring()
        bell.ring()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())


def test_a_cancellation_that_comes_with_the_ring_is_not_lost() -> None:
    async def scenario() -> None:
        for limit in (None, 60.0):
            bell = Bell()
            waiting = asyncio.create_task(bell.wait(limit))
            await asyncio.sleep(0)
            bell.ring()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(scenario())
