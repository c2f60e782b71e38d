"""NVIDIA GPUs by NVML. The one file that imports pynvml (from the package nvidia-ml-py), and sees its errors.

Each call is asked of each device on its own: what one cannot answer is unknown, and says nothing of its
neighbours. The semantics are those of NVIDIA's NVML reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pynvml  # pyright: ignore[reportMissingTypeStubs] - the package ships no types
from shardbus_schemas import device_formulas
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.protocol import BackendUnavailableError, DeviceProblem, Reading
from shardbus_agents.backends.table import with_table_facts

_THERMAL_REASONS: Final = 0x20 | 0x40
"""Software and hardware thermal slowdown. 0x4, the power cap, is how a card runs at full load."""

_INTEGRATED_PARTS: Final = ("gb10", "orin", "thor", "xavier", "tegra")
"""Parts without memory of their own. Only on these does "not supported" mean that the host's memory is theirs."""

_GONE: Final = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND)

_ADVICE: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed (libnvidia-ml.so.1 is not there)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded; load it with 'modprobe nvidia'",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated while it was loaded; reboot this host",
    pynvml.NVML_ERROR_UNKNOWN: "the NVIDIA driver gives no reason; if this is a container that has lost its access "
    "to the GPUs (a reload of systemd does that), restart the container",
}


@dataclass(frozen=True, slots=True)
class _Card:
    """One GPU that was seen: the driver's handle, its facts, and where it begins to slow down."""

    handle: Any
    facts: DeviceFacts
    slowdown_c: int | None


class _DeviceGoneError(Exception):
    """The driver says that this device cannot be used. The text is its reason."""


