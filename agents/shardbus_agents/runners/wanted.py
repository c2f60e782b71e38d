"""Which shards the placers want on which device: a fold of the decisions' ledger, as far as a runner needs it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from shardbus_schemas.events import (
    InstanceDeleted,
    InstanceLost,
    InstancePending,
    InstancePlaced,
    InstanceReplaced,
)
from shardbus_schemas.ids import InstanceId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import Placed

from shardbus_agents.runners.shards import ShardKey


@dataclass(frozen=True, slots=True)
class Order:
    """What one device is to run of an instance."""

    layers: tuple[int, int]
    """The first, and one past the last."""
    memory_bytes: int
    sequence: int
    """Of the decision."""


class Wanted:
    """The orders of every node as of the last decision that was taken in."""

    def __init__(self) -> None:
        self._orders: dict[NodeId, dict[ShardKey, Order]] = defaultdict(dict)
        self._where: dict[InstanceId, tuple[tuple[NodeId, ShardKey], ...]] = {}

    def take(self, message: FrozenModel, sequence: int) -> None:
        """Take in what is at ``sequence`` of the ledger."""
        match message:
            case InstancePlaced() | InstanceReplaced():
                self._withdraw(message.instance_id)
                self._order(message.instance_id, message.plan, sequence)
            case InstancePending() | InstanceDeleted() | InstanceLost():
                self._withdraw(message.instance_id)
            case _:
                pass

    def on(self, node_id: NodeId) -> Mapping[ShardKey, Order]:
        """Return what a node is to run."""
        return self._orders.get(node_id, {})

    def _order(self, instance_id: InstanceId, plan: Placed, sequence: int) -> None:
        where: list[tuple[NodeId, ShardKey]] = []
        for device, count in plan.memory_by_device.items():
            stages = [stage for stage in plan.stages if device in stage.devices]
            layers = min(stage.start_layer for stage in stages), max(stage.end_layer for stage in stages)
            key = instance_id, device.device_id
            self._orders[device.node_id][key] = Order(layers, count, sequence)
            where.append((device.node_id, key))
        self._where[instance_id] = tuple(where)

    def _withdraw(self, instance_id: InstanceId) -> None:
        for node_id, key in self._where.pop(instance_id, ()):
            del self._orders[node_id][key]
