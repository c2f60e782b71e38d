"""From what arrived when to what a path carries. Pure.

The receiver's clock alone counts: what a sender hands over may still lie in its buffers. The beginning does not
count either: there TCP is still finding out how fast it may go, and a shaper spends what it has saved up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

Arrivals = Sequence[tuple[float, int]]
"""Seconds and the bytes that had arrived by then, all together, in order."""

_SKIPPED: Final = 0.25
"""The share of a burst's time that does not count."""
_USUAL: Final = 1.5
_POINTS: Final = 64
_GROWING: Final = 1.2
"""How much faster the second half must be than the first for the burst to count as still getting faster."""
_BUSY: Final = 0.8
"""The share of its time that a thread computes from which on the processor, not the path, is the limit."""
_WAITED: Final = 0.15
"""The share of its time that a burst waits for acknowledgements from which on TCP's window is the limit."""
_GAPS: Final = (0.25, 1.5)
"""What of a round trip such a wait takes. A longer gap is a reader that was held up."""
_LONG_SECONDS: Final = 0.005
"""A shorter path of up to 5 Gbit/s holds less than any window: there a gap is an end that was held up."""
_USUAL_GAPS: Final = 3
"""How many times longer than usual it must be."""
WINDOW_BYTES: Final = 2e6
"""With so much under way, TCP's window may be the limit and not the path: systems allow some 3 MB (Linux' tcp_rmem)."""
FASTEST_BYTES_PER_SECOND: Final = 625e6
"""5 Gbit/s: what Python surely keeps up with. What seems faster may be faster still."""
AGREEMENT: Final = 0.2
"""Bursts that differ by more are repeated."""


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Small messages there and back."""

    median_seconds: float
    quarter_seconds: float
    """As fast as this was a quarter of them."""
    least_seconds: float
    count: int

    @property
    def is_settled(self) -> bool:
        """Whether the usual one is near the fastest: else somebody else used the path, or held up an end."""
        return self.median_seconds <= _USUAL * self.least_seconds

    @property
    def latency_seconds(self) -> float:
        """One way, taken as half of a round trip: a clock for each way does not exist.

        Of the fastest quarter: what the others took longer, somebody else's traffic did, or an end that had other
        things to do. The very fastest would promise too much where that is usual, as on Wi-Fi.
        """
        return self.quarter_seconds / 2


@dataclass(frozen=True, slots=True)
class Burst:
    """What one burst came to."""

    bytes_per_second: float
    bytes: int
    seconds: float
    """From the first arrival to the last."""
    unfilled: bool = False
    """Whether it did not fill the path: it was still getting faster when it ended, or waited for acknowledgements."""
    limited: bool = False
    """Whether the path may carry more: an end had no time to wait, or as much was under way as TCP allows."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What one direction of a path carries."""

    bytes_per_second: float
    samples: int
    spread: float
    at_least: bool

    @property
    def is_settled(self) -> bool:
        """Whether the bursts agree, as far as they can where Python is the limit."""
        return self.at_least or self.spread <= AGREEMENT


def round_trips(seconds: Sequence[float]) -> RoundTrips:
    """Return what the times of single round trips come to."""
    return RoundTrips(median(seconds), sorted(seconds)[len(seconds) // 4], min(seconds), len(seconds))


def burst(
    arrivals: Arrivals, *, round_trip_seconds: float = 0, sender_busy: float, receiver_busy: float
) -> Burst | None:
    """Return what a burst came to, or ``None`` if too little arrived to tell.

    ``sender_busy`` and ``receiver_busy`` are the shares of their time that they spent computing.
    """
    if len(arrivals) < 2:  # noqa: PLR2004 - a speed needs two moments
        return None
    (began, first), (ended, total) = arrivals[0], arrivals[-1]
    seconds = ended - began
    if seconds <= 0 or total <= first:
        return None
    start = began + _SKIPPED * seconds
    middle = (start + ended) / 2
    rate = _slope(arrivals, start, ended)
    early, late = _slope(arrivals, start, middle), _slope(arrivals, middle, ended)
    if rate <= 0:
        return None
    unfilled = late > _GROWING * early or _waited(arrivals, start, round_trip_seconds) > _WAITED
    limited = (
        max(sender_busy, receiver_busy) >= _BUSY
        or rate >= FASTEST_BYTES_PER_SECOND
        or rate * round_trip_seconds >= WINDOW_BYTES
    )
    return Burst(rate, total, seconds, unfilled=unfilled, limited=limited)


def carried(bursts: Sequence[Burst]) -> Carried | None:
    """Return what ``bursts`` of one direction come to: the middle one of those that filled the path."""
    if not bursts:
        return None
    steady = [each for each in bursts if not each.unfilled]
    if not steady:
        best = max(bursts, key=lambda each: each.bytes_per_second)
        return Carried(best.bytes_per_second, 1, 0, at_least=True)
    rates = [each.bytes_per_second for each in steady]
    spread = (max(rates) - min(rates)) / max(rates)
    at_least = any(each.limited for each in steady)
    # Of what is "at least", the most is the best word.
    return Carried(max(rates) if at_least else median(rates), len(steady), spread, at_least)


def agree(bursts: Sequence[Burst]) -> bool:
    """Return whether another burst would tell nothing new."""
    steady = [each for each in bursts if not each.unfilled]
    if len(steady) < 2:  # noqa: PLR2004 - one agrees with nobody
        return False
    rates = [each.bytes_per_second for each in steady]
    return (max(rates) - min(rates)) / max(rates) <= AGREEMENT


def _waited(arrivals: Arrivals, start: float, round_trip_seconds: float) -> float:
    """Return the share of the time after ``start`` in which nothing came because nothing was on its way."""
    moments = [moment for moment, _ in arrivals if moment >= start]
    if len(moments) < 2 or round_trip_seconds < _LONG_SECONDS:  # noqa: PLR2004 - a gap has two ends
        return 0
    whole = moments[-1] - moments[0]
    usual = whole / len(moments)
    least, most = (share * round_trip_seconds for share in _GAPS)
    gaps = (later - earlier for earlier, later in pairwise(moments))
    return sum(gap for gap in gaps if max(least, _USUAL_GAPS * usual) < gap < most) / whole if whole > 0 else 0


def _slope(arrivals: Arrivals, start: float, end: float) -> float:
    """Return the least-squares slope of the bytes arrived between ``start`` and ``end``.

    Of points at equal distances in time: so a reader that was held up, and then found much at once, counts no more
    than the time that it was away.
    """
    step = (end - start) / (_POINTS - 1)
    points: list[tuple[float, int]] = []
    index, had = 0, arrivals[0][1]
    for number in range(_POINTS):
        moment = start + number * step
        while index < len(arrivals) and arrivals[index][0] <= moment + step / 1e6:
            had = arrivals[index][1]
            index += 1
        points.append((number * step, had))
    mean_time = sum(time for time, _ in points) / _POINTS
    mean_bytes = sum(count for _, count in points) / _POINTS
    spread = sum((time - mean_time) ** 2 for time, _ in points)
    if spread <= 0:
        return 0
    return sum((time - mean_time) * (count - mean_bytes) for time, count in points) / spread
