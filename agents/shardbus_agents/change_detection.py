"""Which readings are worth telling: those that moved significantly since they were last *published*.

Comparing with the last published value, never with the last sample, is what bounds the error of everybody who
reads the bus: whatever they believe of a living device is within these thresholds of its last sample.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import Field
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState

_EXACT: Final = (
    "memory_total_bytes",
    "thermal_throttle_threshold_c",
    "is_thermal_throttling",
    "health",
    "is_plugged_in",
)
"""Told at any change."""


class Thresholds(FrozenModel):
    """How far a reading may move before it is told. All 0 tells every change.

    Memory and power have two, and the larger counts: a share of what the device has, and a floor below which nobody
    plans. Where the total or the limit is unknown the floor is all there is.
    """

    memory_percent: float = Field(default=1, ge=0, le=100)
    """Of the device's total."""
    memory_bytes: int = Field(default=256 * 2**20, ge=0)
    utilization_points: float = Field(default=10, ge=0, le=100)
    temperature_c: float = Field(default=3, ge=0)
    power_percent: float = Field(default=10, ge=0, le=100)
    """Of the device's power limit."""
    power_watts: float = Field(default=10, ge=0)
    battery_points: float = Field(default=5, ge=0, le=100)

    def memory_step(self, total_bytes: int | None) -> float:
        """Return the change of memory in bytes that is worth telling on a device with so much of it."""
        return max((total_bytes or 0) * self.memory_percent / 100, self.memory_bytes)

    @property
    def error_bounds(self) -> dict[str, float]:
        """The thresholds as ``NodeJoined.error_bounds`` declares them."""
        return {
            "memory_used_percent": self.memory_percent,
            "memory_used_bytes": self.memory_bytes,
            "compute_utilization_percent": self.utilization_points,
            "thermal_temperature_c": self.temperature_c,
            "power_limit_percent": self.power_percent,
            "power_watts": self.power_watts,
            "battery_percent": self.battery_points,
        }


def significant(
    published: Mapping[DeviceId, DeviceGPUState],
    current: Iterable[DeviceGPUState],
    thresholds: Thresholds,
    devices: Mapping[DeviceId, DeviceFacts],
) -> tuple[DeviceGPUState, ...]:
    """Return the states of ``current`` that differ enough from what was last published of their device.

    ``devices`` says what each is: its power limit counts.
    """
    return tuple(
        state
        for state in current
        if (last := published.get(state.device_id)) is None
        or has_changed(last, state, thresholds, power_limit_watts=devices[state.device_id].power_limit_watts)
    )


def has_changed(
    last: DeviceGPUState, now: DeviceGPUState, thresholds: Thresholds, *, power_limit_watts: float | None = None
) -> bool:
    """Return whether a field reached its threshold, a flag flipped, or unknown became known or the reverse."""
    memory = thresholds.memory_step(now.memory_total_bytes)
    power = max((power_limit_watts or 0) * thresholds.power_percent / 100, thresholds.power_watts)
    return (
        any(getattr(last, name) != getattr(now, name) for name in _EXACT)
        or _reasons(last) != _reasons(now)
        or _moved(last.memory_used_bytes, now.memory_used_bytes, memory)
        or _moved(last.compute_utilization_percent, now.compute_utilization_percent, thresholds.utilization_points)
        or _moved(last.thermal_temperature_c, now.thermal_temperature_c, thresholds.temperature_c)
        or _moved(last.power_watts, now.power_watts, power)
        or _moved(last.battery_percent, now.battery_percent, thresholds.battery_points)
    )


def report_is_due(silent_seconds: float | None, *, report_seconds: float, sample_interval_seconds: float) -> bool:
    """Return whether all states are to be told now, ``silent_seconds`` after they last were (``None``: never).

    Half a sampling interval is forgiven, so that a tick which comes a moment early is not skipped for one that
    comes a whole interval late.
    """
    return silent_seconds is None or silent_seconds >= report_seconds - sample_interval_seconds / 2


def _reasons(state: DeviceGPUState) -> frozenset[str] | None:
    # A card at full load meets its power limit and leaves it from one second to the next: that is how it runs. It is
    # told with whatever is told next.
    return None if state.throttle_reasons is None else frozenset(state.throttle_reasons) - {"power_cap"}


def _moved(last: float | None, now: float | None, threshold: float) -> bool:
    if last is None or now is None:
        return (last is None) != (now is None)
    return last != now and abs(now - last) >= threshold
