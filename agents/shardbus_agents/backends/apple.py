"""Apple silicon without root: memory by psutil, thermal pressure by ``pmset``, load and heat by macmon if it is there.

Memory never depends on a helper that may be missing. Each optional source has a freshness of its own: what it no
longer says is unknown, with the reason. MLX knows the GPU's limits better and is believed first; without MLX the
limit is what macOS allows by default, a formula.
"""

import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shardbus_schemas.devices import DeviceFacts, FactSource
from shardbus_schemas.ids import DeviceId, NodeId

from shardbus_agents.backends import macmon
from shardbus_agents.backends.commands import PolledCommand
from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.macmon import MacmonPipe, MacmonReading
from shardbus_agents.backends.protocol import BackendUnavailableError, DeviceSample
from shardbus_agents.backends.table import unknown_figures, with_table_facts

GPU: Final = DeviceId("metal:0")
"""A Mac has one GPU, soldered on; MLX's name for it."""
CPU: Final = DeviceId("cpu")

PMSET: Final = ("/usr/bin/pmset", "-g", "therm")
_PMSET_EVERY_SECONDS: Final = 10.0
_PMSET_DEADLINE_SECONDS: Final = 3.0
_FIRST_ANSWER_SECONDS: Final = 0.5

_LARGE_MAC_BYTES: Final = 36 * 2**30
"""From here on macOS lets the GPU wire three quarters of the memory, below it two thirds (iogpu.wired_limit_mb = 0)."""

_LIMITS: Final = re.compile(r"CPU_(?:Speed|Scheduler)_Limit\s*=\s*(\d+)")
_LEVEL: Final = re.compile(r"(?:thermal|performance)\s+(?:warning\s+)?level\s*[:=]\s*(\d+)", re.IGNORECASE)
_ALL_CLEAR: Final = "No thermal warning level has been recorded"
_FULL_SPEED: Final = 100


def parse_pmset(text: str) -> bool | None:
    """Return whether ``pmset -g therm`` says that the Mac is held back by heat; ``None`` if it says nothing."""
    limits = [int(limit) for limit in _LIMITS.findall(text)]
    levels = [int(level) for level in _LEVEL.findall(text)]
    if any(limit < _FULL_SPEED for limit in limits) or any(levels):
        return True
    return False if limits or levels or _ALL_CLEAR in text else None


def default_working_set(memory_bytes: int) -> int:
    """Return how much of a Mac's memory its GPU may wire unless somebody changed that."""
    return memory_bytes * 3 // 4 if memory_bytes >= _LARGE_MAC_BYTES else memory_bytes * 2 // 3


class AppleBackend:
    """The GPU and the processor of a Mac."""

    name = "apple"

    def __init__(
        self,
        node_id: NodeId,
        *,
        system: str | None = None,
        machine: str | None = None,
        memory: Callable[[], HostMemory] = host_memory,
        chip_name: Callable[[], str | None] | None = None,
        pmset: Sequence[str] = PMSET,
        macmon_command: Sequence[str] = macmon.COMMAND,
    ) -> None:
        system, machine = system or platform.system(), machine or platform.machine()
        if system != "Darwin":
            raise BackendUnavailableError(f"this is {system or 'another system'}, not macOS")
        self._node_id = node_id
        self._memory = memory
        self._facts: tuple[DeviceFacts, ...] = ()
        if machine == "arm64":
            self._facts = (self._gpu((chip_name or _chip_name)()),)
        self._pmset = PolledCommand(pmset, every_seconds=_PMSET_EVERY_SECONDS, deadline_seconds=_PMSET_DEADLINE_SECONDS)
        self._macmon = MacmonPipe(macmon_command)

    def sample(self, at: datetime) -> tuple[DeviceSample, ...]:
        """Return what is known of the GPU and of the processor, beside what psutil says of it."""
        looked = self._look()
        return (*(self._gpu_sample(gpu, looked, at) for gpu in self._facts), self._cpu_sample(looked, at))

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return the GPU; the processor is psutil's."""
        return self._facts

    def close(self) -> None:
        """End the helpers."""
        self._pmset.close()
        self._macmon.close()

    def _gpu(self, name: str | None) -> DeviceFacts:
        total = self._memory().total_bytes
        sources: dict[str, FactSource] = {"name": "driver", "memory_total_bytes": "driver", "vendor": "driver"}
        # A chip is sold with whole memory sizes: that, not the working set, tells parts of one name apart.
        facts = with_table_facts(
            DeviceFacts(
                device_id=GPU,
                label=GPU,
                name=name,
                vendor="apple",
                backend="metal",
                memory_total_bytes=total,
                unified_memory=True,
                sources=sources,
                reported_by=self.name,
            )
        )
        return facts.model_copy(
            update={
                "memory_total_bytes": default_working_set(total),
                "sources": {**facts.sources, "memory_total_bytes": "formula"},
                "unknown": unknown_figures(facts),
            }
        )

    def _look(self) -> "_Look":
        said = self._pmset.answer(wait_seconds=_FIRST_ANSWER_SECONDS)
        reading, no_macmon = self._macmon.reading()
        return _Look(
            reading=reading,
            no_macmon=no_macmon or "macmon does not say it on this Mac",
            throttling=None if said is None else parse_pmset(said),
            no_thermal=self._pmset.trouble if said is None else "pmset says nothing of heat",
        )

    def _gpu_sample(self, gpu: DeviceFacts, looked: "_Look", at: datetime) -> DeviceSample:
        limit, reading = gpu.memory_total_bytes or 0, looked.reading
        readings = {
            "memory_total_bytes": limit,
            "memory_used_bytes": self._memory().used_of(limit),
            "compute_utilization_percent": reading.gpu_busy_percent,
            "thermal_temperature_c": reading.gpu_temperature_c,
            "power_watts": reading.gpu_watts,
        }
        return self._sample(GPU, at, looked, readings, {"clock_hertz": reading.gpu_clock_hertz})

    def _cpu_sample(self, looked: "_Look", at: datetime) -> DeviceSample:
        reading = looked.reading
        readings = {"thermal_temperature_c": reading.cpu_temperature_c, "power_watts": reading.cpu_watts}
        return self._sample(CPU, at, looked, readings, {"system_power_watts": reading.system_watts})

    def _sample(
        self,
        device_id: DeviceId,
        at: datetime,
        looked: "_Look",
        readings: Mapping[str, float | None],
        gauges: Mapping[str, float | None],
    ) -> DeviceSample:
        why = {name: looked.no_macmon for name, value in readings.items() if value is None}
        why["thermal_throttle_threshold_c"] = "macOS tells none"
        if looked.throttling is None:
            why["is_thermal_throttling"] = looked.no_thermal
        # Of other reasons than heat pmset knows nothing: that none holds the Mac back is never said.
        reasons = ("software_thermal",) if looked.throttling else None
        why["throttle_reasons"] = "pmset tells of heat alone"
        return credible_sample(
            device_id,
            self._node_id,
            at,
            {**readings, "is_thermal_throttling": looked.throttling, "throttle_reasons": reasons},
            unknown=why,
            gauges={name: value for name, value in gauges.items() if value is not None},
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """What the helpers say at one moment, and why not."""

    reading: MacmonReading
    no_macmon: str
    throttling: bool | None
    no_thermal: str


def _chip_name() -> str | None:
    command = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
