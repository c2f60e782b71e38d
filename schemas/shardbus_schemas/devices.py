"""What a device is: the facts that are announced once, and again only when they change."""

from typing import Literal

from shardbus_schemas.ids import DeviceId, ModelId
from shardbus_schemas.model import Bytes, FrozenModel, PositiveRate, Seconds

Backend = Literal["cuda", "metal", "rocm", "xpu", "vulkan", "npu", "cpu"]
"""Which kind of runtime can use the device."""

FactSource = Literal["driver", "table", "formula", "measured", "declared"]
"""Where a figure comes from: the driver, the device table, a formula, a measurement, or a person's file."""


class MeasuredSpeed(FrozenModel):
    """How fast one device really ran one model. It beats every formula."""

    model_id: ModelId
    seconds_per_layer: Seconds | None = None
    """Decode time of one layer for one token, batch 1."""
    tokens_per_second_by_layers: tuple[PositiveRate, ...] | None = None
    """Element k-1 is the token rate when the device holds k layers; not always monotone."""


class DeviceFacts(FrozenModel):
    """What a device is. Everything but its id may be unknown, and unknown is ``None``."""

    device_id: DeviceId
    uuid: str | None = None
    label: str | None = None
    """The runtime's own index, for people: ``cuda:0``. Never an identity."""
    name: str | None = None
    vendor: str | None = None
    architecture: str | None = None
    backend: Backend | None = None
    memory_total_bytes: Bytes | None = None
    unified_memory: bool | None = None
    """Whether the device shares the host's memory."""
    memory_bandwidth_bytes_per_second: PositiveRate | None = None
    peak_flops: dict[str, PositiveRate] = {}
    """Dense operations per second by dtype, such as ``{"float16": 71e12}``."""
    dtypes: tuple[str, ...] | None = None
    """The dtypes it can compute in, such as ``("float16", "float32")``; ``None``: unknown, any is tried."""
    driver: str | None = None
    measured: tuple[MeasuredSpeed, ...] = ()
    sources: dict[str, FactSource] = {}
    """Field name to where its figure comes from."""
    reported_by: str | None = None
    """The agent backend that found it: ``nvml``, ``mlx``, ``psutil``, ``simulated``."""


class LinkFigures(FrozenModel):
    """What a path carries, in one direction."""

    bandwidth_bytes_per_second: PositiveRate
    latency_seconds: Seconds
