"""``shardbus events`` and ``shardbus state``: the streams themselves, read without a read model."""

import asyncio
import contextlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic_core import from_json
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.registry import UnreadableMessageError

from shardbus_console.connection import open_bus, settings_for
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import data, print_json, print_json_line

_SHORT = 160


class Stream(StrEnum):
    """The streams by the names a person types. The command queue is not one: its messages go when they are answered."""

    FLEET = "fleet"
    TELEMETRY = "telemetry"
    DEAD = "dead"


_NAMES = {Stream.FLEET: FLEET, Stream.TELEMETRY: TELEMETRY, Stream.DEAD: DEAD}


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(events)
    app.command()(state)


def events(
    *,
    stream: Annotated[Stream, typer.Option(help="Which stream.")] = Stream.FLEET,
    start: Annotated[int, typer.Option("--from", min=1, help="The first sequence to print.")] = 1,
    subject: Annotated[list[str] | None, typer.Option(help="Only subjects that match; wildcards * and >.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only events of this type.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="Stop after so many.")] = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Print the events of a stream, oldest first.

    With --json a line of JSON each.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)

    async def show() -> None:
        async with open_bus(settings) as bus:
            name = _NAMES[stream]
            last = (await bus.info(name)).last_sequence
            if last < start and not follow:
                return
            shown = 0
            batches = bus.follow(name, start_sequence=start, subjects=subject or (), idle_seconds=0.5)
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    for stored in batch:
                        if stored.sequence > last and not follow:
                            return
                        if _wanted(stored, kind):
                            (_print_json if json else _print_line)(stored)
                            shown += 1
                        if shown == limit or (stored.sequence >= last and not follow):
                            return
                    if not batch and not follow:
                        return  # nothing more that matches

    asyncio.run(show())


def state(*, nats_url: NatsUrl = None, json: Json = False) -> None:
    """Print the fleet as the streams say it is now.

    With --json in the shape of a fleet file: `shardbus state --json > now.json` keeps it for `shardbus plan
    --fleet now.json MODEL`.
    """
    from shardbus_eventstore.fleet_view import fleet_of

    from shardbus_console.commands.fleet import print_devices
    from shardbus_console.known import read_live_state

    current = read_live_state(settings_for(CommonSettings, nats_url=nats_url))
    fleet = fleet_of(current, datetime.now(UTC))
    if json:
        print_json(fleet.model_dump(mode="json", by_alias=True, exclude_defaults=True))
        return
    print_devices(fleet)
    placed = [instance for instance in current.instances.values() if instance.status == "placed"]
    data.print(
        f"as of TELEMETRY {fleet.telemetry_sequence}, FLEET {fleet.fleet_sequence}: {len(fleet.nodes)} nodes, "
        f"{sum(1 for _ in fleet.devices())} devices, {len(fleet.links)} links, {len(placed)} instances placed"
    )


def _wanted(stored: Stored, kinds: list[str] | None) -> bool:
    return not kinds or _type(stored) in kinds


def _type(stored: Stored) -> str:
    try:
        return receive(stored).envelope.type
    except UnreadableMessageError:
        return "?"


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
    text = stored.payload.decode(errors="backslashreplace")
    short = text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
    line = f"{stored.sequence:>8} {stored.recorded_at:%H:%M:%S.%f}"[:-3] + f" {_type(stored):<24} {short}"
    data.print(line, markup=False, no_wrap=True, crop=False, overflow="ignore")
