"""What the agent asks of a source of devices. Above this line nobody sees a vendor's errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import FaultKind
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.telemetry import DeviceGPUState


class BackendUnavailableError(Exception):
    """This host has no such devices, or no driver or library to reach them. The text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class DeviceProblem:
    """A device that was asked and is not usable: it fell off the bus, hangs, or must be reset."""

    device_id: DeviceId
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """An error that the driver told of, once. The device may go on."""

    device_id: DeviceId
    kind: FaultKind
    message: str
    occurred_at: datetime
    code: int | None = None
    is_critical: bool = False


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One device's readings, and what does not go on the bus."""

    state: DeviceGPUState
    unknown: Mapping[str, str] = field(default_factory=dict[str, str])
    """Field of ``state`` that is ``None`` to why."""
    gauges: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further figures for dashboards, by a name that ends in its unit: ``clock_hertz``."""

    @property
    def device_id(self) -> DeviceId:
        """Whose readings these are."""
        return self.state.device_id


Reading = DeviceGPUState | DeviceSample | DeviceProblem | DeviceFault
"""A bare state is a sample about which there is no more to say."""


class Backend(Protocol):
    """One source of devices on this host.

    All calls come from one thread of its own and may block there. A constructor raises BackendUnavailableError
    where there is nothing to report; afterwards no call raises for what one device does. Two backends that
    know the same device give it the same ``device_id``, and the collector makes one device of them.
    """

    @property
    def name(self) -> str:
        """``nvml``, ``mlx``, ``psutil``, ``simulated``: what ``DeviceFacts.reported_by`` says."""
        ...

    def sample(self, at: datetime) -> tuple[Reading, ...]:
        """Return each device's readings, stamped ``at``, or its problem, and the faults since the last call.

        A device that is gone is left out.
        """
        ...

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each usable device is, as of the last ``sample``. Cheap: it is asked after each one."""
        ...

    def close(self) -> None:
        """Let go of the driver. Idempotent."""
        ...
