"""Which readings are worth telling: those that moved significantly since they were last *published*.

Comparing with the last published value, never with the last sample, is what bounds the error of everybody who
reads the bus: whatever they believe of a living device is within these thresholds of its last sample.
"""

from collections.abc import Iterable, Mapping

from pydantic import Field
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState


class Thresholds(FrozenModel):
    """How far a reading may move before it is told. 0 tells every change."""

    memory_percent: float = Field(default=1, ge=0, le=100)
    """Of the device's total."""
    utilization_points: float = Field(default=10, ge=0, le=100)
    temperature_c: float = Field(default=5, ge=0)
    battery_points: float = Field(default=5, ge=0, le=100)


def significant(
    published: Mapping[DeviceId, DeviceGPUState], current: Iterable[DeviceGPUState], thresholds: Thresholds
) -> tuple[DeviceGPUState, ...]:
    """Return the states of ``current`` that differ enough from what was last published of their device."""
    return tuple(
        state
        for state in current
        if (last := published.get(state.device_id)) is None or has_changed(last, state, thresholds)
    )


def has_changed(last: DeviceGPUState, now: DeviceGPUState, thresholds: Thresholds) -> bool:
    """Return whether a field reached its threshold, a flag flipped, or unknown became known or the reverse."""
    return (
        now.memory_total_bytes != last.memory_total_bytes
        or now.thermal_throttle_threshold_c != last.thermal_throttle_threshold_c
        or now.is_thermal_throttling != last.is_thermal_throttling
        or now.is_plugged_in != last.is_plugged_in
        # Without a total there is no share of it: then every change of the bytes counts.
        or _moved(
            last.memory_used_bytes,
            now.memory_used_bytes,
            (now.memory_total_bytes or 0) * thresholds.memory_percent / 100,
        )
        or _moved(last.compute_utilization_percent, now.compute_utilization_percent, thresholds.utilization_points)
        or _moved(last.thermal_temperature_c, now.thermal_temperature_c, thresholds.temperature_c)
        or _moved(last.battery_percent, now.battery_percent, thresholds.battery_points)
    )


def heartbeat_is_due(silent_seconds: float | None, *, heartbeat_seconds: float, sample_interval_seconds: float) -> bool:
    """Return whether all states are to be told now, ``silent_seconds`` after they last were (``None``: never).

    Half a sampling interval is forgiven, so that a tick which comes a moment early is not skipped for one that
    comes a whole interval late.
    """
    return silent_seconds is None or silent_seconds >= heartbeat_seconds - sample_interval_seconds / 2


def _moved(last: float | None, now: float | None, threshold: float) -> bool:
    if last is None or now is None:
        return (last is None) != (now is None)
    return last != now and abs(now - last) >= threshold
