"""What a device does: the readings that change from second to second."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shardbus_schemas.ids import DeviceId, DeviceKey, NodeId
from shardbus_schemas.model import Bytes, FrozenModel, Percent, UtcDatetime

ThrottleReason = Literal["power_cap", "hardware", "sync_boost", "software_thermal", "hardware_thermal", "power_brake"]
"""Why a device runs below its clocks. ``power_cap`` is how a card runs at full load."""

Health = Literal["ok", "degraded", "failed"]
"""OpenTelemetry's ``hw.state``: ``degraded`` still computes, but something of it is worn or must be reset soon."""

TemperatureCelsius = Annotated[float, Field(ge=-100, le=300)]


class DeviceGPUState(FrozenModel):
    """One device's readings at one moment. A reading the hardware does not offer is ``None``: unknown."""

    device_id: DeviceId
    """Stable within its node."""
    node_id: NodeId
    memory_used_bytes: Bytes | None = None
    memory_total_bytes: Bytes | None = None
    compute_utilization_percent: Percent | None = None
    """As agents tell it, a mean that follows the load within a minute; so are the temperature and the power."""
    thermal_temperature_c: TemperatureCelsius | None = None
    thermal_throttle_threshold_c: TemperatureCelsius | None = None
    """Where this device begins to slow down."""
    is_thermal_throttling: bool | None = None
    throttle_reasons: tuple[ThrottleReason, ...] | None = None
    """All that hold it back now; ``()`` is none."""
    power_watts: Annotated[float, Field(ge=0)] | None = None
    health: Health | None = None
    utilization_mean_percent: Percent | None = None
    """Of the samples since the last full report; told in full reports alone."""
    utilization_peak_percent: Percent | None = None
    """Likewise the highest."""
    battery_percent: Percent | None = None
    """The host's battery; ``None`` where there is none."""
    is_plugged_in: bool | None = None
    last_update: UtcDatetime
    """When the readings were taken, by the node's own clock."""

    @model_validator(mode="after")
    def _used_fits_in_total(self) -> Self:
        used, total = self.memory_used_bytes, self.memory_total_bytes
        if used is not None and total is not None and used > total:
            raise ValueError(f"memory_used_bytes {used} is more than memory_total_bytes {total} on {self.key}")
        return self

    @property
    def key(self) -> DeviceKey:
        """The fleet-wide name of this device."""
        return DeviceKey.of(self.node_id, self.device_id)
