"""The host itself: its processor as a device, by psutil. Every node has it, so a node without a GPU still reports."""

import platform
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.backends.host_memory import host_memory

CPU: Final = DeviceId("cpu")

_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")
"""The kernel's drivers of processor temperature: Intel, AMD (two), and the usual names on Arm boards."""

_SHORTEST_MEANING_SECONDS: Final = 0.1
"""psutil's utilisation is the mean since the last call; over less than this it says nothing (psutil's manual)."""

_HOTTEST_CREDIBLE_C: Final = 150
"""A dead sensor reads 0 or far below, or the end of its scale; a processor that runs is neither."""

ValueT = TypeVar("ValueT")


class HostBackend:
    """The processor and the host's memory, temperature and battery."""

    name = "psutil"

    def __init__(self, node_id: NodeId) -> None:
        self._node_id = node_id
        self._facts = DeviceFacts(
            device_id=CPU,
            label="cpu",
            name=processor_name(),
            architecture=platform.machine() or None,
            backend="cpu",
            memory_total_bytes=host_memory().total_bytes,
            unified_memory=True,
            sources={"name": "driver", "memory_total_bytes": "driver"},
            reported_by=self.name,
        )
        psutil.cpu_percent(interval=None)
        self._utilization_since = time.monotonic()

    def sample(self, at: datetime) -> tuple[DeviceGPUState, ...]:
        """Return the processor's readings."""
        memory = host_memory()
        battery = _ask(_battery)
        return (
            DeviceGPUState(
                device_id=CPU,
                node_id=self._node_id,
                memory_used_bytes=memory.used_bytes,
                memory_total_bytes=memory.total_bytes,
                compute_utilization_percent=self._utilization(),
                thermal_temperature_c=_ask(_temperature),
                battery_percent=None if battery is None else battery[0],
                is_plugged_in=None if battery is None else battery[1],
                last_update=at,
            ),
        )

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return the processor."""
        return (self._facts,)

    def close(self) -> None:
        """Nothing is held."""

    def _utilization(self) -> float | None:
        if time.monotonic() - self._utilization_since < _SHORTEST_MEANING_SECONDS:
            return None
        self._utilization_since = time.monotonic()
        return min(100.0, max(0.0, psutil.cpu_percent(interval=None)))


def processor_name() -> str | None:
    """Return the processor's name as its maker gives it, such as ``AMD EPYC 7763``; ``None`` where nobody says it."""
    if platform.system() == "Darwin":
        return _ask(_darwin_processor_name)
    return _ask(_linux_processor_name)


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


def _temperature() -> float | None:
    """Return the hottest of the processor's sensors; no platform but Linux and FreeBSD has them here."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    sensors = psutil.sensors_temperatures()
    readings = [reading.current for name in _SENSORS for reading in sensors.get(name, ())]
    return max((reading for reading in readings if 0 < reading < _HOTTEST_CREDIBLE_C), default=None)


def _battery() -> tuple[float, bool | None] | None:
    """Return percent and whether it is plugged in; ``None`` on a host without a battery, or where nobody can say."""
    ask: Callable[[], Any] | None = getattr(psutil, "sensors_battery", None)
    battery = None if ask is None else ask()
    if battery is None:
        return None
    return min(100.0, max(0.0, float(battery.percent))), battery.power_plugged


def _ask(question: Callable[[], ValueT | None]) -> ValueT | None:
    """Return the answer, or ``None`` where this host cannot give it: sensors are files that come and go."""
    try:
        return question()
    except (OSError, ValueError, RuntimeError, NotImplementedError, subprocess.SubprocessError, psutil.Error):
        return None
