"""Waiting that ends when the agent is told to stop."""

import asyncio
from contextlib import suppress


async def wait_or_stop(seconds: float, stop: asyncio.Event) -> None:
    """Return after ``seconds``, or as soon as ``stop`` is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), max(0.0, seconds))
