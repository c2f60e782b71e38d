"""What an access token grants, as flags say it and as a person reads it."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast, get_args

from shardbus_schemas.access import Grant, Operation
from shardbus_schemas.problems import suggest
from shardbus_schemas.units import bytes_text

from shardbus_console.exits import CommandError

OPERATIONS: Final[tuple[Operation, ...]] = get_args(Operation)
_DURATION: Final = re.compile(r"(?P<count>[0-9]{1,6})(?P<unit>[mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def grant_lines(granted: Grant) -> dict[str, str]:
    """Return what a grant says, for a person."""
    return {
        "subject": granted.subject,
        "signed by": granted.issuer or "?",
        "may": ", ".join(granted.operations) or "nothing",
        "devices": "all" if granted.devices is None else ", ".join(granted.devices) or "none",
        "memory": "no limit" if granted.memory_bytes is None else bytes_text(granted.memory_bytes),
        "priority": f"up to {granted.max_priority}",
        **({"from": f"{granted.not_before:%Y-%m-%d %H:%M:%S} UTC"} if granted.not_before else {}),
        "until": f"{granted.expires_at:%Y-%m-%d %H:%M:%S} UTC",
        "token id": granted.token_id or "none",
    }


def words_of(given: Sequence[str]) -> list[str]:
    """Return the words of flags that may be repeated and may hold several, separated by commas."""
    return [word for text in given for part in text.split(",") if (word := part.strip())]


def operations_of(given: Sequence[str] | None) -> tuple[Operation, ...]:
    """Return what ``--may`` names; raises CommandError."""
    if given is None:
        return Grant(subject="whoever").operations
    words = words_of(given)
    if words == ["all"]:
        return OPERATIONS
    for word in words:
        if word not in OPERATIONS:
            raise CommandError(f"--may {word}: write {', '.join(OPERATIONS)}, or all{suggest(word, OPERATIONS)}")
    return cast("tuple[Operation, ...]", tuple(dict.fromkeys(words)))


def end_of(text: str, now: datetime) -> datetime:
    """Return the time that ``--until`` names, which is after ``now``; raises CommandError."""
    try:
        if duration := _DURATION.fullmatch(text.strip()):
            end = now + timedelta(**{_UNITS[duration["unit"]]: int(duration["count"])})
        else:
            end = datetime.fromisoformat(text.strip())
            end = end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise CommandError(
            f"--until {text}: write how long (12h, 7d, 2w) or a time such as 2027-01-31T12:00:00Z"
        ) from error
    if end <= now:
        raise CommandError(f"--until {text}: that is over; it is {now:%Y-%m-%dT%H:%M:%SZ} now")
    return end
