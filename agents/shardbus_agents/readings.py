"""What a node tells of its devices' readings, and when. Pure: time is an argument.

Two rhythms: all readings every ``report_seconds``, changed or not, with the mean and the peak of the utilisation since
the last time; in between those of devices that moved significantly. A node that has nothing to tell says so with a
pulse (see ``Agent.pulse``), which is much cheaper than its readings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.change_detection import Thresholds, report_is_due, significant
from shardbus_agents.smoothing import Smoother

CLOCK_JUMP_SECONDS: Final = 30.0
"""More than the calendar's clock can run away from the uptime's between two looks unless it was set or the host slept.
Half of what the projector tolerates of a clock that is ahead."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are looked at and told, and how far they may move in between."""

    sample_interval_seconds: float = 2
    heartbeat_seconds: float = 4
    report_seconds: float = 60
    smoothing_seconds: float = 45
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(frozen=True, slots=True)
class Told:
    """What one tick has to tell."""

    is_full_report: bool
    states: tuple[DeviceGPUState, ...]


@dataclass(slots=True)
class _Period:
    """One device's utilisation since the last full report."""

    samples: int = 0
    total: float = 0
    peak: float = 0

    def add(self, utilization: float | None) -> None:
        if utilization is not None:
            self.samples += 1
            self.total += utilization
            self.peak = max(self.peak, utilization)

    def close(self, state: DeviceGPUState) -> DeviceGPUState:
        """Return ``state`` with the period's figures, and begin the next."""
        if not self.samples:
            return state
        mean = min(self.peak, round(self.total / self.samples, 1))
        figures = {"utilization_mean_percent": mean, "utilization_peak_percent": self.peak}
        self.samples, self.total, self.peak = 0, 0, 0
        return state.model_copy(update=figures)


class Readings:
    """Remembers what was told of each device, and decides what is told next."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._smoother = Smoother(pace.smoothing_seconds)
        self._published: dict[DeviceId, DeviceGPUState] = {}
        self._sampled_at: dict[DeviceId, float] = {}
        self._periods: dict[DeviceId, _Period] = {}
        self._owed: dict[DeviceId, datetime] = {}
        self._reported_at: float | None = None
        self._clock_ahead: float | None = None

    def owe(self, device_id: DeviceId, since: datetime) -> None:
        """Tell the first reading of the device that was taken at ``since`` or later, however little it moved.

        Who hears what a runner takes on a device is to know from when on the device's readings hold it.
        """
        self._owed[device_id] = since

    def forget(self, device_id: DeviceId) -> None:
        """Forget a device that is lost: nobody believes its readings any more."""
        for memory in (self._published, self._sampled_at, self._periods, self._owed):
            memory.pop(device_id, None)
        self._smoother.forget(device_id)

    def take(
        self,
        samples: Sequence[DeviceGPUState],
        devices: Mapping[DeviceId, DeviceFacts],
        at: datetime,
        uptime_seconds: float,
    ) -> Told | None:
        """Return what the tick's ``samples`` of ``devices`` bring to tell, if anything."""
        if self._clock_jumped(at, uptime_seconds):
            # What was told last bears times that are wrong, or was refused for them; and the means are of another day.
            self._smoother.restart()
            self._reported_at = None
        for sample in samples:
            self._sampled_at[sample.device_id] = uptime_seconds
            self._periods.setdefault(sample.device_id, _Period()).add(sample.compute_utilization_percent)
        states = self._smoother.smooth(samples, uptime_seconds)
        paid = {state.device_id for state in states if self._is_owed(state)}
        for device_id in paid:
            del self._owed[device_id]
        if self._report_is_due(uptime_seconds):
            self._reported_at = uptime_seconds
            self._published = {state.device_id: state for state in states}
            return Told(is_full_report=True, states=tuple(self._periods[each.device_id].close(each) for each in states))
        moved = significant(self._published, states, self._pace.thresholds, devices)
        if paid:
            paid.update(state.device_id for state in moved)
            moved = tuple(state for state in states if state.device_id in paid)
        self._published.update((state.device_id, state) for state in moved)
        return Told(is_full_report=False, states=moved) if moved else None

    def _is_owed(self, state: DeviceGPUState) -> bool:
        since = self._owed.get(state.device_id)
        return since is not None and state.last_update >= since

    def _report_is_due(self, uptime_seconds: float) -> bool:
        silent = None if self._reported_at is None else uptime_seconds - self._reported_at
        return report_is_due(
            silent,
            report_seconds=self._pace.report_seconds,
            sample_interval_seconds=self._pace.sample_interval_seconds,
        ) or any(
            # It is there, but no backend has a reading of it any more: a report without it is how that is said.
            uptime_seconds - self._sampled_at[device_id] >= self._pace.heartbeat_seconds
            for device_id in self._published
        )

    def _clock_jumped(self, at: datetime, uptime_seconds: float) -> bool:
        """Return whether the node's clock was set, or the node slept, since the last tick."""
        before, self._clock_ahead = self._clock_ahead, at.timestamp() - uptime_seconds
        return before is not None and abs(self._clock_ahead - before) > CLOCK_JUMP_SECONDS
