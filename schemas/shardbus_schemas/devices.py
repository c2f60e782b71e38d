"""What a device is: the facts that are announced once, and again only when they change."""

from typing import Annotated, Literal

from pydantic import Field

from shardbus_schemas.ids import DeviceId, ModelId
from shardbus_schemas.model import Bytes, FrozenModel, PositiveRate, Seconds, UtcDatetime

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


class Benchmark(FrozenModel):
    """What a short measurement on the device itself found. It replaces the table's figures, which are peaks."""

    measured_at: UtcDatetime
    method: str
    """What ran, for people: ``mlx 0.30 sum of 256 MiB, matmul 2048``."""
    memory_bandwidth_bytes_per_second: PositiveRate | None = None
    flops: dict[str, PositiveRate] = {}
    """Operations per second by dtype."""
    runs: Annotated[int, Field(ge=1)] = 1
    """The best of so many counts."""
    spread: Annotated[float, Field(ge=0)] | None = None
    """(best - worst) / best of the runs' bandwidths."""


PeerPathKind = Literal["internal", "nvlink", "pcie_switch", "pcie_switches", "host_bridge", "numa_node", "system"]
"""What the way between two devices of a node passes, from near to far: NVML's names for it."""


class PeerPath(FrozenModel):
    """The way from a device to another one of its node."""

    device_id: DeviceId
    """The other one."""
    kind: PeerPathKind
    links: Annotated[int, Field(ge=1)] | None = None
    """NVLinks between the two, or to the switch that connects them."""
    peer_to_peer: bool | None = None
    """Whether one can read the other's memory without the host."""
    bandwidth_bytes_per_second: PositiveRate | None = None
    """In this direction, by the links' generation and width."""


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
    parent_device_id: DeviceId | None = None
    """The card that this is a slice of (MIG)."""
    partition: str | None = None
    """The slice's profile, such as ``1g.10gb``."""
    pci_address: str | None = None
    """Domain, bus, device and function: ``0000:65:00.0``."""
    pcie_generation: Annotated[int, Field(ge=1)] | None = None
    """The highest that device and slot both can; idle devices run slower."""
    pcie_width: Annotated[int, Field(ge=1)] | None = None
    """Lanes."""
    power_limit_watts: PositiveRate | None = None
    peers: tuple[PeerPath, ...] = ()
    """The ways to the other devices of its node, as far as the driver tells them."""
    benchmark: Benchmark | None = None
    unknown: dict[str, str] = {}
    """Field name to why it is unknown, where that is known: what the driver said when it was asked."""
    measured: tuple[MeasuredSpeed, ...] = ()
    sources: dict[str, FactSource] = {}
    """Field name to where its figure comes from."""
    reported_by: str | None = None
    """The agent backend that found it: ``nvml``, ``mlx``, ``psutil``, ``simulated``."""


class LinkFigures(FrozenModel):
    """What a path carries, in one direction."""

    bandwidth_bytes_per_second: PositiveRate
    latency_seconds: Seconds
