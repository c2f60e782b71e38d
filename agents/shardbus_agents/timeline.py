"""When a scenario's steps act: pure, with the scenario's time as an argument.

Time is in seconds of the scenario from its beginning. Of a step that repeats only its latest beginning counts: it is
over before it begins again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.scenario import AnyStep, LeaveStep, LinkStep, LoadStep, NodeStep, ThrottleStep

StepT = TypeVar("StepT", bound=AnyStep)


@dataclass(frozen=True, slots=True)
class Occurrence(Generic[StepT]):
    """One time that a step happens."""

    step: StepT
    start: float

    @property
    def end(self) -> float:
        """When it ends, infinity where it does not."""
        return self.start + self.step.lasts_seconds

    def is_active(self, t: float) -> bool:
        """Return whether it acts at ``t``."""
        return self.start <= t < self.end


def started(steps: Sequence[StepT], t: float) -> list[Occurrence[StepT]]:
    """Return the latest beginning, at ``t`` or before, of each of ``steps``, in the order in which they act."""
    if not steps:  # nearly always, and asked of thousands of devices
        return []
    found = [Occurrence(step, step.at + _count(step, t) * (step.repeat_every or 0)) for step in steps if step.at <= t]
    found.sort(key=lambda occurrence: occurrence.start)  # stable: of equals the later in the file comes later
    return found


def active(steps: Sequence[StepT], t: float) -> list[Occurrence[StepT]]:
    """Return those that act at ``t``, in the order in which they act."""
    if not steps:
        return []
    return [occurrence for occurrence in started(steps, t) if occurrence.is_active(t)]


def beginnings(steps: Sequence[StepT], after: float, until: float) -> list[Occurrence[StepT]]:
    """Return what begins after ``after`` and not after ``until``, in order."""
    found: list[Occurrence[StepT]] = []
    for step in steps:
        start = next_start(step, after)
        while start is not None and start <= until:
            found.append(Occurrence(step, start))
            start = next_start(step, start)
    found.sort(key=lambda occurrence: occurrence.start)
    return found


def next_start(step: AnyStep, t: float) -> float | None:
    """Return when ``step`` begins next after ``t``; ``None``: never again."""
    if step.at > t:
        return step.at
    return None if step.repeat_every is None else step.at + (_count(step, t) + 1) * step.repeat_every


def next_change(steps: Sequence[AnyStep], t: float) -> float:
    """Return when a step begins or ends next after ``t``, infinity where none does."""
    starts = [start for step in steps if (start := next_start(step, t)) is not None]
    ends = [occurrence.end for occurrence in started(steps, t) if occurrence.end > t]
    return min((*starts, *ends), default=math.inf)


def weight(occurrence: "Occurrence[LoadStep] | Occurrence[ThrottleStep]", t: float) -> float:
    """Return how much of it there is at ``t``, 0 to 1: it comes and goes over a while."""
    over = occurrence.step.over
    if t >= occurrence.end:
        rest = 0.0 if over == 0 else 1 - (t - occurrence.end) / over
        return max(0.0, rest) * progress(occurrence, occurrence.end)
    return progress(occurrence, t)


def progress(occurrence: "Occurrence[LoadStep] | Occurrence[ThrottleStep]", t: float) -> float:
    """Return how far it has come until ``t``, 0 to 1, as if it never ended."""
    over = occurrence.step.over
    return 1.0 if over == 0 else min(1.0, (t - occurrence.start) / over)


@dataclass(frozen=True, slots=True)
class Life:
    """A time in which a node is there."""

    start: float
    end: float
    says_goodbye: bool
    """Whether it leaves at its end; otherwise it is gone without a word."""


def lives(steps: Sequence[NodeStep]) -> Iterator[Life]:
    """Yield the times in which a node is there, in order: all but those in which a step keeps it away."""
    here = 0.0
    while not math.isinf(here):
        away = _next_absence(steps, here)
        if away is None:
            yield Life(here, math.inf, says_goodbye=False)
            return
        if away.start > here:
            yield Life(here, away.start, says_goodbye=isinstance(away.step, LeaveStep))
        here = max(here, away.end)


def link_at(base: LinkFigures, steps: Sequence[LinkStep], t: float) -> LinkFigures:
    """Return what a link carries at ``t``: what the file says, changed by each step in turn."""
    bandwidth, latency = base.bandwidth_bytes_per_second, base.latency_seconds
    for occurrence in active(steps, t):
        step = occurrence.step
        bandwidth = step.bandwidth_bytes_per_second or bandwidth * (step.bandwidth_factor or 1)
        latency = latency * (step.latency_factor or 1) if step.latency_seconds is None else step.latency_seconds
    return LinkFigures(bandwidth_bytes_per_second=bandwidth, latency_seconds=latency)


def _next_absence(steps: Sequence[NodeStep], t: float) -> Occurrence[NodeStep] | None:
    """Return what keeps a node away at ``t``, or the next that will."""
    now = [occurrence for occurrence in active(steps, t) if occurrence.end > t]
    if now:
        return max(now, key=lambda occurrence: occurrence.end)
    coming = [Occurrence(step, start) for step in steps if (start := next_start(step, t)) is not None]
    return min(coming, key=lambda occurrence: occurrence.start, default=None)


def _count(step: AnyStep, t: float) -> int:
    """Return how often ``step`` has begun again until ``t``, which is not before it."""
    if step.repeat_every is None:
        return 0
    count = math.floor((t - step.at) / step.repeat_every)
    # Where dividing and multiplying do not quite agree, multiplying decides.
    if step.at + count * step.repeat_every > t:
        return count - 1
    return count + 1 if step.at + (count + 1) * step.repeat_every <= t else count
