"""Following a state until what was asked for is reached, with a line for each change."""

import asyncio
import sys
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from shardbus_infra.bus.streams import FLEET

from shardbus_console.output import say

if TYPE_CHECKING:
    from shardbus_eventstore.live import Following

    from shardbus_console.progress import Goal, Reached

_LOOK_SECONDS = 0.25
"""How long nothing may come before it is looked at how long nothing came."""


async def follow(known: "Following", command_id: str, goal: "Goal", line: "Line", deadline: float) -> "Reached":
    """Return how far ``goal`` is when it has ended, or at ``deadline`` (loop time)."""
    from shardbus_eventstore.live import StateBehindError

    loop = asyncio.get_running_loop()
    said, since = "", loop.time()
    while True:
        state = known.state
        now = loop.time()
        if command_id in state.decisions:  # until then the state is older than the answer
            text = goal(state, 0).text
            if text != said:
                said, since = text, now
                line.show(said)
            reached = goal(state, now - since)
            if reached.end is not None or now >= deadline:
                return reached
        try:
            left = max(0.001, min(_LOOK_SECONDS, deadline - now))
            await known.live.wait_until(FLEET, state.positions.get(FLEET, 0) + 1, left)
        except StateBehindError:
            continue


class Line:
    """What goes on, on stderr: on a terminal one line that changes, elsewhere a line for each change."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last: str | None = None

    def show(self, text: str) -> None:
        """Say how far it is."""
        plain = _printable(text)
        if plain != self._last:
            shown = f"\r{plain[: get_terminal_size().columns - 1]}\x1b[K" if self._terminal else f"{plain}\n"
            sys.stderr.write(shown)
            sys.stderr.flush()
            self._last = plain

    def end(self, text: str | None = None) -> None:
        """Take the line away, and leave how it ended, if it did."""
        if self._terminal and self._last is not None:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        if text is not None and (self._terminal or _printable(text) != self._last):
            say(_printable(text))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
