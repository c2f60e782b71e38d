"""MLX's own view of its devices. The one file that imports mlx.

MLX knows what a device is and how much it may hold, never how busy it is: its memory counters are of its own
process. So it adds facts to devices that others sample, except on Metal, where nobody else is:

- **Metal**: the GPU is a device of its own. Its capacity is the recommended working set, because wiring more has
  brought Macs down; it shares the host's memory, so what the host has left bounds what is left of that.
- **CUDA build**: the GPU has the uuid that NVML gives it, so the two backends' facts meet in one device; NVML
  knows its load.
- **CPU**: facts of the device ``cpu``, which ``host.py`` samples: that it is ``psutil+mlx`` says MLX runs there.
"""

import importlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol, cast

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.protocol import BackendUnavailableError
from shardbus_agents.backends.table import with_table_facts


class MlxCore(Protocol):
    """The part of ``mlx.core`` that says what the devices are."""

    cpu: Any
    gpu: Any
    metal: Any
    cuda: Any

    def Device(self, kind: Any, index: int) -> Any:  # noqa: N802 - the library's name for it
        """Return one device."""
        ...

    def device_count(self, kind: Any) -> int:
        """Return how many devices of a kind there are."""
        ...

    def device_info(self, device: Any) -> Mapping[str, str | int]:
        """Return what MLX knows of a device."""
        ...


class MlxBackend:
    """The devices that MLX on this host can compute on."""

    name = "mlx"

    def __init__(
        self,
        node_id: NodeId,
        *,
        core: MlxCore | None = None,
        memory: Callable[[], HostMemory] = host_memory,
    ) -> None:
        self._node_id = node_id
        self._memory = memory
        try:
            self._devices = _discover(core or _load())
        except (RuntimeError, ValueError, OSError) as error:
            raise BackendUnavailableError(f"mlx cannot say what its devices are: {error}") from error
        if not self._devices:
            raise BackendUnavailableError("mlx is installed, but finds no device")

    def sample(self, at: datetime) -> tuple[DeviceGPUState, ...]:
        """Return what is left for Metal devices; of others MLX knows no load."""
        return tuple(self._metal_state(device, at) for device in self._devices if device.backend == "metal")

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each device is; it does not change while the process lives."""
        return self._devices

    def close(self) -> None:
        """Nothing is held."""

    def _metal_state(self, device: DeviceFacts, at: datetime) -> DeviceGPUState:
        limit = device.memory_total_bytes
        left = self._memory().available_bytes
        return DeviceGPUState(
            device_id=device.device_id,
            node_id=self._node_id,
            memory_used_bytes=None if limit is None else max(0, limit - left),
            memory_total_bytes=limit,
            last_update=at,
        )


def _load() -> MlxCore:
    try:
        return cast("MlxCore", cast("object", importlib.import_module("mlx.core")))
    except ImportError as error:
        # Also a library of the wheel that this host cannot load, such as libmlx.so without its BLAS.
        raise BackendUnavailableError(f"mlx cannot be imported ({error}); pip install 'shardbus[agent]'") from error


def _discover(core: MlxCore) -> tuple[DeviceFacts, ...]:
    devices: list[DeviceFacts] = []
    for kind in (core.gpu, core.cpu):
        for index in range(core.device_count(kind)):
            information = core.device_info(core.Device(kind, index))
            if kind == core.cpu:
                devices.append(_cpu_facts(information))
            elif core.metal.is_available():
                devices.append(_metal_facts(information, index))
            elif core.cuda.is_available():
                devices.append(_cuda_facts(information, index))
    return tuple(devices)


def _cpu_facts(information: Mapping[str, str | int]) -> DeviceFacts:
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
    facts = DeviceFacts(
        device_id=DeviceId(label),  # a Mac has one GPU, soldered on, and Metal gives it no uuid
        label=label,
        name=_text(information, "device_name"),
        vendor="apple",
        architecture=_text(information, "architecture"),
        backend="metal",
        memory_total_bytes=_size(information, "memory_size"),
        unified_memory=True,
        sources={"name": "driver", "memory_total_bytes": "driver"},
        reported_by="mlx",
    )
    working_set = _size(information, "max_recommended_working_set_size")
    return with_table_facts(facts).model_copy(update={"memory_total_bytes": working_set})


def _cuda_facts(information: Mapping[str, str | int], index: int) -> DeviceFacts:
    uuid, label = _text(information, "uuid"), f"cuda:{index}"
    facts = DeviceFacts(
        device_id=DeviceId(uuid or label),
        uuid=uuid,
        label=label,
        name=_text(information, "device_name"),
        vendor="nvidia",
        architecture=_text(information, "architecture"),
        backend="cuda",
        memory_total_bytes=_size(information, "total_memory"),
        sources={"name": "driver", "memory_total_bytes": "driver"},
        reported_by="mlx",
    )
    return with_table_facts(facts)


def _text(information: Mapping[str, str | int], key: str) -> str | None:
    value = information.get(key)
    return value.strip() or None if isinstance(value, str) else None


def _size(information: Mapping[str, str | int], key: str) -> int | None:
    value = information.get(key)
    return value if isinstance(value, int) and value > 0 else None
