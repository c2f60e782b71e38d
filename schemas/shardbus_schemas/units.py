"""Figures as a person reads them. Values on the bus stay in bytes and seconds; their names say so."""

import math

_STEP = 1024
_TENTHS_FROM = ("MiB", "GiB", "TiB")


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
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def rate_text(per_second: float | None) -> str:
    """Return a bandwidth such as ``1.01 TB/s``. Unknown is ``?``."""
    if per_second is None:
        return "?"
    for factor, unit in ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")):
        if per_second >= factor:
            return f"{per_second / factor:.3g} {unit}"
    return f"{per_second / 1e3:.3g} kB/s"
