"""Waking one who waits."""

import asyncio
from contextlib import suppress


class Bell:
    """One may wait, anybody may ring. A ring that nobody waits for is lost: look first, then wait, without a pause.

    ``asyncio.wait_for`` would not do: before Python 3.12 it swallows a cancellation that comes together with the
    ring.
    """

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the one who waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, timeout_seconds: float | None) -> None:
        """Return at the next ring, or when the time has passed: the caller looks at what has changed."""
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._waiting
        finally:
            self._waiting = None
