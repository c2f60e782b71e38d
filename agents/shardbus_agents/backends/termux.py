"""The battery of an Android phone, by the Termux:API app: the one thing there that may be asked without root."""

import json
from dataclasses import dataclass
from typing import Any, Final, cast

COMMAND: Final = ("termux-battery-status",)
EVERY_SECONDS: Final = 30.0
"""The app starts a process of Java's for each answer; a battery moves slower than this."""
DEADLINE_SECONDS: Final = 10.0
"""Without the app the command waits for ever."""


@dataclass(frozen=True, slots=True)
class PhoneBattery:
    """What the phone says; ``None`` is what it does not say."""

    percent: float | None
    is_plugged_in: bool | None
    temperature_c: float | None


def parse_battery(text: str) -> PhoneBattery | None:
    """Return what ``termux-battery-status`` printed, or ``None`` if that was no answer."""
    try:
        document: object = json.loads(text)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    said = cast("dict[str, Any]", document)
    plugged = said.get("plugged")
    battery = PhoneBattery(
        percent=_number(said.get("percentage")),
        is_plugged_in=plugged != "UNPLUGGED" if isinstance(plugged, str) else None,
        temperature_c=_number(said.get("temperature")),
    )
    return None if battery == PhoneBattery(None, None, None) else battery


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
