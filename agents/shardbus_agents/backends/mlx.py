"""MLX's own view of its devices, asked in a short-lived process of its own: see ``mlx_child``.

MLX knows what a device is and how much it may hold, never how busy it is: its memory counters are of its own
process. So it adds facts to devices that others sample, except on Metal, where it knows the limit:

- **Metal**: the GPU's capacity is the recommended working set, because wiring more has brought Macs down; it shares
  the host's memory, so what the host has left bounds what is left of that.
- **CUDA build**: the GPU has the uuid that NVML gives it, so the two backends' facts meet in one device; NVML
  knows its load.
- **CPU**: facts of the device ``cpu``, which ``host.py`` samples: that it is ``psutil+mlx`` says MLX runs there.

It also carries what ``shardbus agent --measure`` found on a device, for as long as it is the same device, driver and
MLX.
"""

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from shardbus_schemas.devices import DeviceFacts, FactSource
from shardbus_schemas.ids import DeviceId, NodeId

from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.mlx_child import MlxCore, describe
from shardbus_agents.backends.protocol import BackendUnavailableError, DeviceSample
from shardbus_agents.backends.table import unknown_figures, with_table_facts
from shardbus_agents.benchmarks import BenchmarkFile, fingerprint

_DEADLINE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class MlxDevice:
    """A device that MLX can compute on."""

    runtime: str
    """``metal``, ``cuda`` or ``cpu``."""
    index: int
    facts: DeviceFacts
    fingerprint: str
    """What a measurement of it holds for."""


