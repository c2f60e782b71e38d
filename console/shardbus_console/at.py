"""The moments that a person names on the command line."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from shardbus_eventstore.moments import Moment, MomentError, Place, parse_at
from shardbus_eventstore.time_travel import position_at, resolve
from shardbus_infra.bus.port import Log
from shardbus_infra.bus.streams import FLEET, TELEMETRY

from shardbus_console.exits import CommandError
from shardbus_console.output import Progress

At = Annotated[
    str | None,
    typer.Option("--at", metavar="AT", help="As of a moment: FLEET:123, TELEMETRY:456, 123, a time, -10m, -2h."),
]


async def moment_named(reading: Log, text: str) -> Moment:
    """Return the moment that ``text`` names; raise CommandError if there is none, and BusError."""
    now = datetime.now(UTC)
    try:
        return await resolve(reading, parse_at(text, now), now)
    except MomentError as error:
        raise CommandError(str(error)) from error


async def position_named(reading: Log, stream: str, text: str) -> int:
    """Return how far ``stream`` was at the moment that ``text`` names; what it has forgotten was before anything."""
    moment = await moment_named(reading, text)
    if stream in (FLEET, TELEMETRY):
        return moment.position(stream) or 0
    return await position_at(reading, stream, moment.time) or 0


def time_named(text: str) -> datetime:
    """Return the time that ``text`` names; raise CommandError if it is none, or a place in a stream."""
    try:
        found = parse_at(text, datetime.now(UTC))
    except MomentError as error:
        raise CommandError(str(error)) from error
    if isinstance(found, Place):
        raise CommandError(f"{text!r} is a place in a stream; here it is to be a time, or how long ago: 30m, 2h, 7d")
    return found


@asynccontextmanager
async def folding() -> AsyncGenerator[Progress]:
    """Say how far the folding is, if it takes long."""
    progress = Progress("events")
    try:
        yield progress
    finally:
        progress.end()
