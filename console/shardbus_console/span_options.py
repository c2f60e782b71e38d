"""From when until when, as a person says it."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from shardbus_eventstore.past_decisions import Span

from shardbus_console.exits import CommandError

Since = Annotated[
    str | None, typer.Option("--since", metavar="AT", help="From there on: FLEET:123, 123, a time, -10m, -2h.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="AT", help="Up to there.")]

_PLACE: Final = re.compile(r"(?:FLEET:)?([0-9]{1,18})", re.IGNORECASE)
_AGO: Final = re.compile(r"-([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span_of(since: str | None, until: str | None, now: datetime) -> Span:
    """Return the span of ``FLEET`` between two moments; raise CommandError."""
    return Span(
        None if since is None else _moment("--since", since, now),
        None if until is None else _moment("--until", until, now),
    )


def _moment(flag: str, text: str, now: datetime) -> int | datetime:
    text = text.strip()
    if place := _PLACE.fullmatch(text):
        return int(place[1])
    if text == "now":
        return now
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise CommandError(
            f"{flag} {text}: no moment; one is FLEET:123, 123 (of FLEET), 2026-11-26T09:30:00Z, -10m, -2h or now"
        ) from error
