"""What a driver says, held against what can be: nonsense becomes unknown, with the driver's words as the reason.

Drivers do answer 4000 °C, NaN, or more memory used than there is. Such a figure must neither reach the bus nor take
the device's other readings with it.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.backends.protocol import DeviceSample

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "memory_used_bytes": (0, 2**62),
    "memory_total_bytes": (1, 2**62),
    "compute_utilization_percent": (0, 100),
    "thermal_temperature_c": (-100, 150),
    "thermal_throttle_threshold_c": (0, 150),
    "power_watts": (0, 10_000),
    "battery_percent": (0, 100),
}
"""The silicon of no device works beyond these; 0 °C to 150 °C is what sensors of processors can say at all."""


def credible_sample(
    device_id: DeviceId,
    node_id: NodeId,
    at: datetime,
    readings: Mapping[str, Any],
    *,
    unknown: Mapping[str, str] | None = None,
    gauges: Mapping[str, float] | None = None,
) -> DeviceSample:
    """Return ``readings`` (fields of DeviceGPUState) as a sample; what cannot be true is unknown, and said so.

    ``unknown`` has the reasons for what the driver did not answer; ``gauges`` that are no finite numbers are left out.
    """
    known: dict[str, Any] = {}
    why = dict(unknown or {})
    for name, value in readings.items():
        if value is None:
            continue
        if (problem := _problem(name, value)) is None:
            known[name] = value
        else:
            why[name] = problem
    used, total = known.get("memory_used_bytes"), known.get("memory_total_bytes")
    if used is not None and total is not None and used > total:
        del known["memory_used_bytes"]
        why["memory_used_bytes"] = f"the driver says {used} bytes, which is more than the total of {total}"
    state = DeviceGPUState(device_id=device_id, node_id=node_id, last_update=at, **known)
    finite = {name: value for name, value in (gauges or {}).items() if math.isfinite(value)}
    return DeviceSample(state, {name: reason for name, reason in why.items() if name not in known}, finite)


def _problem(name: str, value: Any) -> str | None:
    bounds = _RANGES.get(name)
    if bounds is None or bounds[0] <= value <= bounds[1]:  # NaN is within no bounds
        return None
    return f"the driver says {value}, which cannot be"
