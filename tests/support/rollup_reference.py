"""The roll-up of past readings, said plainly: what each device was like in each bucket, from its readings alone."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from shardbus_eventstore.rollups import HELD


class Read(NamedTuple):
    """A reading: when it came, and its figures."""

    at: datetime
    figures: Mapping[str, float | None]


class Figure(NamedTuple):
    """One figure of a bucket."""

    least: float | None
    mean: float | None
    most: float | None
    seconds: float


class Bucket(NamedTuple):
    """A device's bucket."""

    samples: int
    figures: Mapping[str, Figure]


def rolled_up(readings: Sequence[Read], begin: datetime, end: datetime, width: timedelta) -> dict[datetime, Bucket]:
    """Return one device's buckets from ``begin`` to ``end`` in which it was known; ``readings`` in order of time."""
    readings = [reading for reading in readings if reading.at < end]
    ends = [min(second.at, first.at + HELD) for first, second in pairwise(readings)]
    ends += [min(readings[-1].at + HELD, end)] if readings else []
    buckets: dict[datetime, Bucket] = {}
    while begin < end:
        after = begin + width
        spans = [
            ((min(until, after) - max(reading.at, begin)).total_seconds(), reading)
            for reading, until in zip(readings, ends, strict=True)
            if begin <= reading.at < after or (reading.at < begin < until)
        ]
        if spans:
            names = spans[0][1].figures
            buckets[begin] = Bucket(
                sum(begin <= reading.at for _, reading in spans),
                {name: _figure([(s, v) for s, r in spans if (v := r.figures[name]) is not None]) for name in names},
            )
        begin = after
    return buckets


def _figure(spans: Sequence[tuple[float, float]]) -> Figure:
    if not spans:
        return Figure(None, None, None, 0)
    values = [value for _, value in spans]
    seconds = sum(each for each, _ in spans)
    mean = sum(each * value for each, value in spans) / seconds if seconds else sum(values) / len(values)
    return Figure(min(values), mean, max(values), seconds)
