"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PAUSE_SECONDS = 0.005


async def until(
    condition: Callable[[], object] | Callable[[], Awaitable[object]], *, within: float = 10, what: str = ""
) -> None:
    """Return when ``condition()`` (plain or async) is true; fails the test after ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(_too_late(condition, within, what, answer))
        await asyncio.sleep(PAUSE_SECONDS)


def until_sync(condition: Callable[[], object], *, within: float = 10, what: str = "") -> None:
    """Return when ``condition()`` is true; fails the test after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_too_late(condition, within, what, answer))
        time.sleep(PAUSE_SECONDS)


def _too_late(condition: object, within: float, what: str, answer: object) -> str:
    return (
        f"waited {within:g} s in vain for {what or getattr(condition, '__name__', condition)}; last answer: {answer!r}"
    )
