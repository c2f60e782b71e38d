"""The readings that follow the load, as means: what a device does lately, not in the instant of a look.

A device that chats is busy for 95 % or not at all, from one look to the next, and no bound on the error of that could
be kept without telling nearly every look. Power flips with it, and a die warms by ten degrees within seconds. What the
placer asks is how busy, how hot and how hungry a device has been of late. That is an exponential mean, as a host's load
average is: it needs one number a reading, and it follows a lasting change to 63 % within its time constant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shardbus_schemas.ids import DeviceId
from shardbus_schemas.telemetry import DeviceGPUState

SMOOTHED: Final = ("compute_utilization_percent", "thermal_temperature_c", "power_watts")
DIGITS: Final = 1
"""What is told of a mean is rounded to a tenth; the mean itself is not, or it would stick where it is."""


@dataclass(slots=True)
class _Means:
    at: float
    values: dict[str, float] = field(default_factory=dict[str, float])


class Smoother:
    """The means of one node's devices. ``seconds`` is the time constant; 0 leaves every sample as it is."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._means: dict[DeviceId, _Means] = {}

    def smooth(self, states: Sequence[DeviceGPUState], uptime_seconds: float) -> tuple[DeviceGPUState, ...]:
        """Return ``states`` with their means in place of the samples; the first sample of a reading is its own mean."""
        return tuple(states) if not self._seconds else tuple(self._smooth(state, uptime_seconds) for state in states)

    def forget(self, device_id: DeviceId) -> None:
        """Begin anew with this device's next sample."""
        self._means.pop(device_id, None)

    def restart(self) -> None:
        """Begin anew with every device's next sample."""
        self._means.clear()

    def _smooth(self, state: DeviceGPUState, uptime_seconds: float) -> DeviceGPUState:
        means = self._means.setdefault(state.device_id, _Means(uptime_seconds))
        weight = 1 - math.exp(-max(0.0, uptime_seconds - means.at) / self._seconds)
        means.at = uptime_seconds
        told: dict[str, float] = {}
        for name in SMOOTHED:
            sample: float | None = getattr(state, name)
            if sample is None:
                means.values.pop(name, None)
            else:
                mean = means.values.get(name, sample)
                means.values[name] = mean + weight * (sample - mean)
                told[name] = round(means.values[name], DIGITS)
        return state.model_copy(update=told)
