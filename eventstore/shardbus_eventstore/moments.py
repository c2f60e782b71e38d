"""Moments of the past by the names that people give them. Pure.

A moment is a place in a stream (``FLEET:123``, ``TELEMETRY:456``, or ``123``, which means ``FLEET``) or a time: RFC
3339 (``2026-11-26T09:30:00Z``; without an offset it is UTC), ``now``, or how long ago
(``10m`` or ``-10m``; s, m, h, d).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from shardbus_infra.bus.streams import FLEET, TELEMETRY

_PLACE: Final = re.compile(r"(?:(?P<stream>[A-Za-z]+):)?(?P<sequence>[0-9]{1,18})")
_AGO: Final = re.compile(r"-?(?P<count>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>[smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class MomentError(ValueError):
    """No such moment; the text says what there is instead."""


@dataclass(frozen=True, slots=True)
class Place:
    """Right after one message of a stream."""

    stream: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.stream}:{self.sequence}"


@dataclass(frozen=True, slots=True)
class Moment:
    """A time, and how far the streams were then: the pair that names a state exactly."""

    time: datetime
    fleet: int
    telemetry: int | None
    """``None``: ``TELEMETRY`` no longer holds anything from then, so that nobody can tell."""

    def position(self, stream: str) -> int | None:
        """Return how far one of the two streams was."""
        return self.telemetry if stream == TELEMETRY else self.fleet

    def __str__(self) -> str:
        telemetry = "?" if self.telemetry is None else self.telemetry
        return f"{self.time:%Y-%m-%d %H:%M:%S} UTC, TELEMETRY {telemetry}, FLEET {self.fleet}"


def parse_at(text: str, now: datetime) -> Place | datetime:
    """Return the moment that ``text`` names, as a place or as a time; raise MomentError, with what may be said."""
    text = text.strip()
    if place := _PLACE.fullmatch(text):
        stream = (place["stream"] or FLEET).upper()
        if stream not in (FLEET, TELEMETRY):
            raise MomentError(f"{text!r}: the state is folded from FLEET and TELEMETRY, not from {stream}")
        return Place(stream, int(place["sequence"]))
    if text == "now":
        return now
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago["unit"]]: float(ago["count"])})
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MomentError(
            f"{text!r} is no moment; one is FLEET:123, TELEMETRY:456, 123 (of FLEET), 2026-11-26T09:30:00Z, "
            "-10m, -2h or now"
        ) from error
    if time > now:
        raise MomentError(f"{text!r} is in the future; it is {now:%Y-%m-%dT%H:%M:%SZ} now")
    return time
