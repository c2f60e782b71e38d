"""A request that may be changed: what is asked of which fleet, and whether any plan answers it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

from shardbus_placer import capacity
from shardbus_placer.policy import Policy


@dataclass(frozen=True)
class Plea:
    """A fleet, a model and a request."""

    fleet: Fleet
    model: ModelProfile
    request: PlacementRequest
    policy: Policy

    def asking(self, **changes: object) -> "Plea":
        """Return the plea with the request changed."""
        return replace(self, request=self.request.model_copy(update=changes))

    def of_model(self, model: ModelProfile) -> "Plea":
        """Return the plea for another model."""
        request = self.request.model_copy(update={"model": None, "model_id": model.model_id})
        return replace(self, model=model, request=request)

    def with_more(self, key: DeviceKey, count: int) -> "Plea":
        """Return the plea on a fleet where so many bytes more are free on a device.

        Bytes beyond those in use are counted as use below zero: its total, and all that depends on it, stays.
        """

        def freed(device: FleetDevice) -> FleetDevice:
            used = capacity.used_bytes(device, self.policy) - count
            return device.model_copy(update={"memory_used_bytes": used})

        return self.on_nodes(
            lambda node_id, devices: tuple(
                freed(device) if DeviceKey.of(node_id, device.device_id) == key else device for device in devices
            )
        )

    def with_device(self, node: str, device: FleetDevice) -> "Plea":
        """Return the plea on a fleet with one device more."""
        return self.on_nodes(lambda node_id, devices: (*devices, device) if node_id == node else devices)

    def on_nodes(self, change: Callable[[str, tuple[FleetDevice, ...]], tuple[FleetDevice, ...]]) -> "Plea":
        """Return the plea on a fleet where each node has the devices that ``change`` makes of its own."""
        nodes = tuple(
            node.model_copy(update={"devices": change(node.node_id, node.devices)}) for node in self.fleet.nodes
        )
        return replace(self, fleet=self.fleet.model_copy(update={"nodes": nodes}))
