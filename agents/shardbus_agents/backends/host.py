"""The host itself: its processor as a device, by psutil. Every node has it, so a node without a GPU still reports.

On a phone, where the kernel's files are closed, Termux tells the battery and its temperature.
"""

import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId

from shardbus_agents.backends import termux
from shardbus_agents.backends.commands import PolledCommand
from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.protocol import DeviceSample
from shardbus_agents.backends.sysfs import Answers, UnreadableError, silently

CPU: Final = DeviceId("cpu")

_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")
"""The kernel's drivers of processor temperature: Intel, AMD (two), and the usual names on Arm boards."""

_SHORTEST_MEANING_SECONDS: Final = 0.1
"""psutil's utilisation is the mean since the last call; over less than this it says nothing (psutil's manual)."""

_HOTTEST_CREDIBLE_C: Final = 150
"""A dead sensor reads 0 or far below, or the end of its scale; a processor that runs is neither."""

_FULL: Final = 100.0
_A_LITTLE_MORE: Final = 110.0

_UNKNOWN_FACTS: Final = {
    "memory_bandwidth_bytes_per_second": "no table has processors: `shardbus agent --measure` measures it",
    "peak_flops": "no table has processors: `shardbus agent --measure` measures it",
}
_UNKNOWN_READINGS: Final = {
    "thermal_throttle_threshold_c": "psutil does not tell it",
    "is_thermal_throttling": "psutil does not tell it",
    "throttle_reasons": "psutil does not tell it",
    "power_watts": "psutil does not tell it",
    "health": "psutil does not tell it",
}

ValueT = TypeVar("ValueT")


class HostBackend:
    """The processor and the host's memory, temperature and battery."""

    name = "psutil"

    def __init__(
        self,
        node_id: NodeId,
        *,
        memory: Callable[[], HostMemory] = host_memory,
        phone: Sequence[str] = termux.COMMAND,
    ) -> None:
        self._node_id = node_id
        self._memory = memory
        name = processor_name()
        self._facts = DeviceFacts(
            device_id=CPU,
            label="cpu",
            name=name,
            architecture=platform.machine() or None,
            backend="cpu",
            memory_total_bytes=memory().total_bytes,
            unified_memory=True,
            sources={"memory_total_bytes": "driver", **({} if name is None else {"name": "driver"})},
            unknown=_UNKNOWN_FACTS if name is not None else {**_UNKNOWN_FACTS, "name": "this system does not name it"},
            reported_by=self.name,
        )
        phone_battery = PolledCommand(
            phone, every_seconds=termux.EVERY_SECONDS, deadline_seconds=termux.DEADLINE_SECONDS
        )
        self._phone = phone_battery if phone_battery.is_installed else None
        silently(lambda: _asked(lambda: psutil.cpu_percent(interval=None)))
        self._utilization_since = time.monotonic()

    def sample(self, at: datetime) -> tuple[DeviceSample, ...]:
        """Return the processor's readings."""
        answers = Answers()
        memory = self._memory()
        temperature = answers.ask("thermal_temperature_c", _temperature)
        battery = answers.ask("battery_percent", _battery)
        phone = None if self._phone is None else self._phone.answer()
        if phone is not None and (told := termux.parse_battery(phone)) is not None:
            battery = battery or (told.percent, told.is_plugged_in)
            temperature = temperature or told.temperature_c
        elif self._phone is not None and battery is None:
            answers.unknown["battery_percent"] = self._phone.trouble or "termux-battery-status gave no answer"
        percent, is_plugged_in = battery or (None, None)
        if is_plugged_in is None:
            answers.unknown["is_plugged_in"] = answers.unknown.get("battery_percent", "the battery does not say it")
        readings = {
            "memory_used_bytes": memory.used_bytes,
            "memory_total_bytes": memory.total_bytes,
            "compute_utilization_percent": answers.ask("compute_utilization_percent", self._utilization),
            "thermal_temperature_c": temperature,
            "battery_percent": percent,
            "is_plugged_in": is_plugged_in,
        }
        return (credible_sample(CPU, self._node_id, at, readings, unknown={**_UNKNOWN_READINGS, **answers.unknown}),)

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return the processor."""
        return (self._facts,)

    def close(self) -> None:
        """End the helper of a phone, if there is one."""
        if self._phone is not None:
            self._phone.close()

    def _utilization(self) -> float:
        if time.monotonic() - self._utilization_since < _SHORTEST_MEANING_SECONDS:
            raise UnreadableError("it is the mean since the last look, and that was too short ago")
        self._utilization_since = time.monotonic()
        return _asked(lambda: psutil.cpu_percent(interval=None))


def processor_name() -> str | None:
    """Return the processor's name as its maker gives it, such as ``AMD EPYC 7763``; ``None`` where nobody says it."""
    name = _darwin_processor_name if platform.system() == "Darwin" else _linux_processor_name
    return silently(lambda: _asked(name))


def _linux_processor_name() -> str | None:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    # Arm boards name the board, not the processor.
    board = Path("/proc/device-tree/model")
    return (board.read_text(encoding="utf-8", errors="replace").strip("\0 \n") or None) if board.exists() else None


def _darwin_processor_name() -> str | None:
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)
    return answer.stdout.strip() or None


def _temperature() -> float:
    """Return the hottest of the processor's sensors; raises UnreadableError.

    No platform but Linux and FreeBSD has them here.
    """
    ask: Callable[[], Mapping[str, Any]] | None = getattr(psutil, "sensors_temperatures", None)
    if ask is None:
        raise UnreadableError("this system offers no sensor without a helper")
    sensors = _asked(ask)
    readings = [float(reading.current) for name in _SENSORS for reading in sensors.get(name, ())]
    if not readings:
        raise UnreadableError("no sensor of a processor that this kernel offers")
    credible = [reading for reading in readings if 0 < reading < _HOTTEST_CREDIBLE_C]
    if not credible:
        raise UnreadableError(
            f"its sensors say {', '.join(f'{reading:g}' for reading in readings)} °C, which cannot be"
        )
    return max(credible)


def _battery() -> tuple[float | None, bool | None]:
    """Return percent and whether it is plugged in; raises UnreadableError where there is none."""
    ask: Callable[[], Any] | None = getattr(psutil, "sensors_battery", None)
    battery = None if ask is None else _asked(ask)
    if battery is None:
        raise UnreadableError("no battery that this system knows of")
    percent = float(battery.percent)
    # A worn battery may report a little more than full; psutil passes that on.
    return (_FULL if _FULL < percent <= _A_LITTLE_MORE else percent), battery.power_plugged


def _asked(question: Callable[[], ValueT]) -> ValueT:
    """Return the answer; raises UnreadableError where this host cannot give it: sensors are files that come and go."""
    try:
        return question()
    except (OSError, ValueError, RuntimeError, NotImplementedError, subprocess.SubprocessError, psutil.Error) as error:
        raise UnreadableError(f"this host cannot say: {error}") from error
