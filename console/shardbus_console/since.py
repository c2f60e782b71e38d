"""A moment in the past as a person says it: how long ago, or when."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from shardbus_console.exits import CommandError

_AGO: Final = re.compile(r"-?(?P<count>[0-9]{1,6}(?:\.[0-9]{1,3})?)(?P<unit>[smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment_since(words: str, now: datetime) -> datetime:
    """Return the moment that ``words`` name (``2h``, ``7d``, ``2026-11-26T09:30:00Z``); raise CommandError.

    A time without an offset is UTC.
    """
    if ago := _AGO.fullmatch(words.strip()):
        return now - timedelta(**{_UNITS[ago["unit"]]: float(ago["count"])})
    try:
        moment = datetime.fromisoformat(words.strip())
    except ValueError as error:
        raise CommandError(f"--since {words!r} is no moment; write 30m, 2h, 7d or 2026-11-26T09:30:00Z") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
