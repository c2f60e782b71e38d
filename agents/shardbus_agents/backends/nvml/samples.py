"""What the child reads of a GPU, as a sample of it. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import NodeId
from shardbus_schemas.telemetry import Health, ThrottleReason

from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.nvml.words import NOT_SUPPORTED, Failure, why
from shardbus_agents.backends.protocol import DeviceSample

_REASONS: Final[Mapping[int, ThrottleReason]] = {
    0x4: "power_cap",
    0x8: "hardware",
    0x10: "sync_boost",
    0x20: "software_thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
}
"""NVML's bits. 0x1 (idle), 0x2 (clocks set by a person) and 0x100 (display) hold nothing back."""
_THERMAL: Final = 0x20 | 0x40

_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "memory": ("memory_used_bytes", "memory_total_bytes"),
    "utilization": ("compute_utilization_percent",),
    "temperature": ("thermal_temperature_c",),
    "reasons": ("is_thermal_throttling", "throttle_reasons"),
    "power": ("power_watts",),
}
"""The child's name of a reading to ours."""

_GAUGES: Final[Mapping[str, tuple[str, float]]] = {
    "clock_sm": ("clock_sm_hertz", 1e6),
    "clock_memory": ("clock_memory_hertz", 1e6),
    "pstate": ("performance_state", 1),
    "energy": ("energy_joules", 1e-3),
    "margin": ("thermal_margin_celsius", 1),
    "pcie_generation": ("pcie_generation", 1),
    "pcie_width": ("pcie_width", 1),
    "ecc_uncorrected": ("ecc_uncorrected_errors", 1),
    "nvlinks": ("nvlink_active_links", 1),
    "nvlink_errors": ("nvlink_errors", 1),
}
"""The child's name to the gauge's, and what to multiply by."""

_NO_SLICE_UTILIZATION: Final = "NVML tells no utilisation of a MIG slice"
_REMAP_PENDING, _REMAP_FAILED = 2, 3
"""Where NVML's answer about remapped rows has these flags."""

_NO_ACTION: Final = 0
_REBOOT_ACTIONS: Final = frozenset({2, 6, 7})
"""NVML's recovery actions that say that the device cannot be used: reboot of the node, bus reset, system reboot."""


class Slowdown(NamedTuple):
    """Where a GPU begins to slow down, or why nobody knows. It is asked once and held."""

    celsius: float | None = None
    failure: Failure | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Slowdown":
        """Return that of the card that the child tells of, or of the slice's card."""
        card = said.get("card", said)
        return cls(card["values"].get("slowdown"), card["failures"].get("slowdown"))


def device_sample(
    said: Mapping[str, Any], facts: DeviceFacts, slowdown: Slowdown, host: HostMemory, node_id: NodeId, at: datetime
) -> DeviceSample:
    """Return the readings of the device that ``facts`` describe, with the reason for each that is unknown."""
    values: Mapping[str, Any] = said["values"]
    failures: Mapping[str, Failure] = said["failures"]
    unknown = {field: why(failure) for name, failure in failures.items() for field in _FIELDS.get(name, ())}
    total, used, reserved = _memory(values, failures, facts, host)
    reasons: int | None = values.get("reasons")
    power: int | None = values.get("power")
    health = health_of(values)
    if facts.parent_device_id is not None:
        unknown["compute_utilization_percent"] = _NO_SLICE_UTILIZATION
    if slowdown.failure is not None:
        unknown["thermal_throttle_threshold_c"] = why(slowdown.failure)
    if health is None:
        unknown["health"] = "the driver tells of this GPU neither ECC, nor remapped rows, nor what to do for it"
    return credible_sample(
        facts.device_id,
        node_id,
        at,
        {
            "memory_total_bytes": total,
            "memory_used_bytes": used,
            "compute_utilization_percent": values.get("utilization"),
            "thermal_temperature_c": values.get("temperature"),
            "thermal_throttle_threshold_c": slowdown.celsius,
            "is_thermal_throttling": None if reasons is None else bool(reasons & _THERMAL),
            "throttle_reasons": None if reasons is None else throttle_reasons(reasons),
            "power_watts": None if power is None else power / 1000,
            "health": health,
        },
        unknown=unknown,
        gauges=_gauges(values, reserved, said["seconds"]),
    )


def throttle_reasons(bits: int) -> tuple[ThrottleReason, ...]:
    """Return what holds the clocks down, of NVML's clock event reasons."""
    return tuple(reason for bit, reason in _REASONS.items() if bits & bit)


def health_of(values: Mapping[str, Any]) -> Health | None:
    """Return the health; ``None`` where the driver tells of nothing that it follows from."""
    ecc, rows, action = (values.get(name) for name in ("ecc_uncorrected", "remapped_rows", "recovery_action"))
    if ecc is None and rows is None and action is None:
        return None
    if action in _REBOOT_ACTIONS or (rows is not None and rows[_REMAP_FAILED]):
        return "failed"
    worn = bool(ecc) or (rows is not None and rows[_REMAP_PENDING]) or action not in (None, _NO_ACTION)
    return "degraded" if worn else "ok"


def _memory(
    values: Mapping[str, Any], failures: Mapping[str, Failure], facts: DeviceFacts, host: HostMemory
) -> tuple[int | None, int | None, int | None]:
    """Return total, used and reserved bytes. What the driver keeps for itself is used: nobody else can have it."""
    memory = values.get("memory")
    if memory is not None:
        total, used, reserved = memory
        return total, used + (reserved or 0), reserved
    if facts.unified_memory and failures.get("memory", (0,))[0] == NOT_SUPPORTED:
        return host.total_bytes, host.used_bytes, None
    return None, None, None


def _gauges(values: Mapping[str, Any], reserved: int | None, seconds: float) -> dict[str, float]:
    gauges = {gauge: values[name] * factor for name, (gauge, factor) in _GAUGES.items() if name in values}
    if reserved is not None:
        gauges["memory_reserved_bytes"] = reserved
    if (rows := values.get("remapped_rows")) is not None:
        gauges["remapped_rows"] = rows[0] + rows[1]
    return gauges | {"driver_seconds": seconds}
