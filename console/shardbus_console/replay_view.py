"""How far a replay is, on stderr: a bar per stream on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from shardbus_eventstore import replay

from shardbus_console.output import messages, say

_LINE_SECONDS = 2.0


class ReplayView(replay.Watch):
    """Shows a replay while it goes on; to be used as a context manager."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._said = self._began
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.completed:>11,.0f} of {task.total:,.0f}"),
            TextColumn("{task.fields[rate]}"),
            console=messages,
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def progress(self, streams: Sequence[replay.Progress]) -> None:
        """Move the bars; where there is no terminal, print a line now and then."""
        now = time.monotonic()
        rates = {each.stream: rate_text(each, now - self._began) for each in streams}
        if not self._bars.disable:
            for each in streams:
                task = self._tasks.get(each.stream)
                if task is None:
                    task = self._tasks[each.stream] = self._bars.add_task(each.stream, rate="")
                self._bars.update(task, completed=each.sequence, total=each.last, rate=rates[each.stream])
        elif now - self._said >= _LINE_SECONDS:
            self._said = now
            say("; ".join(f"{each.stream} {each.sequence:,} of {each.last:,}{rates[each.stream]}" for each in streams))

    def say(self, text: str) -> None:
        """Print a sentence."""
        say(text)


def rate_text(progress: replay.Progress, seconds: float) -> str:
    """Return how fast a stream is rebuilt, and how long the rest will take at that rate."""
    done, rest = progress.sequence - progress.begun_at, progress.last - progress.sequence
    if seconds <= 0 or done <= 0 or not rest:
        return ""
    rate = done / seconds
    return f" ({rate:,.0f}/s, {_duration(rest / rate)} left)"


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004 -- a minute
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
