"""From when until when, as a person says it."""

from datetime import datetime
from typing import Annotated

import typer
from shardbus_eventstore.moments import MomentError, Place, parse_at
from shardbus_eventstore.past_decisions import Span
from shardbus_infra.bus.streams import FLEET

from shardbus_console.exits import CommandError

Since = Annotated[
    str | None, typer.Option("--since", metavar="AT", help="From there on: FLEET:123, 123, a time, -10m, -2h.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="AT", help="Up to there.")]


def span_of(since: str | None, until: str | None, now: datetime) -> Span:
    """Return the span of ``FLEET`` between two moments; raise CommandError."""
    return Span(
        None if since is None else _moment("--since", since, now),
        None if until is None else _moment("--until", until, now),
    )


def _moment(flag: str, text: str, now: datetime) -> int | datetime:
    try:
        found = parse_at(text, now)
    except MomentError as error:
        raise CommandError(f"{flag}: {error}") from error
    if not isinstance(found, Place):
        return found
    if found.stream != FLEET:
        raise CommandError(f"{flag} {text}: decisions are in FLEET; a place is written FLEET:123, or 123")
    return found.sequence
