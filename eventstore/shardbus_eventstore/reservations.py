"""Memory promised to instances, and how much of it telemetry shows as used already. Pure.

A device's reading tells one number for everybody, so whose memory it is has to be worked out, and nothing may be
counted twice: neither promised memory that is used already, nor used memory that was promised.

- Where the instance's own runtime reports what it takes on the device, that is its part, as soon as the device was read
  at or after the report (both by the node's clock). A report counts that came after the memory was promised, and after
  the node and the device were announced last: what ran before a crash says nothing of what runs now.
- Where none does, a rise of the reading above what it was when the instance was placed is the instance's, up to its
  promise, and up to what a report says that is newer than the reading. Of several such instances the latest comes
  first: what rose since its decision, less what came later, is its own. What a runtime reports that has loaded since
  that decision is taken off the rise.

So a promise is counted in full until a reading shows it used, and never less than what is used. What cannot be told
apart (another program's memory that grows before the instance's runtime reports) is taken for the instance's; a
runtime that reports is the remedy.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shardbus_schemas.events import ShardReported
from shardbus_schemas.ids import DeviceKey, InstanceId

from shardbus_eventstore.state import DeviceStateRecord, FleetState, InstanceRecord, ShardRecord

_HOLDING: Final = ("loading", "ready")
"""States of a shard in which it takes memory."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one instance was promised on one device, and what of it is used already."""

    instance_id: InstanceId
    promised: int
    used: int
    """Of the device's reading, what is this instance's."""

    @property
    def reserved(self) -> int:
        """Promised and not seen in use yet."""
        return max(0, self.promised - self.used)


def claims_of(state: FleetState) -> Mapping[DeviceKey, Sequence[Claim]]:
    """Return each device's claims: of placed instances, and of others that a runtime reports memory of."""
    on_device: dict[DeviceKey, list[InstanceRecord]] = defaultdict(list)
    for instance in state.instances.values():
        if instance.is_wanted:
            promised = instance.promised
            for key in promised:
                on_device[key].append(instance)
            for key, shard in instance.shards.items():
                if key not in promised and shard.report.state in _HOLDING:
                    on_device[key].append(instance)
    return {
        key: _claims(key, instances, state.device_states.get(key), _announced_at(key, state))
        for key, instances in on_device.items()
    }


def _claims(
    key: DeviceKey, instances: Sequence[InstanceRecord], record: DeviceStateRecord | None, announced_at: datetime | None
) -> Sequence[Claim]:
    # The latest promise comes first; a name makes the order certain.
    latest_first = sorted(instances, key=lambda one: (_decided_at(one, key), one.instance_id), reverse=True)
    used = None if record is None else record.reading.memory_used_bytes
    if record is None or used is None:
        return [Claim(one.instance_id, one.promised.get(key, 0), 0) for one in latest_first]
    reports = {one.instance_id: _report(one, key, announced_at) for one in latest_first}
    read_at = record.reading.last_update
    said = {
        name: report.memory_used_bytes if report is not None and report.occurred_at <= read_at else None
        for name, report in reports.items()
    }
    left, later, claims = used, 0, list[Claim]()
    for one in latest_first:
        promised, own = one.promised.get(key, 0), said[one.instance_id]
        baseline = one.baselines.get(key)
        if own is not None:
            mine = own
        elif baseline is None:
            mine = 0
        else:
            begun = sum(
                amount
                for other in latest_first
                if (amount := said[other.instance_id])
                and _decided_at(other, key) <= _decided_at(one, key)
                and _may_have_grown(other.shards[key], baseline.decided_at)
            )
            mine = min(promised, max(0, used - baseline.used_bytes - later - begun))
            newer = reports[one.instance_id]
            if newer is not None and newer.memory_used_bytes is not None:
                mine = min(mine, newer.memory_used_bytes)
        mine = min(mine, left)
        left -= mine
        later += mine
        claims.append(Claim(one.instance_id, promised, mine))
    return claims


def _decided_at(instance: InstanceRecord, key: DeviceKey) -> datetime:
    baseline = instance.baselines.get(key)
    return instance.updated_at if baseline is None else baseline.decided_at


def _may_have_grown(shard: ShardRecord, since: datetime) -> bool:
    """Return whether its memory need not be in a baseline: it was loading then, or has been since."""
    return shard.report.state == "loading" or shard.since > since


def _report(instance: InstanceRecord, key: DeviceKey, announced_at: datetime | None) -> ShardReported | None:
    """Return what its runtime says of itself there, if it runs, and the word is not from an earlier life."""
    shard, baseline = instance.shards.get(key), instance.baselines.get(key)
    if shard is None or shard.report.state not in _HOLDING:
        return None
    since = [moment for moment in (announced_at, baseline and baseline.decided_at) if moment is not None]
    return shard.report if all(shard.recorded_at > moment for moment in since) else None


def _announced_at(key: DeviceKey, state: FleetState) -> datetime | None:
    """Return when the device, or the life of its node, began that we are in."""
    node, device = state.nodes.get(key.node_id), state.devices.get(key)
    return max(
        (at for at in (node and node.joined_at, device and device.registered_at) if at is not None), default=None
    )
