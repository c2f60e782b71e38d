"""What a command prints: data on stdout as a table or as JSON, messages on stderr."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A pipe gets no colours (unless FORCE_COLOR says so) and no narrowing to a terminal's width. NO_COLOR means no escapes
# at all: rich alone would keep bold.
_PIPE_WIDTH = 200
_COLORS: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
_PATIENCE_SECONDS = 1.0
_REFRESH_SECONDS = 0.1
Item = TypeVar("Item")
data = Console(
    width=None if sys.stdout.isatty() else _PIPE_WIDTH,
    color_system=_COLORS,
    highlight=False,
    emoji=False,
    soft_wrap=False,
)
messages = Console(stderr=True, color_system=_COLORS, highlight=False, emoji=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a message for a person, on stderr."""
    messages.print(text, markup=False)


def with_progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield ``items``; what takes over a second says so on stderr: on a terminal how far it is, elsewhere once."""
    began = said = time.monotonic()
    terminal = sys.stderr.isatty()
    for count, item in enumerate(items, start=1):
        now = time.monotonic()
        if now - began > _PATIENCE_SECONDS and (said == began or (terminal and now - said > _REFRESH_SECONDS)):
            said = now
            sys.stderr.write(f"\r{count} of about {total} {what}" if terminal else f"{total} {what}, one moment\n")
            sys.stderr.flush()
        yield item
    if terminal and said != began:
        sys.stderr.write("\r\x1b[K")


class Progress:
    """Says on stderr how far a work is that takes over a second: on a terminal all the time, elsewhere once."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._said = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` are done."""
        now = time.monotonic()
        if now - self._began < _PATIENCE_SECONDS or (
            self._said != self._began and not (self._terminal and now - self._said > _REFRESH_SECONDS)
        ):
            return
        self._said = now
        rate = done / (now - self._began)
        left = (total - done) / rate if rate else 0
        text = f"{done:,} of {total:,} {self._what}, {rate:,.0f}/s, {left:.0f} s to go"
        sys.stderr.write(f"\r{text}\x1b[K" if self._terminal else f"{total:,} {self._what}, one moment\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._terminal and self._said != self._began:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def heading(text: str) -> None:
    """Print a heading on stdout, after an empty line."""
    data.print()
    data.print(text, style="bold", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=_plain)
    sys.stdout.write("\n")


def print_json_line(value: Any) -> None:
    """Print ``value`` as one line of JSON on stdout, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=_plain) + "\n")
    sys.stdout.flush()


def print_table(
    title: str | None, rows: Sequence[Mapping[str, object]], *, right: frozenset[str] = frozenset()
) -> None:
    """Print rows under their keys as headings; ``right`` names the columns that are aligned to the right."""
    if not rows:
        return
    table = Table(
        title=title and Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in rows[0]:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))  # names are no markup
    data.print(table)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    return str(value)
