"""One device of a fleet file, played: what it reads at any time is a pure function of seed, node, device, steps, time.

At time 0 the readings are the file's. A reading that the file leaves out is played as hardware of its kind would
offer it; one that it sets to null stays unknown. The load wanders as smooth noise, memory too. The temperature
follows the load of the last half minute, power the load, throttling the temperature. A scenario's steps act on top.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from shardbus_schemas.device_table import complete
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.fleet import FleetDevice, FleetNode
from shardbus_schemas.scenario import (
    AnyStep,
    BatteryStep,
    FaultStep,
    HangStep,
    LoadStep,
    LoseStep,
    ThrottleStep,
)
from shardbus_schemas.telemetry import DeviceGPUState, Health, ThrottleReason

from shardbus_agents.backends.battery import Battery
from shardbus_agents.backends.noise import Wander, draw, draw_uuid
from shardbus_agents.backends.nvml.xid import explain
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem, Reading
from shardbus_agents.backends.table import facts_of
from shardbus_agents.timeline import Occurrence, active, beginnings, progress, started, weight

TICK_SECONDS: Final = 2.0
"""What noise turns by."""
_LOAD_PERIOD_TICKS: Final = 15
_LOAD_SWING_POINTS: Final = 35.0
_BUSY_SWING_POINTS: Final = 3.0
"""A device under a scenario's load is steadier than one that is left to itself."""
_MEMORY_PERIOD_TICKS: Final = 40
_MEMORY_SWING: Final = 0.02
"""Of the total: what comes and goes besides the models placed."""
_HEAT_PER_POINT: Final = 0.4
"""Degrees Celsius that one more point of sustained load adds: an air-cooled card runs some 40 degrees over idle."""
_HEAT_LAGS_SECONDS: Final = (10.0, 20.0, 30.0)
"""The heat sink remembers: the temperature follows the mean load of now and these many seconds ago."""
_THROTTLE_C: Final = 87.0
"""Where a device slows down for which the file says nothing."""
_THROTTLE_HYSTERESIS_C: Final = 3.0
_LIMIT_WATTS: Final = 300.0
"""Where a card caps its power of which the file says nothing. Not announced: it is the play's, not a fact."""
_IDLE_SHARE: Final = 0.08
_THROTTLED_SHARE: Final = 0.7
_CAPPED_LOAD: Final = 97.0
"""At full load a card runs at its power limit."""
_THERMAL: Final = ("software_thermal", "hardware_thermal")
_WITH_DRIVER: Final = ("cuda", "rocm")
"""Whose drivers tell power, health and why a device is held back."""


