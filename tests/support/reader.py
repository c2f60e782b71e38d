"""Who reads the bus, and what he believes: to hold an agent's words against what it saw.

Written from the event's documentation alone: the bounds are those that ``NodeJoined`` declares, and what a mean is
stands here once more, so that a mistake in the agent is not repeated.
"""

import math
from collections.abc import Iterable, Mapping

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceLost, DeviceRegistered, NodeJoined
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState

EXACT = (
    "memory_total_bytes",
    "thermal_throttle_threshold_c",
    "is_thermal_throttling",
    "health",
    "is_plugged_in",
)
MEANS = ("compute_utilization_percent", "thermal_temperature_c", "power_watts")


class Reader:
    """Believes of each device what was said last."""

    def __init__(self) -> None:
        self.bounds: Mapping[str, float] = {}
        self.devices: dict[str, DeviceFacts] = {}
        self.believed: dict[str, DeviceGPUState] = {}

    def hear(self, messages: Iterable[FrozenModel]) -> None:
        """Take what came."""
        for message in messages:
            match message:
                case NodeJoined():
                    self.bounds = message.error_bounds
                case DeviceRegistered(device=device):
                    self.devices[device.device_id] = device
                case DeviceLost(device_id=device_id):
                    self.devices.pop(device_id, None)
                    self.believed.pop(device_id, None)
                case DeviceGPUStateUpdated(states=states):
                    told = {state.device_id: state for state in states}
                    self.believed = told if message.heartbeat else self.believed | told
                case _:
                    raise AssertionError(message)

    def assert_knows(self, true: DeviceGPUState) -> None:
        """Fail unless what is believed of a device is as near to ``true`` as was declared, field by field."""
        told = self.believed[true.device_id]
        for name in EXACT:
            assert getattr(told, name) == getattr(true, name), name
        assert _reasons(told) == _reasons(true)
        bounds, limit = self.bounds, self.devices[true.device_id].power_limit_watts or 0
        allowed = {
            "memory_used_bytes": max(
                bounds["memory_used_percent"] / 100 * (true.memory_total_bytes or 0), bounds["memory_used_bytes"]
            ),
            "power_watts": max(bounds["power_limit_percent"] / 100 * limit, bounds["power_watts"]),
            **{
                name: bounds[name]
                for name in ("compute_utilization_percent", "thermal_temperature_c", "battery_percent")
            },
        }
        for name, bound in allowed.items():
            heard, real = getattr(told, name), getattr(true, name)
            assert (heard is None) == (real is None), name
            assert heard is None or abs(heard - real) <= bound, (name, heard, real, bound)


def _reasons(state: DeviceGPUState) -> set[str] | None:
    return None if state.throttle_reasons is None else {*state.throttle_reasons} - {"power_cap"}


class Means:
    """The exponential means of a node's devices, by the book: m += (1 - exp(-dt / T)) (x - m)."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[tuple[str, str], float] = {}
        self._at: dict[str, float] = {}

    def of(self, state: DeviceGPUState, uptime_seconds: float) -> DeviceGPUState:
        """Return ``state`` with means in place of samples."""
        name = state.device_id
        weight = 1 - math.exp(-(uptime_seconds - self._at.get(name, uptime_seconds)) / self._seconds)
        self._at[name] = uptime_seconds
        means: dict[str, float] = {}
        for field in MEANS:
            sample = getattr(state, field)
            if sample is None:
                self._last.pop((name, field), None)
                continue
            mean = self._last.get((name, field), sample)
            mean += weight * (sample - mean)
            self._last[name, field] = mean
            means[field] = round(mean, 1)
        return state.model_copy(update=means)

    def forget(self, name: str) -> None:
        """The device is lost."""
        self._at.pop(name, None)
        for field in MEANS:
            self._last.pop((name, field), None)
