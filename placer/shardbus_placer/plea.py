"""A request that may be changed: what is asked of which fleet, and whether any plan answers it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest

from shardbus_placer import capacity
from shardbus_placer.policy import Policy

SecondsLeft = Callable[[], float]


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


Fits = Callable[[Plea], bool]
"""Whether a plan was found in the time that there is."""


def largest(fits: Callable[[int], bool], low: int, high: int, step: int = 1) -> int:
    """Return the largest multiple of ``step`` from ``low`` on and below ``high`` that fits; ``low`` is known to."""
    best, above = low // step, -(-high // step)
    while above - best > 1:
        middle = (best + above) // 2
        best, above = (middle, above) if fits(middle * step) else (best, middle)
    return max(low, best * step)


def smallest(fits: Callable[[int], bool], low: int, high: int, within: int = 1) -> int:
    """Return the smallest number above ``low`` that fits, to ``within``; ``high`` is known to fit, ``low`` not to."""
    while high - low > within:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
