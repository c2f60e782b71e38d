"""Devices as they are sold, by the device table's names, with readings as one sees them.

What a kind is follows the table; what is in use, how busy, how warm and on which power it is, is drawn.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal

from shardbus_schemas.device_table import complete
from shardbus_schemas.devices import Backend
from shardbus_schemas.fleet import FleetDevice

GIB = 1 << 30
MIB = 1 << 20

Host = Literal["card", "mac", "processor", "laptop", "phone"]
"""What the device sits in: it decides how much of its memory others use, and whether there is a battery."""

_USED: dict[Host, tuple[float, float]] = {
    "card": (0.01, 0.05),
    # The system's own, and what Metal leaves unwired.
    "mac": (0.25, 0.40),
    "processor": (0.10, 0.30),
    "laptop": (0.30, 0.50),
    "phone": (0.45, 0.65),
}
_THRESHOLD: dict[Host, float] = {"card": 83.0, "mac": 100.0, "processor": 95.0, "laptop": 92.0, "phone": 45.0}
_IDLE_C: dict[Host, tuple[int, int]] = {
    "card": (28, 48),
    "mac": (32, 50),
    "processor": (35, 55),
    "laptop": (38, 60),
    "phone": (28, 36),
}
_WORKING_C: dict[Host, tuple[int, int]] = {
    "card": (55, 86),
    "mac": (60, 95),
    "processor": (60, 96),
    "laptop": (70, 96),
    "phone": (37, 47),
}


@dataclass(frozen=True)
class Kind:
    """One part as sold."""

    name: str
    memory_gib: int
    host: Host = "card"
    backend: Backend | None = None
    """Only where the table leaves it to the owner."""
    bandwidth: float | None = None
    """Likewise: of a host's processor, by the memory that is in its sockets."""


def device(kind: Kind, device_id: str, draw: Random, *, busy: float = 0.15) -> FleetDevice:
    """Return one device of ``kind``; with probability ``busy`` somebody else works on it."""
    total = kind.memory_gib * GIB
    low, high = _USED[kind.host]
    used = draw.uniform(low, high)
    working = draw.random() < busy
    if working:
        used = min(0.9, used + draw.uniform(0.05, 0.45))
    temperature = draw.randint(*(_WORKING_C if working else _IDLE_C)[kind.host])
    has_battery = kind.host in {"laptop", "phone"}
    plugged_in = draw.random() < 0.6 if has_battery else None
    return complete(
        FleetDevice(
            device_id=device_id,
            name=kind.name,
            backend=kind.backend,
            memory_total_bytes=total,
            memory_bandwidth_bytes_per_second=kind.bandwidth,
            # A driver counts in pages, so two devices never show exactly the same.
            memory_used_bytes=int(used * total) // MIB * MIB,
            compute_utilization_percent=float(draw.randint(5, 90)) if working else 0.0,
            thermal_temperature_c=float(temperature),
            thermal_throttle_threshold_c=_THRESHOLD[kind.host],
            is_thermal_throttling=temperature >= _THRESHOLD[kind.host],
            battery_percent=float(draw.randint(8, 100)) if has_battery else None,
            is_plugged_in=plugged_in,
        )
    )


def idle(kind: Kind, device_id: str) -> FleetDevice:
    """Return a device of ``kind`` on which nobody works: all of one kind then read the same."""
    return device(kind, device_id, Random(kind.name), busy=0.0)


RTX_3060 = Kind("GeForce RTX 3060 12GB", 12)
RTX_3070 = Kind("GeForce RTX 3070", 8)
RTX_3090 = Kind("GeForce RTX 3090", 24)
RTX_4060_TI = Kind("GeForce RTX 4060 Ti", 16)
RTX_4080 = Kind("GeForce RTX 4080", 16)
RTX_4090 = Kind("GeForce RTX 4090", 24)
RTX_5090 = Kind("GeForce RTX 5090", 32)
RX_7900_XTX = Kind("Radeon RX 7900 XTX", 24)
A4000 = Kind("RTX A4000", 16)
A6000 = Kind("RTX A6000", 48)
T4 = Kind("Tesla T4", 16)
L4 = Kind("L4", 24)
A10 = Kind("A10", 24)
L40S = Kind("L40S", 48)
V100 = Kind("Tesla V100 SXM2", 32)
A100_40 = Kind("A100 40GB (SXM4/PCIe)", 40)
A100 = Kind("A100 80GB SXM4", 80)
H100 = Kind("H100 SXM5 80GB", 80)
MI300X = Kind("Instinct MI300X", 192)
SPARK = Kind("GB10 (DGX Spark)", 119, "mac")
MAC_MINI = Kind("Apple M4 Pro", 48, "mac")
MAC_STUDIO = Kind("Apple M2 Ultra", 128, "mac")
MAC_STUDIO_MAX = Kind("Apple M1 Max", 64, "mac")
MACBOOK = Kind("Apple M3 Pro", 36, "laptop")
MACBOOK_AIR = Kind("Apple M2", 16, "laptop")
COPILOT_LAPTOP = Kind("Snapdragon X Elite X1E-84", 32, "laptop", backend="cpu")
IPHONE = Kind("Apple A18 Pro", 8, "phone")
ANDROID = Kind("Snapdragon 8 Elite (Adreno 830)", 16, "phone", backend="vulkan")
OLD_ANDROID = Kind("Snapdragon 8 Gen 2 (Adreno 740)", 12, "phone", backend="vulkan")
DESKTOP_CPU = Kind("x86-64 desktop, DDR5-5600 x2", 64, "processor", backend="cpu", bandwidth=89.6e9)
SERVER_CPU = Kind("EPYC 9004, DDR5-4800 x12", 384, "processor", backend="cpu", bandwidth=460.8e9)
