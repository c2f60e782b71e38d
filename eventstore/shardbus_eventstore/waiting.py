"""How a coroutine waits: for blocking work in a thread, such as talking to Postgres, and for time to pass."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")


async def in_thread(work: Callable[[], ResultT]) -> ResultT:
    """Return what ``work`` returns. If cancelled, wait for its end first: nobody may touch its connection meanwhile."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Return after so long, or as soon as ``stop`` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
