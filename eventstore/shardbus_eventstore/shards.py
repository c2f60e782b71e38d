"""What runtimes say of the shards of a plan. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import Stage

from shardbus_eventstore.state import InstanceRecord, ShardRecord


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One device's part of an instance's plan, and the last that its runtime said of it."""

    stage: int
    device: DeviceKey
    planned: Stage
    told: ShardRecord | None

    @property
    def state(self) -> str:
        """``wanted`` until a runtime says ``loading``, ``ready``, ``failed`` or ``stopped``."""
        return "wanted" if self.told is None else self.told.report.state


def planned_shards(record: InstanceRecord) -> Iterator[PlannedShard]:
    """Yield the shards of the plan, in its order; none while the instance has no place."""
    if record.status != "placed" or record.plan is None:
        return
    for index, stage in enumerate(record.plan.stages):
        for device in dict.fromkeys(stage.devices):  # a foreign plan may name a device twice
            yield PlannedShard(index, device, stage, _of(stage, record.shards.get(device)))


def _of(stage: Stage, told: ShardRecord | None) -> ShardRecord | None:
    """Return ``told``, unless that is of other layers: what an earlier plan put there is not this shard."""
    if told is None:
        return None
    start, end = told.report.start_layer, told.report.end_layer
    same = start in (None, stage.start_layer) and end in (None, stage.end_layer)
    return told if same else None


def counts(record: InstanceRecord) -> Mapping[str, int]:
    """Return how many of the plan's shards are in which state."""
    return Counter(shard.state for shard in planned_shards(record))