class Player:
    """One device at any time. ``began`` is when its node's agent did."""

    __slots__ = (
        "_battery",
        "_began",
        "_device",
        "_faults",
        "_first_load",
        "_first_memory",
        "_first_reasons",
        "_first_temperature",
        "_first_throttling",
        "_first_watts",
        "_hangs",
        "_has_health",
        "_load_wander",
        "_loads",
        "_losses",
        "_memory_wander",
        "_node_id",
        "_threshold",
        "_throttle_c",
        "_throttles",
        "facts",
    )

    def __init__(
        self, seed: int, node: FleetNode, device: FleetDevice, steps: Sequence[AnyStep] = (), *, began: float = 0.0
    ) -> None:
        self._device = complete(device)
        self._node_id = node.node_id
        self._began = began
        self.facts: DeviceFacts = _facts(node, self._device)
        self._loads = [step for step in steps if isinstance(step, LoadStep)]
        self._throttles = [step for step in steps if isinstance(step, ThrottleStep)]
        self._losses = [step for step in steps if isinstance(step, LoseStep)]
        self._faults = [step for step in steps if isinstance(step, FaultStep)]
        self._hangs = [step for step in steps if isinstance(step, HangStep)]
        key = f"{seed}\0{node.node_id}\0{device.device_id}\0"
        self._load_wander = Wander(f"{key}load", _LOAD_PERIOD_TICKS)
        self._memory_wander = Wander(f"{key}memory", _MEMORY_PERIOD_TICKS)
        self._begin(key)
        self._battery = None
        if device.battery_percent is not None and device.is_plugged_in is not None:
            plugs = [step for step in steps if isinstance(step, BatteryStep)]
            self._battery = Battery(device.battery_percent, plugged=device.is_plugged_in, steps=plugs)

    def state(self, t: float, at: datetime) -> DeviceGPUState:
        """Return the readings ``t`` seconds after the beginning, stamped ``at``."""
        device = self._device
        load = self._load(t)
        temperature = self._temperature(t, load)
        throttling = self._is_throttling(t, temperature)
        battery = (device.battery_percent, device.is_plugged_in) if self._battery is None else self._battery.at(t)
        return DeviceGPUState(
            device_id=device.device_id,
            node_id=self._node_id,
            memory_used_bytes=self._memory(t),
            memory_total_bytes=device.memory_total_bytes,
            compute_utilization_percent=None if self._first_load is None else load,
            thermal_temperature_c=temperature,
            thermal_throttle_threshold_c=self._threshold,
            is_thermal_throttling=throttling,
            throttle_reasons=self._reasons(t, load, throttling=throttling),
            power_watts=self._watts(t, load, throttling=throttling),
            health=self._health(t),
            battery_percent=battery[0],
            is_plugged_in=battery[1],
            last_update=at,
        )

    def readings(self, since: float, t: float, at: datetime, *, scale: float, patience: float) -> tuple[Reading, ...]:
        """Return what a driver would say at ``t``: readings or a problem, and the faults after ``since``.

        ``scale`` is how many seconds of the scenario one second is, ``patience`` after how many seconds a driver
        counts as hanging.
        """
        faults = [
            self._fault(fault, at - timedelta(seconds=(t - fault.start) / scale)) for fault in self._told(since, t)
        ]
        lost = active(self._losses, t)
        if lost:
            return *faults, DeviceProblem(self._device.device_id, lost[-1].step.reason)
        if not (hangs := active(self._hangs, t)):
            return *faults, self.state(t, at)
        hung_at = max(self._began, min(hang.start for hang in hangs))
        silent = (t - hung_at) / scale
        if silent >= patience:
            reason = f"the driver hangs: no answer within {patience:g} s"
            return *faults, DeviceProblem(self._device.device_id, reason)
        return *faults, self.state(hung_at, at - timedelta(seconds=silent))

    def _begin(self, key: str) -> None:
        """Find the readings at time 0."""
        device, said = self._device, self._device.model_fields_set
        played = self.facts.backend in _WITH_DRIVER
        used, total = device.memory_used_bytes, device.memory_total_bytes
        if "memory_used_bytes" not in said and total is not None:
            used = int(total * (0.01 + 0.03 * draw(f"{key}memory")))
        load = device.compute_utilization_percent
        if "compute_utilization_percent" not in said:
            load = round(10 * draw(f"{key}load"), 1)
        temperature = device.thermal_temperature_c
        if "thermal_temperature_c" not in said:
            temperature = round(32 + 10 * draw(f"{key}ambient") + _HEAT_PER_POINT * (load or 0))
        threshold = device.thermal_throttle_threshold_c
        if "thermal_throttle_threshold_c" not in said and played and not device.unified_memory:
            threshold = _THROTTLE_C
        throttling = device.is_thermal_throttling
        if "is_thermal_throttling" not in said and temperature is not None:
            throttling = temperature >= (_THROTTLE_C if threshold is None else threshold)
        self._first_memory, self._first_load, self._first_temperature = used, load, temperature
        self._threshold, self._first_throttling = threshold, throttling
        self._throttle_c = _throttles_at(_THROTTLE_C if threshold is None else threshold, temperature, throttling)
        self._first_watts = device.power_watts
        if "power_watts" not in said and played:
            self._first_watts = self._model_watts(load or 0.0, throttling=throttling)
        self._first_reasons = device.throttle_reasons
        if "throttle_reasons" not in said and played:
            heat: tuple[ThrottleReason, ...] = ("software_thermal",) if throttling else ()
            self._first_reasons = ("power_cap", *heat) if (load or 0.0) >= _CAPPED_LOAD else heat
        self._has_health = device.health is not None or ("health" not in said and played)

    def _memory(self, t: float) -> int | None:
        used, total = self._first_memory, self._device.memory_total_bytes
        if used is None or total is None:
            return used
        moved = used if t <= 0 else used + total * _MEMORY_SWING * self._memory_wander.at(t / TICK_SECONDS)
        for load in started(self._loads, t):
            if load.step.memory_percent is not None:
                moved = _loaded(moved / total * 100, load.step.memory_percent, load, t) * total / 100
        return min(total, max(0, round(moved)))

    def _load(self, t: float) -> float:
        first = self._first_load or 0.0
        if t <= 0 and not active(self._loads, t):
            return first
        wander = self._load_wander.at(t / TICK_SECONDS) if t > 0 else 0.0
        moved = first + _LOAD_SWING_POINTS * wander
        for load in started(self._loads, t):
            if load.step.utilization_percent is not None:
                steady = _BUSY_SWING_POINTS * wander * weight(load, t)
                moved = _loaded(moved, load.step.utilization_percent, load, t) + steady
        return min(100.0, max(0.0, round(moved, 1)))

    def _temperature(self, t: float, load: float) -> float | None:
        first = self._first_temperature
        if first is None:
            return None
        heat = 0
        if t > 0:
            sustained = (load + sum(self._load(t - lag) for lag in _HEAT_LAGS_SECONDS)) / (1 + len(_HEAT_LAGS_SECONDS))
            heat = round(_HEAT_PER_POINT * (sustained - (self._first_load or 0.0)))
        moved = first + heat
        for throttle in started(self._throttles, t):
            if throttle.step.is_thermal:
                hottest = throttle.step.temperature_c
                hottest = self._throttle_c + _THROTTLE_HYSTERESIS_C if hottest is None else hottest
                share = weight(throttle, t)
                moved = moved if share == 0 else round(moved * (1 - share) + hottest * share, 1)
        return min(300.0, max(-100.0, moved))

    def _is_throttling(self, t: float, temperature: float | None) -> bool | None:
        if self._first_throttling is None:
            return None
        if any(throttle.step.is_thermal and progress(throttle, t) >= 1 for throttle in active(self._throttles, t)):
            return True
        if t <= 0 or temperature is None:
            return self._first_throttling
        return temperature >= self._throttle_c

    def _reasons(self, t: float, load: float, *, throttling: bool | None) -> tuple[ThrottleReason, ...] | None:
        if self._first_reasons is None or (t <= 0 and not active(self._throttles, t)):
            return self._first_reasons
        found: list[ThrottleReason] = ["power_cap"] if load >= _CAPPED_LOAD else list[ThrottleReason]()
        hot = bool(throttling)
        for throttle in active(self._throttles, t):
            found.extend(reason for reason in throttle.step.reasons if hot or reason not in _THERMAL)
        if hot and not any(reason in _THERMAL for reason in found):
            found.append("software_thermal")
        return tuple(dict.fromkeys(found))

    def _watts(self, t: float, load: float, *, throttling: bool | None) -> float | None:
        first = self._first_watts
        if first is None or (t <= 0 and not active(self._loads, t)):
            return first
        begun = self._model_watts(self._first_load or 0.0, throttling=self._first_throttling)
        return max(0.0, round(first + self._model_watts(load, throttling=throttling) - begun, 1))

    def _model_watts(self, load: float, *, throttling: bool | None) -> float:
        limit = self._device.power_limit_watts or _LIMIT_WATTS
        busy = (1 - _IDLE_SHARE) * load / 100 * (_THROTTLED_SHARE if throttling else 1)
        return round(limit * (_IDLE_SHARE + busy), 1)

    def _health(self, t: float) -> Health | None:
        if not self._has_health:
            return None
        if not self._faults:
            return self._device.health or "ok"
        told = [fault for fault in started(self._faults, t) if fault.step.is_critical and fault.start >= self._began]
        reset = max((loss.end for loss in started(self._losses, t) if loss.end <= t), default=-math.inf)
        if any(fault.start >= reset for fault in told):
            return "degraded"
        return self._device.health or "ok"

    def _told(self, since: float, t: float) -> list[Occurrence[FaultStep]]:
        return beginnings(self._faults, since, t) if self._faults else []

    def _fault(self, occurrence: Occurrence[FaultStep], occurred_at: datetime) -> DeviceFault:
        step = occurrence.step
        what = explain(step.code)[0] if step.kind == "xid" and step.code is not None else step.kind.upper()
        return DeviceFault(
            device_id=self._device.device_id,
            kind=step.kind,
            message=step.message or what,
            occurred_at=occurred_at,
            code=step.code,
            is_critical=step.is_critical,
        )


