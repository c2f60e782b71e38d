"""Figures as a person reads and writes them. Values on the bus stay in bytes and seconds; their names say so."""

import math
import re
from collections.abc import Mapping
from typing import Final

_STEP = 1024
_WHOLE_FROM = 99.95
_ONE = 0.9995
"""What is shown as 1 when three figures are shown."""
_TENTHS_FROM = ("MiB", "GiB", "TiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_LARGE: Final = ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s"))


def bytes_text(count: float | None, *, round_up: bool = False) -> str:
    """Return a byte count such as ``74.1 GiB``; ``round_up`` for what somebody has to provide. Unknown is ``?``."""
    if count is None:
        return "?"
    size, unit = float(count), "B"
    for larger in ("KiB", *_TENTHS_FROM):
        if abs(size) < _STEP:
            break
        size, unit = size / _STEP, larger
    tenths = 10 if unit in _TENTHS_FROM else 1
    shown = math.ceil(size * tenths) / tenths if round_up else size
    return f"{shown:.1f} {unit}" if tenths > 1 else f"{shown:.0f} {unit}"


def seconds_text(seconds: float | None) -> str:
    """Return a duration such as ``2.1 ms``. Unknown is ``?``."""
    if seconds is None:
        return "?"
    if seconds == 0:
        return "0"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= _ONE:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def duration_text(seconds: float) -> str:
    """Return how long something lasted, in its two largest units: ``310 ms``, ``18 min 40 s``, ``2 d 3 h``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return seconds_text(max(0.0, seconds))
    for large, name, small, small_name in _LARGE:
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError("a minute is the smallest of them")


def rate_text(per_second: float | None) -> str:
    """Return a bandwidth such as ``1.01 TB/s``. Unknown is ``?``."""
    if per_second is None:
        return "?"
    for factor, unit in ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")):
        if per_second >= factor:
            return f"{per_second / factor:.3g} {unit}"
    return f"{per_second / 1e3:.3g} kB/s"


def tokens_text(per_second: float | None) -> str:
    """Return a token rate with tenths, or whole where tenths say nothing: ``5.8``, ``1085``. Unknown is ``?``."""
    if per_second is None:
        return "?"
    if 0 < per_second < 1:
        return f"{per_second:.2g}"
    return f"{per_second:.1f}" if per_second < _WHOLE_FROM else f"{per_second:.0f}"


_PREFIXES: Final = {
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_RATES: Final[Mapping[str, float]] = {
    **{f"{prefix}B/s": factor for prefix, factor in _PREFIXES.items()},
    **{
        f"{prefix}{bits}": factor / 8
        for prefix, factor in _PREFIXES.items()
        if not prefix.endswith("i")
        for bits in ("b/s", "bit/s", "bps")
    },
}
"""What a unit of bandwidth is in bytes per second. ``B`` is bytes and ``b`` is bits, so case matters."""
_SIZES: Final[Mapping[str, float]] = {f"{prefix}B": factor for prefix, factor in _PREFIXES.items()}
_DURATIONS: Final[Mapping[str, float]] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_FIGURE: Final = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(\S*)\s*")


def rate_of(text: str) -> float:
    """Return bytes per second of a bandwidth such as ``1.25GB/s`` or ``10Gb/s``; raise ValueError."""
    rate = _figure(text, _RATES, "a bandwidth such as 1.25GB/s (bytes) or 10Gb/s (bits)")
    if rate <= 0:
        raise ValueError(f"{text!r}: a bandwidth is more than 0; a link that carries nothing is no link")
    return rate


def bytes_of(text: str) -> int:
    """Return the bytes of an amount of memory such as ``48GiB`` or ``500MB``; raise ValueError."""
    return 0 if text.strip() == "0" else round(_figure(text, _SIZES, "an amount of memory such as 48GiB or 500MB"))


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as ``0.3ms`` or ``50us``; raise ValueError."""
    return 0.0 if text.strip() == "0" else _figure(text, _DURATIONS, "a duration such as 0.3ms, 50us or 0")


def _figure(text: str, units: Mapping[str, float], wanted: str) -> float:
    found = _FIGURE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r}: write {wanted}")
    number, unit = found.groups()
    if unit not in units:
        near = [known for known in units if known.lower() == unit.lower()]
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        missing = f"the unit {unit!r} is not known" if unit else "the unit is missing"
        raise ValueError(f"{text!r}: {missing}{hint}; write {wanted}")
    value = float(number) * units[unit]
    if not math.isfinite(value):
        raise ValueError(f"{text!r}: too large")
    return value
