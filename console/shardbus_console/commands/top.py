"""``shardbus top``: the fleet at work, live in the terminal, read from the read model."""

import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text
from shardbus_eventstore.activity import Activity
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.ids import NodeId
from shardbus_schemas.problems import suggest

from shardbus_console.connection import open_read_model, settings_for
from shardbus_console.exits import CommandError
from shardbus_console.options import Json, PostgresUrl
from shardbus_console.output import data, print_json, say
from shardbus_console.top_view import ASCII, BLOCKS, Ink, Sort, device_table, heading

_REDRAWS_PER_SECOND = 2
"""Between two looks only ages change, and the terminal's size."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(top)


def top(
    *,
    node: Annotated[list[str] | None, typer.Option(help="Only this node; may be given several times.")] = None,
    sort: Annotated[Sort, typer.Option(help="The highest first; by node, the devices stay together.")] = Sort.NODE,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2,
    once: Annotated[
        bool, typer.Option("--once", help="Print the table once. [default: if this is no terminal]")
    ] = False,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """Watch the devices live: how busy, hot and full each is.

    Also what holds it back, what runs there, and how old the figures are.

    Goes on until interrupted. While Postgres is away it shows what was last known, and says so.
    """
    settings = settings_for(CommonSettings, postgres_url=postgres_url)
    nodes = tuple(NodeId(name) for name in node or ())
    activity = _look(settings)
    _check(nodes, activity)
    if json:
        print_json(_only(activity, nodes))
        return
    screen = _Screen(activity, sort, nodes, BLOCKS if data.encoding.lower().startswith("utf") else ASCII)
    if once or not data.is_terminal or data.is_dumb_terminal:
        data.print(screen.heading)
        data.print(device_table(activity, width=data.width, sort=sort, nodes=nodes, ink=screen.ink))
        if not any(each.devices for each in activity.nodes):
            say("no device has reported yet; `shardbus agent` reports this node's")
        return
    _watch(screen, settings, interval)


class _Screen:
    """What the terminal shows: made anew at each redraw, for its size then."""

    def __init__(self, activity: Activity, sort: Sort, nodes: Sequence[NodeId], ink: Ink) -> None:
        self._activity = activity
        self._looked_at = time.monotonic()
        self._trouble = ""
        self._sort = sort
        self._nodes = nodes
        self.ink = ink

    def show(self, activity: Activity) -> None:
        """Show this from now on."""
        self._activity, self._looked_at, self._trouble = activity, time.monotonic(), ""

    def complain(self, trouble: str) -> None:
        """Say that what is shown is not renewed, and why."""
        self._trouble = trouble

    @property
    def heading(self) -> Text:
        """The line above the table."""
        return heading(self._activity, nodes=self._nodes, since_seconds=self._age)

    @property
    def _age(self) -> float:
        return time.monotonic() - self._looked_at

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines that fit the terminal."""
        yield self.heading
        height = options.height or console.height
        room = height - 1
        if self._trouble:
            yield Text(self._trouble, style="bold red", no_wrap=True, overflow="ellipsis")
            room -= 1
        table = device_table(
            self._activity,
            width=options.max_width,
            sort=self._sort,
            nodes=self._nodes,
            since_seconds=self._age,
            ink=self.ink,
        )
        lines = console.render_lines(table, options.update(height=None), pad=False)
        shown = lines if len(lines) <= room else lines[: max(0, room - 1)]
        for line in shown:
            yield from line
            yield Segment.line()
        if len(shown) < len(lines):
            yield Text(f"… {len(lines) - len(shown)} more; a larger terminal, --node or --sort shows others")


def _watch(screen: _Screen, settings: CommonSettings, interval_seconds: float) -> None:
    """Show ``screen`` and renew it until interrupted; the terminal is left as it was found."""
    signal.signal(signal.SIGTERM, _end)
    try:
        with Live(screen, console=data, screen=True, refresh_per_second=_REDRAWS_PER_SECOND) as live:
            while True:
                time.sleep(interval_seconds)
                try:
                    screen.show(_look(settings))
                except CommandError as error:
                    screen.complain(str(error).partition("\n")[0])
                live.refresh()
    except KeyboardInterrupt:
        return  # that is how one leaves it


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # not at once: the terminal is given back on the way


def _look(settings: CommonSettings) -> Activity:
    from shardbus_eventstore.read_model import queries

    with open_read_model(settings) as connection:
        return queries.activity(connection)


def _check(nodes: Sequence[NodeId], activity: Activity) -> None:
    known = [node.node_id for node in activity.nodes]
    for node in nodes:
        if node not in known:
            raise CommandError(f"no node is named {node!r}{suggest(node, known)}; `shardbus top` lists them")


def _only(activity: Activity, nodes: Sequence[NodeId]) -> Activity:
    chosen = tuple(node for node in activity.nodes if not nodes or node.node_id in nodes)
    return activity.model_copy(update={"nodes": chosen})
