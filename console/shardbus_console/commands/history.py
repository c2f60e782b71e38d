"""``shardbus events``: the streams themselves, read without a read model."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic_core import from_json
from shardbus_eventstore.selection import Selection
from shardbus_eventstore.wording import named_summary
from shardbus_infra.bus.port import Log, Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.registry import UnreadableMessageError

from shardbus_console.at import position_named
from shardbus_console.connection import settings_for
from shardbus_console.exits import CommandError
from shardbus_console.log_source import ArchiveFolder, open_log
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import data, print_json_line

_SHORT = 160
_IDLE_SECONDS = 0.5


class Stream(StrEnum):
    """The streams by the names a person types. The command queue is not one: its messages go when they are answered."""

    FLEET = "fleet"
    TELEMETRY = "telemetry"
    DEAD = "dead"


_NAMES = {Stream.FLEET: FLEET, Stream.TELEMETRY: TELEMETRY, Stream.DEAD: DEAD}


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(events)


def events(
    *,
    stream: Annotated[Stream, typer.Option(help="Which stream.")] = Stream.FLEET,
    start: Annotated[int, typer.Option("--from", min=1, help="The first sequence to print.")] = 1,
    end: Annotated[int | None, typer.Option("--to", min=1, help="The last sequence to print.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AT", help="Only what came after: -10m, a time, FLEET:123.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="AT", help="Only what came up to then.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="Only subjects that match; wildcards * and >.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only events of this type.")] = None,
    node: Annotated[str | None, typer.Option(help="Only what is about this node, and what is placed there.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NODE/DEVICE", help="Only what is about this device.")] = None,
    instance: Annotated[str | None, typer.Option(help="Only what is about this instance.")] = None,
    deployment: Annotated[
        str | None, typer.Option(help="Only the scalings of this deployment, and its replicas.")
    ] = None,
    correlation: Annotated[str | None, typer.Option(metavar="ID", help="Only what this command led to.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="Stop after so many.")] = None,
    archive: ArchiveFolder = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Print the events of a stream, oldest first.

    Each in a line for people, or with --json whole, as a line of JSON. A moment (AT) is a place in a stream
    (`FLEET:123`, `TELEMETRY:456`, or `123`, which means FLEET), a time (`2026-11-26T09:30:00Z`; without an offset it is
    UTC), or how long ago (`-10m`, `-2h`).
    """
    if follow and (end is not None or until is not None):
        raise CommandError("--follow goes on for ever; it has no --to and no --until")
    if follow and archive is not None:
        raise CommandError("--follow goes on with what comes, and nothing comes to an archive")
    name = _NAMES[stream]
    selection = Selection(name, kind or (), node, _device(device), instance, deployment, correlation)
    wanted = selection.subjects()
    if wanted is None:
        raise CommandError(f"nothing in {name} can be about all of that")
    show = _print_json if json else _print_line

    async def run() -> None:
        async with open_log(settings_for(CommonSettings, nats_url=nats_url), archive) as log:
            first, last = start, (await log.info(name)).last_sequence
            if since is not None:
                first = max(first, await position_named(log, name, since) + 1)
            if until is not None:
                last = min(last, await position_named(log, name, until))
            last = last if end is None else min(last, end)
            patterns = subject or wanted
            shown = 0
            async with contextlib.aclosing(_messages(log, name, first, None if follow else last, patterns)) as messages:
                async for stored in messages:
                    if selection.wants(stored):
                        show(stored)
                        shown += 1
                        if shown == limit:
                            return

    asyncio.run(run())


def _device(text: str | None) -> DeviceKey | None:
    if text is None:
        return None
    node, slash, device = text.partition("/")
    if not (node and slash and device) or "/" in device:
        raise CommandError(f"{text!r} is no device; one is written NODE/DEVICE, as `shardbus devices` lists them")
    return DeviceKey.of(node, device)


async def _messages(
    log: Log, stream: str, first: int, last: int | None, patterns: Sequence[str]
) -> AsyncGenerator[Stored]:
    """Yield what is on subjects ``patterns`` from ``first`` to ``last``, or for ever."""
    if last is not None:
        # The newest that matches may be far from the end: whoever waited for the end would wait in vain.
        newest = [await log.last(stream, pattern) for pattern in patterns or (">",)]
        there = max((stored.sequence for stored in newest if stored is not None), default=0)
        last = min(last, there)
        if last < first:
            return
    batches = log.follow(stream, start_sequence=first, subjects=patterns, idle_seconds=_IDLE_SECONDS)
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for stored in batch:
                if last is not None and stored.sequence > last:
                    return
                yield stored
                if stored.sequence == last:
                    return
            if not batch and last is not None:
                return  # what matched last expired meanwhile


def _print_json(stored: Stored) -> None:
    try:
        payload: Any = from_json(stored.payload)
    except ValueError:
        payload = stored.payload.decode(errors="backslashreplace")
    print_json_line(
        {
            "stream": stored.stream,
            "sequence": stored.sequence,
            "subject": stored.subject,
            "recorded_at": stored.recorded_at.isoformat(),
            "headers": dict(stored.headers),
            "data": payload,
        }
    )


def _print_line(stored: Stored) -> None:
    try:
        received = receive(stored)
        kind, said = received.envelope.type, named_summary(received.message)
    except UnreadableMessageError:
        kind, text = "?", stored.payload.decode(errors="backslashreplace")
        said = text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
    line = f"{stored.sequence:>8} {stored.recorded_at:%H:%M:%S.%f}"[:-3] + f" {kind:<24} {said}"
    data.print(line, markup=False, no_wrap=True, crop=False, overflow="ignore")
