"""What the events of an instance make of its record. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from shardbus_schemas.events import (
    ChangeCause,
    InstanceDeleted,
    InstanceLost,
    InstancePending,
    InstancePlaced,
    InstanceReplaced,
    ShardReported,
)
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import Placed, PlacementRequest
from shardbus_schemas.registry import Received

from shardbus_eventstore.state import Baseline, InstanceRecord, ShardRecord

AGAINST_ITS_WILL: Final = frozenset[ChangeCause](
    {"device_lost", "throttling", "memory_taken", "shard_failed", "overcommitted", "preempted"}
)
"""Causes that say that a place was not what it promised to be; they count for the back-off."""
_DISPLACEMENTS_KEPT: Final = 8


def placed(event: InstancePlaced, received: Received[FrozenModel]) -> InstanceRecord:
    """Return the record of a new instance with a place."""
    return InstanceRecord(
        instance_id=event.instance_id,
        command_id=event.command_id,
        model=event.model,
        request=without_token(event.request),
        plan=event.plan,
        status="placed",
        created_at=received.recorded_at,
        created_sequence=received.sequence,
        updated_at=received.recorded_at,
        updated_sequence=received.sequence,
        sequence=received.sequence,
        deployment_id=event.deployment_id,
        grant=event.grant,
        baselines=_baselines({}, event.plan, event.used_before, received.recorded_at),
    )


def pending(event: InstancePending, received: Received[FrozenModel]) -> InstanceRecord | None:
    """Return the record of a new instance without a place; ``None`` if the event does not say what it is of."""
    if event.model is None or event.request is None or event.command_id is None:
        return None
    return InstanceRecord(
        instance_id=event.instance_id,
        command_id=event.command_id,
        model=event.model,
        request=without_token(event.request),
        plan=None,
        status="pending",
        created_at=received.recorded_at,
        created_sequence=received.sequence,
        updated_at=received.recorded_at,
        updated_sequence=received.sequence,
        sequence=received.sequence,
        reason=event.reason,
        cause=event.cause,
        refusal=event.result,
        gave_way_to=event.gave_way_to,
        deployment_id=event.deployment_id,
        grant=event.grant,
    )


def changed(
    record: InstanceRecord,
    event: InstanceReplaced | InstancePending | InstanceDeleted | InstanceLost,
    received: Received[FrozenModel],
) -> InstanceRecord:
    """Return the record after what befell the instance."""
    at = received.recorded_at
    after = replace(
        record,
        reason=event.reason,
        cause=None,
        refusal=None,
        gave_way_to=None,
        updated_at=at,
        updated_sequence=received.sequence,
        sequence=received.sequence,
    )
    match event:
        case InstanceReplaced():
            return replace(
                after,
                plan=event.plan,
                status="placed",
                cause=event.cause,
                baselines=_baselines(record.baselines, event.plan, event.used_before, at),
                displaced_at=_displaced(record, event.cause, at),
            )
        case InstancePending():
            return replace(
                after,
                status="pending",
                cause=event.cause,
                refusal=event.result,
                gave_way_to=event.gave_way_to,
                baselines={},
                displaced_at=_displaced(record, event.cause, at),
            )
        case InstanceLost():
            return replace(
                after,
                status="lost",
                cause="device_lost",
                baselines={},
                displaced_at=_displaced(record, "device_lost", at),
            )
        case InstanceDeleted():
            return replace(after, status="deleted", baselines={})


def reported(record: InstanceRecord, report: ShardReported, received: Received[FrozenModel]) -> InstanceRecord:
    """Return the record after what a runtime said of one of its shards.

    A report that is told again (an agent that began anew tells all it knows) is no second failure.
    """
    at, key = received.recorded_at, DeviceKey.of(report.node_id, report.device_id)
    old = record.shards.get(key)
    if old is not None and old.report == report:
        return replace(record, shards={**record.shards, key: replace(old, recorded_at=at)}, sequence=received.sequence)
    baseline = record.baselines.get(key)
    is_anew = old is None or (baseline is not None and old.recorded_at <= baseline.decided_at)
    failed_now = report.state == "failed" and (old is None or is_anew or old.report.state != "failed")
    shard = ShardRecord(
        report=report,
        sequence=received.sequence,
        recorded_at=at,
        since=old.since if old is not None and not is_anew and old.report.state == report.state else at,
        began_at=report.occurred_at if old is None or is_anew or old.report.state == "stopped" else old.began_at,
        failures=(0 if old is None else old.failures) + failed_now,
        failed_at=at if failed_now else None if old is None else old.failed_at,
    )
    return replace(record, shards={**record.shards, key: shard}, sequence=received.sequence)


def without_token(request: PlacementRequest) -> PlacementRequest:
    """Return ``request`` without who asked: that is never stored."""
    return request if request.access_token is None else request.model_copy(update={"access_token": None})


def _baselines(
    before: Mapping[DeviceKey, Baseline], plan: Placed, used: Mapping[DeviceKey, int], at: datetime
) -> Mapping[DeviceKey, Baseline]:
    """Return the baselines of the plan's devices; where the instance was already, the first one holds."""
    new = {device: Baseline(count, at) for device, count in used.items()}
    return {device: known for device in plan.memory_by_device if (known := before.get(device) or new.get(device))}


def _displaced(record: InstanceRecord, cause: ChangeCause | None, at: datetime) -> tuple[datetime, ...]:
    return (*record.displaced_at, at)[-_DISPLACEMENTS_KEPT:] if cause in AGAINST_ITS_WILL else record.displaced_at
