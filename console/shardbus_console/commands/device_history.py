"""``shardbus history``: what a device was like."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.units import bytes_text

from shardbus_console.at import time_named
from shardbus_console.connection import open_read_model, settings_for
from shardbus_console.exits import CommandError
from shardbus_console.options import Json, PostgresUrl
from shardbus_console.output import print_json, print_table, say

if TYPE_CHECKING:
    from shardbus_eventstore.read_model.queries import FigureView, HistoryView


class Every(StrEnum):
    """How finely a person wants to look."""

    RAW = "raw"
    MINUTE = "minute"
    HOUR = "hour"


_SINCE = {Every.RAW: "10m", Every.MINUTE: "1h", Every.HOUR: "2d"}
_RIGHT = frozenset({"readings", "busy %", "°C", "watts", "memory"})


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(history)


def history(
    device: Annotated[str, typer.Argument(metavar="NODE/DEVICE", help="As `shardbus devices` lists it.")],
    *,
    since: Annotated[
        str | None,
        typer.Option(help="30m, 2h, 7d ago, or a time. [default: 10m of readings, 1h of minutes, 2d of hours]"),
    ] = None,
    every: Annotated[Every, typer.Option(help="A row for each of these.")] = Every.MINUTE,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """Show how busy, how hot, how full a device was.

    By minute or hour: the mean, weighted by how long each value held, and in brackets the least and the most. A
    minute or hour shows once it is over. How long each is kept is up to the projector's settings.
    """
    from shardbus_eventstore.read_model import queries

    if not (device.count("/") == 1 and all(device.split("/"))):
        raise CommandError(f"{device!r} names no device; one is NODE/DEVICE, as `shardbus devices` lists them")
    key, begin = DeviceKey(device), time_named(since or _SINCE[every])
    with open_read_model(settings_for(CommonSettings, postgres_url=postgres_url)) as connection:
        if not queries.has_device(connection, key):
            raise CommandError(f"no device {device!r} was ever heard of; `shardbus devices` lists those that were")
        found = queries.history(connection, key, every.value, begin)
    if json:
        print_json(found)
        return
    print_table(None, [history_row(each, every) for each in found], right=_RIGHT)
    if not found:
        say(f"nothing is kept of {device} since {begin:%Y-%m-%d %H:%M:%S} UTC, by {every.value}")


def history_row(view: "HistoryView", every: Every) -> dict[str, object]:
    """Return a reading, minute or hour as a row of the table."""
    figures = view.figures
    at = f"{view.at:%Y-%m-%d %H:%M:%S}" if every is Every.RAW else f"{view.at:%Y-%m-%d %H:%M}"
    return {
        "UTC": at,
        **({} if every is Every.RAW else {"readings": view.samples}),
        "busy %": _spread(figures["utilization_percent"]),
        "°C": _spread(figures["temperature_c"]),
        "watts": _spread(figures["power_watts"]),
        "memory": _memory(figures["memory_used_bytes"]),
    }


def _spread(figure: "FigureView") -> str:
    if figure.mean is None or figure.least is None or figure.most is None:
        return "?"
    if figure.least == figure.most:
        return f"{figure.mean:.0f}"
    return f"{figure.mean:.0f} ({figure.least:.0f}-{figure.most:.0f})"


def _memory(figure: "FigureView") -> str:
    if figure.least == figure.most:
        return bytes_text(figure.mean)
    return f"{bytes_text(figure.mean)} ({bytes_text(figure.least)} - {bytes_text(figure.most)})"