class NvmlBackend:
    """The NVIDIA GPUs of this host. A GPU's id is its uuid; ``cuda:0`` is only a label, for the order may change."""

    name = "nvml"

    def __init__(self, node_id: NodeId, *, memory: Callable[[], HostMemory] = host_memory) -> None:
        self._node_id = node_id
        self._memory = memory
        self._missing: set[str] = set()
        self._cards: dict[int, _Card] = {}
        self._last_ids: dict[int, DeviceId] = {}
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise BackendUnavailableError(_say(error)) from error
        self._open = True
        self._driver = self._ask("nvmlSystemGetDriverVersion")
        self._find_cards()

    def sample(self, at: datetime) -> tuple[Reading, ...]:
        """Return each GPU's readings, or why it has none."""
        problems = self._find_cards()
        readings: list[Reading] = []
        for index, card in list(self._cards.items()):
            try:
                readings.append(self._state(card, at))
            except _DeviceGoneError as error:
                # Its handle is of no more use; it is looked for anew at each tick, and may come back.
                del self._cards[index]
                problems.append(DeviceProblem(card.facts.device_id, str(error)))
        return (*readings, *problems)

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each GPU is that can be used."""
        return tuple(card.facts for _, card in sorted(self._cards.items()))

    def close(self) -> None:
        """Let go of the driver."""
        if self._open:
            self._open = False
            self._cards.clear()
            self._ask("nvmlShutdown")

    def _find_cards(self) -> list[DeviceProblem]:
        """Open the GPUs that are not open yet, forget those beyond the count; return those that cannot be opened."""
        try:
            count = self._call("nvmlDeviceGetCount")
        except pynvml.NVMLError as error:
            self._cards.clear()
            return [DeviceProblem(device_id, _say(error)) for device_id in self._last_ids.values()]
        for index in [index for index in self._last_ids if index >= count]:
            self._cards.pop(index, None)
            del self._last_ids[index]
        problems: list[DeviceProblem] = []
        for index in range(count):
            if index in self._cards:
                continue
            try:
                self._cards[index] = card = self._card(index)
                self._last_ids[index] = card.facts.device_id
            except (pynvml.NVMLError, _DeviceGoneError) as error:
                # One that was lost before it said its uuid has only its place for a name.
                device_id = self._last_ids.get(index, DeviceId(f"cuda:{index}"))
                reason = _say(error) if isinstance(error, pynvml.NVMLError) else str(error)
                problems.append(DeviceProblem(device_id, reason))
        return problems

    def _card(self, index: int) -> _Card:
        handle = self._call("nvmlDeviceGetHandleByIndex", index)
        uuid: str = self._call("nvmlDeviceGetUUID", handle)
        name: str | None = self._ask("nvmlDeviceGetName", handle)
        capability: tuple[int, int] | None = self._ask("nvmlDeviceGetCudaComputeCapability", handle)
        integrated = _is_integrated(name)
        total, _ = self._memory_of(handle, integrated=integrated)
        facts = DeviceFacts(
            device_id=DeviceId(uuid),
            uuid=uuid,
            label=f"cuda:{index}",
            name=name,
            vendor="nvidia",
            architecture=None if capability is None else _architecture(*capability),
            backend="cuda",
            memory_total_bytes=total,
            unified_memory=True if integrated else None if total is None else False,
            driver=self._driver,
            sources={"name": "driver"} if total is None else {"name": "driver", "memory_total_bytes": "driver"},
            reported_by=self.name,
        )
        slowdown = pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        slowdown_c: int | None = self._ask("nvmlDeviceGetTemperatureThreshold", handle, slowdown)
        return _Card(handle, self._with_bandwidth(handle, with_table_facts(facts)), slowdown_c or None)

    def _with_bandwidth(self, handle: Any, facts: DeviceFacts) -> DeviceFacts:
        """Return ``facts`` with the formula's bandwidth where the device table has none."""
        if facts.memory_bandwidth_bytes_per_second is not None:
            return facts
        bus_bits: int | None = self._ask("nvmlDeviceGetMemoryBusWidth", handle)
        clock_mhz: int | None = self._ask("nvmlDeviceGetMaxClockInfo", handle, pynvml.NVML_CLOCK_MEM)
        if not bus_bits or not clock_mhz:
            return facts
        return facts.model_copy(
            update={
                "memory_bandwidth_bytes_per_second": device_formulas.bandwidth(bus_bits, clock_mhz),
                "sources": {**facts.sources, "memory_bandwidth_bytes_per_second": "formula"},
            }
        )

    def _state(self, card: _Card, at: datetime) -> DeviceGPUState:
        handle = card.handle
        failures: list[pynvml.NVMLError] = []
        total, used = self._memory_of(handle, integrated=card.facts.unified_memory is True, failures=failures)
        utilization = self._ask("nvmlDeviceGetUtilizationRates", handle, failures=failures)
        temperature = self._ask("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU, failures=failures)
        reasons = self._reasons(handle, failures)
        if failures and total is None and utilization is None and temperature is None and reasons is None:
            raise _DeviceGoneError(f"answers nothing: {_say(failures[-1])}")
        return DeviceGPUState(
            device_id=card.facts.device_id,
            node_id=self._node_id,
            memory_used_bytes=used,
            memory_total_bytes=total,
            compute_utilization_percent=None if utilization is None else min(100, utilization.gpu),
            thermal_temperature_c=temperature,
            thermal_throttle_threshold_c=card.slowdown_c,
            is_thermal_throttling=None if reasons is None else bool(reasons & _THERMAL_REASONS),
            last_update=at,
        )

    def _reasons(self, handle: Any, failures: list[pynvml.NVMLError]) -> int | None:
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle, failures=failures)
        if reasons is None and "nvmlDeviceGetCurrentClocksEventReasons" in self._missing:
            # Its name before driver 535.
            return self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle, failures=failures)
        return reasons

    def _memory_of(
        self, handle: Any, *, integrated: bool, failures: list[pynvml.NVMLError] | None = None
    ) -> tuple[int | None, int | None]:
        """Return total and used bytes; what the driver reserves for itself counts as used."""
        failed: list[pynvml.NVMLError] = []
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle, failures=failed)
        if failures is not None:
            failures += failed
        if memory is not None and memory.total > 0:
            return memory.total, min(memory.used, memory.total)
        if integrated and not failed:
            host = self._memory()
            return host.total_bytes, host.used_bytes
        return None, None

    def _ask(self, name: str, *arguments: Any, failures: list[pynvml.NVMLError] | None = None) -> Any:
        """Return the answer, or ``None`` for unknown; raise _DeviceGoneError if the driver says the device is gone.

        An error other than "not offered" is added to ``failures``.
        """
        if name in self._missing:
            return None
        try:
            return self._call(name, *arguments)
        except pynvml.NVMLError as error:
            if _code(error) in _GONE:
                raise _DeviceGoneError(_say(error)) from error
            if _code(error) == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                self._missing.add(name)  # an older driver; it will not learn while it is loaded
            elif _code(error) != pynvml.NVML_ERROR_NOT_SUPPORTED and failures is not None:
                failures.append(error)
            return None

    @staticmethod
    def _call(name: str, *arguments: Any) -> Any:
        return getattr(pynvml, name)(*arguments)


def _is_integrated(name: str | None) -> bool:
    return name is not None and any(part in name.lower() for part in _INTEGRATED_PARTS)


def _architecture(major: int, minor: int) -> str:
    return device_formulas.ARCHITECTURES.get(f"{major}.{minor}", f"sm_{major}{minor}")


def _code(error: pynvml.NVMLError) -> int:
    return int(getattr(error, "value", pynvml.NVML_ERROR_UNKNOWN))


def _say(error: pynvml.NVMLError) -> str:
    return _ADVICE.get(_code(error), f"the NVIDIA driver says: {error}")
