"""Errors that the driver tells of, each once. Pure, but for the counts that are remembered."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from shardbus_schemas.ids import DeviceId

from shardbus_agents.backends.nvml.xid import explain
from shardbus_agents.backends.protocol import DeviceFault


class EccWatch:
    """Notices that a GPU counts more uncorrected memory errors than before."""

    def __init__(self) -> None:
        self._counts: dict[DeviceId, int] = {}

    def faults(self, device_id: DeviceId, count: int | None, at: datetime) -> Iterator[DeviceFault]:
        """Yield the fault if ``count`` rose; nobody knows when what was counted before the first look happened."""
        if count is None:
            return
        before = self._counts.get(device_id)
        self._counts[device_id] = count  # a driver that was loaded anew counts from zero
        if before is not None and count > before:
            message = (
                f"{count - before} more uncorrected ECC error(s) in the GPU's memory, {count} since the driver was "
                "loaded; what was computed may be wrong: reset the GPU when it is idle"
            )
            yield DeviceFault(device_id, "ecc", message, at, code=count)


def event_faults(event: Mapping[str, Any], at: datetime) -> Iterator[DeviceFault]:
    """Yield the fault that an event of the driver is, for each device that it is about."""
    match event["event"]:
        case "xid":
            kind, code = "xid", int(event["code"])
            message, is_critical = explain(code)
        case "unavailable":
            kind, code, is_critical = "driver", None, True
            message = "the driver says that the GPU is unavailable: reset it, or reboot this host"
        case "recovery":
            kind, code, is_critical = "driver", None, False
            message = "the driver wants another action taken for the GPU than before: see its health"
        case _:
            return
    for device_id in event["ids"]:
        yield DeviceFault(DeviceId(device_id), kind, message, at, code=code, is_critical=is_critical)
