"""Devices of a fleet file, played from a seed, so that any machine can be any fleet.

Every reading is a pure function of (seed, node, device, tick): two runs of one seed agree in every byte, and
any tick can be asked without those before it. At tick 0 the readings are the file's. A reading that the file
leaves out is played; one that it sets to null stays unknown, as on hardware that does not offer it.

The load wanders as smooth noise. The temperature follows the load of the last half minute, the throttle flag
follows the temperature. A battery without a plug drains until somebody plugs it in.
"""

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shardbus_schemas.device_table import complete
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.fleet import FleetDevice, FleetNode
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.backends.table import facts_of

_LOAD_PERIOD_TICKS: Final = 15
_LOAD_SWING_POINTS: Final = 35.0
_MEMORY_PERIOD_TICKS: Final = 40
_MEMORY_SWING: Final = 0.02
"""Of the total: what comes and goes besides the models placed."""
_HEAT_PER_POINT: Final = 0.4
"""Degrees Celsius that one more point of sustained load adds: an air-cooled card runs some 40 degrees over idle."""
_HEAT_LAGS: Final = (0, 5, 10, 15)
"""The heat sink remembers: the temperature follows the mean load at these many ticks ago."""
_THROTTLE_C: Final = 87.0
"""Where a device slows down for which the file says nothing. Not announced: it is the play's, not a fact."""
_THROTTLE_HYSTERESIS_C: Final = 3.0
_DRAIN_POINTS_PER_TICK: Final = 0.02
"""100 points in under three hours at a tick of two seconds."""
_CHARGE_POINTS_PER_TICK: Final = 0.05
_PLUG_AT_PERCENT: Final = 10.0


class SimulatedBackend:
    """One node of a fleet file, played."""

    name = "simulated"

    def __init__(self, node: FleetNode, *, seed: int) -> None:
        self._players = tuple(_Player(seed, node, device) for device in node.devices)
        self._tick = 0

    def sample(self, at: datetime) -> tuple[DeviceGPUState, ...]:
        """Return the readings of the next tick; the first is tick 0."""
        tick, self._tick = self._tick, self._tick + 1
        return self.sample_tick(tick, at)

    def sample_tick(self, tick: int, at: datetime) -> tuple[DeviceGPUState, ...]:
        """Return the readings of any tick."""
        return tuple(player.state(tick, at) for player in self._players)

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each device is, completed from the device table."""
        return tuple(player.facts for player in self._players)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class _First:
    """A device's readings at tick 0."""

    memory_used_bytes: int | None
    utilization: float | None
    temperature: float | None
    throttling: bool | None