class MlxBackend:
    """The devices that MLX on this host can compute on."""

    name = "mlx"

    def __init__(
        self,
        node_id: NodeId,
        *,
        core: MlxCore | None = None,
        memory: Callable[[], HostMemory] = host_memory,
        benchmarks: BenchmarkFile | None = None,
    ) -> None:
        self._node_id = node_id
        self._memory = memory
        self._benchmarks = benchmarks
        self._devices = mlx_devices(core)

    def sample(self, at: datetime) -> tuple[DeviceSample, ...]:
        """Return what is left for Metal devices; of others MLX knows no load."""
        return tuple(self._metal(device.facts, at) for device in self._devices if device.runtime == "metal")

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each device is, with its newest measurement: one may be made while the agent runs."""
        return tuple(self._measured(device) for device in self._devices)

    def close(self) -> None:
        """Nothing is held."""

    def _measured(self, device: MlxDevice) -> DeviceFacts:
        benchmark = None if self._benchmarks is None else self._benchmarks.find(device.fingerprint)
        return device.facts if benchmark is None else device.facts.model_copy(update={"benchmark": benchmark})

    def _metal(self, device: DeviceFacts, at: datetime) -> DeviceSample:
        limit = device.memory_total_bytes
        used = None if limit is None else self._memory().used_of(limit)
        readings = {"memory_used_bytes": used, "memory_total_bytes": limit}
        return credible_sample(device.device_id, self._node_id, at, readings)


def mlx_devices(core: MlxCore | None = None) -> tuple[MlxDevice, ...]:
    """Return the devices that MLX (``core``, or a child process with the real one) can compute on.

    Raises BackendUnavailableError.
    """
    try:
        said = ask_child("describe") if core is None else describe(core)
    except (RuntimeError, ValueError, OSError) as error:
        raise BackendUnavailableError(f"mlx cannot say what its devices are: {error}") from error
    version = str(said.get("mlx", ""))
    found = tuple(_device(device, version) for device in cast("list[dict[str, Any]]", said.get("devices", [])))
    if not found:
        raise BackendUnavailableError("mlx is installed, but finds no device")
    return found


def ask_child(*arguments: str, deadline_seconds: float = _DEADLINE_SECONDS) -> dict[str, Any]:
    """Return what the child process answers; raises BackendUnavailableError, in words, when it does not.

    It may crash (a wheel for another processor), hang (a driver), or not find its libraries.
    """
    if importlib.util.find_spec("mlx") is None:
        raise BackendUnavailableError("mlx is not installed; pip install 'shardbus[agent]'")
    # -P: not the working directory's mlx.py.
    command = [sys.executable, "-P", "-m", "shardbus_agents.backends.mlx_child", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BackendUnavailableError(f"mlx gave no answer within {deadline_seconds:g} s") from error
    except OSError as error:
        raise BackendUnavailableError(f"mlx cannot be asked: {error}") from error
    if done.returncode:
        raise BackendUnavailableError(f"mlx cannot be used here: {_ending(done)}")
    try:
        answer: object = json.loads(done.stdout.decode("utf-8", errors="replace").splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise BackendUnavailableError("mlx cannot be used here: it gave no answer") from error
    said = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    if not said or "error" in said:
        raise BackendUnavailableError(f"mlx cannot be used here: {said.get('error', 'it gave no answer')}")
    return said


def _ending(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        try:
            name = signal.Signals(-done.returncode).name
        except ValueError:
            name = f"signal {-done.returncode}"
        return f"importing or asking it ended the process with {name}; this wheel may be for another processor"
    last = done.stderr.decode("utf-8", errors="replace").strip().splitlines()[-1:]
    return last[0] if last else f"its process ended with {done.returncode}"


def _device(said: Mapping[str, Any], version: str) -> MlxDevice:
    runtime, index = str(said["runtime"]), int(said["index"])
    information = cast("dict[str, str | int]", said["info"])
    facts = _FACTS[runtime](information, index)
    driver = said.get("driver")
    mark = fingerprint(facts.device_id, facts.name, driver if isinstance(driver, str) else None, version)
    return MlxDevice(runtime, index, facts, mark)


def _cpu_facts(information: Mapping[str, str | int], index: int) -> DeviceFacts:  # noqa: ARG001 - as the others
    return DeviceFacts(
        device_id=DeviceId("cpu"),
        name=_text(information, "device_name"),
        architecture=_text(information, "architecture"),
        backend="cpu",
        reported_by="mlx",
    )


def _metal_facts(information: Mapping[str, str | int], index: int) -> DeviceFacts:
    label = f"metal:{index}"
    # A chip is sold with whole memory sizes: that, not the working set, tells parts of one name apart.
    facts = with_table_facts(
        DeviceFacts(
            device_id=DeviceId(label),  # a Mac has one GPU, soldered on, and Metal gives it no uuid
            label=label,
            name=_text(information, "device_name"),
            vendor="apple",
            architecture=_text(information, "architecture"),
            backend="metal",
            memory_total_bytes=_size(information, "memory_size"),
            unified_memory=True,
            sources=_SOURCES,
            reported_by="mlx",
        )
    )
    working_set = _size(information, "max_recommended_working_set_size")
    return facts.model_copy(update={"memory_total_bytes": working_set, "unknown": unknown_figures(facts)})


def _cuda_facts(information: Mapping[str, str | int], index: int) -> DeviceFacts:
    label = f"cuda:{index}"
    uuid = _text(information, "uuid")
    facts = with_table_facts(
        DeviceFacts(
            device_id=DeviceId(uuid or label),
            uuid=uuid,
            label=label,
            name=_text(information, "device_name"),
            vendor="nvidia",
            architecture=_text(information, "architecture"),
            backend="cuda",
            memory_total_bytes=_size(information, "total_memory"),
            sources=_SOURCES,
            reported_by="mlx",
        )
    )
    return facts.model_copy(update={"unknown": unknown_figures(facts)})


_SOURCES: Final[dict[str, FactSource]] = {
    "name": "driver",
    "vendor": "driver",
    "architecture": "driver",
    "backend": "driver",
    "memory_total_bytes": "driver",
}

_FACTS: Final[Mapping[str, Callable[[Mapping[str, str | int], int], DeviceFacts]]] = {
    "cpu": _cpu_facts,
    "metal": _metal_facts,
    "cuda": _cuda_facts,
}


def _text(information: Mapping[str, str | int], key: str) -> str | None:
    value = information.get(key)
    return value.strip() or None if isinstance(value, str) else None


def _size(information: Mapping[str, str | int], key: str) -> int | None:
    value = information.get(key)
    return value if isinstance(value, int) and value > 0 else None
