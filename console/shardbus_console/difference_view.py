"""What is different between two moments, as rows for people."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from shardbus_eventstore.differences import Difference
from shardbus_schemas.units import bytes_text, rate_text, seconds_text

_LONGEST: Final = 60

_UNITS: Final[Mapping[str, str]] = {
    "_percent": "{:.0f} %",
    "_temperature_c": "{:.0f} °C",
    "_threshold_c": "{:.0f} °C",
    "_watts": "{:.0f} W",
}
"""How a figure is written whose name ends so."""


_WHOLE: Final = frozenset(
    {"moved", "placed", "deleted", "pending", "still pending", "lost", "failed", "drained", "cordoned"}
)
"""Changes whose text is told whole: where something is, or why."""


def difference_rows(found: Sequence[Difference]) -> list[dict[str, object]]:
    """Return a row for each difference."""
    return [
        {
            "what": one.kind,
            "name": one.name,
            "change": one.change.replace("_bytes_per_second", "").removesuffix("_bytes").replace("_", " "),
            "before": value_text(one.change, one.before),
            "after": value_text("bandwidth_bytes_per_second" if one.change == "measured" else one.change, one.after),
        }
        for one in found
    ]


def value_text(name: str, value: Any) -> str:
    """Return a value as a person reads it; ``name`` says its unit."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name.endswith("_bytes_per_second"):
            return rate_text(value)
        if name.endswith("_bytes"):
            return bytes_text(value)
        if name.endswith("_seconds"):
            return seconds_text(value)
        for ending, pattern in _UNITS.items():
            if name.endswith(ending):
                return pattern.format(value)
    if isinstance(value, list):
        value = ", ".join(map(str, cast("list[object]", value))) or "none"
    text = str(value)
    return text if len(text) <= _LONGEST or name in _WHOLE else text[: _LONGEST - 1] + "…"