def _loaded(value: float, target: float | tuple[float, float], load: Occurrence[LoadStep], t: float) -> float:
    """Return ``value`` as far on its way to ``target`` as the step has come."""
    share = weight(load, t)
    if isinstance(target, tuple):
        # It begins at the first of the two at once; afterwards it goes back to what would be without it.
        until = min(t, load.end)
        goal = target[0] + (target[1] - target[0]) * progress(load, until)
        share = 1.0 if t < load.end else share
    else:
        goal = target
    return value * (1 - share) + goal * share


def _throttles_at(limit: float, first: float | None, throttling: bool | None) -> float:  # noqa: FBT001 - a reading
    """Return the temperature from which a device throttles, so that it agrees with how it begins."""
    if first is None or throttling is None:
        return limit
    if throttling:
        return min(limit, first - _THROTTLE_HYSTERESIS_C)
    return max(limit, first + _THROTTLE_HYSTERESIS_C)


def _facts(node: FleetNode, device: FleetDevice) -> DeviceFacts:
    """Return what the device is, with the names that a driver would give it; those of the file win."""
    given: dict[str, object] = {"reported_by": "simulated"}
    cards = [each.device_id for each in node.devices if complete(each).backend == "cuda"]
    if device.device_id in cards:
        index = cards.index(device.device_id)
        uuid = draw_uuid(f"{node.node_id}\0{device.device_id}")
        names = {
            "uuid": f"GPU-{uuid}",
            "label": f"cuda:{index}",
            "pci_address": f"0000:{index + 1:02x}:00.0",
        }
        given |= {name: value for name, value in names.items() if name not in device.model_fields_set}
    return facts_of(device).model_copy(update=given)
