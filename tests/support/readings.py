"""Short ways to say what a device reads, for tests of agents."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shardbus_agents.collector import Sampled, Snapshot, merge
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState

NODE = NodeId("attic")
START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    """Return the moment ``seconds`` after START."""
    return START + timedelta(seconds=seconds)


def state(device_id: str = "cuda-1", **readings: Any) -> DeviceGPUState:
    """Return the readings of a device of NODE; of what is not said, nothing is known."""
    return DeviceGPUState(**{"device_id": DeviceId(device_id), "node_id": NODE, "last_update": START} | readings)


def facts(device_id: str = "cuda-1", **what: Any) -> DeviceFacts:
    """Return what a device is."""
    return DeviceFacts(**{"device_id": DeviceId(device_id)} | what)


def snapshot(*states: DeviceGPUState) -> Snapshot:
    """Return a snapshot in which each device of ``states`` is there and well."""
    return merge([Sampled(tuple(facts(each.device_id) for each in states), states)])