class _Player:
    """One device's readings at any tick."""

    def __init__(self, seed: int, node: FleetNode, device: FleetDevice) -> None:
        completed = complete(device)
        self.facts: DeviceFacts = facts_of(completed).model_copy(update={"reported_by": SimulatedBackend.name})
        self._node_id = node.node_id
        self._device = completed
        self._key = f"{seed}\0{node.node_id}\0{device.device_id}\0"
        self._first = self._first_readings()
        self._throttle_c = self._throttles_at()

    def state(self, tick: int, at: datetime) -> DeviceGPUState:
        """Return the readings at ``tick``."""
        battery, plugged = self._power(tick)
        return DeviceGPUState(
            device_id=self._device.device_id,
            node_id=self._node_id,
            memory_used_bytes=self._memory(tick),
            memory_total_bytes=self._device.memory_total_bytes,
            compute_utilization_percent=None if self._first.utilization is None else self._load(tick),
            thermal_temperature_c=self._temperature(tick),
            thermal_throttle_threshold_c=self._device.thermal_throttle_threshold_c,
            is_thermal_throttling=self._is_throttling(tick),
            battery_percent=battery,
            is_plugged_in=plugged,
            last_update=at,
        )

    def _first_readings(self) -> _First:
        device = self._device
        said = device.model_fields_set
        used, total = device.memory_used_bytes, device.memory_total_bytes
        if "memory_used_bytes" not in said and total is not None:
            used = int(total * (0.01 + 0.03 * self._draw("memory")))
        load = device.compute_utilization_percent
        if "compute_utilization_percent" not in said:
            load = round(10 * self._draw("load"), 1)
        temperature = device.thermal_temperature_c
        if "thermal_temperature_c" not in said:
            temperature = round(32 + 10 * self._draw("ambient") + _HEAT_PER_POINT * (load or 0))
        throttling = device.is_thermal_throttling
        if "is_thermal_throttling" not in said and temperature is not None:
            throttling = temperature >= (device.thermal_throttle_threshold_c or _THROTTLE_C)
        return _First(used, load, temperature, throttling)

    def _throttles_at(self) -> float:
        """Return the temperature from which this device throttles, so that it agrees with how it begins."""
        limit, first = self._device.thermal_throttle_threshold_c or _THROTTLE_C, self._first
        if first.temperature is None or first.throttling is None:
            return limit
        if first.throttling:
            return min(limit, first.temperature - _THROTTLE_HYSTERESIS_C)
        return max(limit, first.temperature + _THROTTLE_HYSTERESIS_C)

    def _memory(self, tick: int) -> int | None:
        used, total = self._first.memory_used_bytes, self._device.memory_total_bytes
        if used is None or total is None:
            return used
        moved = used + total * _MEMORY_SWING * self._wander("memory", tick, _MEMORY_PERIOD_TICKS)
        return min(total, max(0, round(moved)))

    def _load(self, tick: int) -> float:
        first = self._first.utilization or 0.0
        if tick <= 0:
            return first
        moved = first + _LOAD_SWING_POINTS * self._wander("load", tick, _LOAD_PERIOD_TICKS)
        return min(100.0, max(0.0, round(moved, 1)))

    def _temperature(self, tick: int) -> float | None:
        first = self._first.temperature
        if first is None or tick <= 0:
            return first
        sustained = sum(self._load(tick - lag) for lag in _HEAT_LAGS) / len(_HEAT_LAGS)
        return min(300.0, max(-100.0, first + round(_HEAT_PER_POINT * (sustained - self._load(0)))))

    def _is_throttling(self, tick: int) -> bool | None:
        temperature = self._temperature(tick)
        if tick <= 0 or temperature is None or self._first.throttling is None:
            return self._first.throttling
        return temperature >= self._throttle_c

    def _power(self, tick: int) -> tuple[float | None, bool | None]:
        level, plugged = self._device.battery_percent, self._device.is_plugged_in
        if tick <= 0 or level is None or plugged is None:
            return level, plugged
        if plugged:
            return min(100.0, round(level + _CHARGE_POINTS_PER_TICK * tick, 2)), True
        drained_after = max(0.0, level - _PLUG_AT_PERCENT) / _DRAIN_POINTS_PER_TICK
        if tick <= drained_after:
            return round(level - _DRAIN_POINTS_PER_TICK * tick, 2), False
        # From here it goes round: plugged in when low, charged, taken away again.
        low = min(level, _PLUG_AT_PERCENT)
        charging = (100 - low) / _CHARGE_POINTS_PER_TICK
        draining = (100 - low) / _DRAIN_POINTS_PER_TICK
        into = (tick - drained_after) % (charging + draining)
        if into <= charging:
            return round(low + _CHARGE_POINTS_PER_TICK * into, 2), True
        return round(100 - _DRAIN_POINTS_PER_TICK * (into - charging), 2), False

    def _wander(self, what: str, tick: int, period: int) -> float:
        """Return smooth noise in -1..1 that is 0 at tick 0: how far ``what`` has moved since then."""
        return self._noise(what, tick, period) - self._noise(what, 0, period)

    def _noise(self, what: str, tick: int, period: int) -> float:
        # Each device has its own phase, or the whole fleet would turn at the same tick.
        shifted = tick + math.floor(period * self._draw(f"{what} phase"))
        corner, inside = divmod(shifted, period)
        share = inside / period
        eased = share * share * (3 - 2 * share)
        return self._draw(f"{what} {corner}") * (1 - eased) + self._draw(f"{what} {corner + 1}") * eased

    def _draw(self, what: str) -> float:
        """Return a number in 0..1 that is this device's for ever."""
        digest = hashlib.blake2b((self._key + what).encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64
