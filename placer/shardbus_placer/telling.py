"""The events that say what was decided for an instance. Pure."""

from collections.abc import Sequence
from datetime import datetime

from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas import events
from shardbus_schemas.ids import CommandId
from shardbus_schemas.placement import Placed, Refusal, Refused, StatePosition
from shardbus_schemas.units import bytes_text

from shardbus_placer.finding import Found
from shardbus_placer.planning import used_before
from shardbus_placer.wanted import Wanted


def position_of(state: FleetState, as_of: datetime | None = None) -> StatePosition:
    """Return the pair of sequences that names ``state``, and the moment at which it was judged, if it was."""
    return StatePosition(
        telemetry_sequence=state.positions.get(TELEMETRY, 0),
        fleet_sequence=state.positions.get(FLEET, 0),
        as_of=as_of,
    )


def placed(
    wanted: Wanted, found: Found, state: FleetState, now: datetime, command_id: CommandId
) -> Sequence[events.FleetEvent]:
    """Return that a new instance has a place, after what gave way to it."""
    assert isinstance(found.result, Placed)
    return (
        *giving_way(wanted, found, state, now),
        events.InstancePlaced(
            instance_id=wanted.instance_id,
            command_id=command_id,
            model=wanted.model,
            request=wanted.request,
            plan=found.result,
            position=position_of(state, now),
            used_before=used_before(found.result, state, wanted.instance_id),
            gave_way=tuple(one.instance_id for one in found.gives_way),
            barred=found.barred,
            deployment_id=wanted.deployment_id,
            grant=wanted.grant,
        ),
    )


def replaced(
    wanted: Wanted,
    found: Found,
    state: FleetState,
    now: datetime,
    *,
    cause: events.ChangeCause,
    reason: str,
    command_id: CommandId | None = None,
) -> Sequence[events.FleetEvent]:
    """Return that an instance got another place, after what gave way to it."""
    assert isinstance(found.result, Placed)
    return (
        *giving_way(wanted, found, state, now),
        events.InstanceReplaced(
            instance_id=wanted.instance_id,
            command_id=command_id,
            plan=found.result,
            reason=reason,
            cause=cause,
            position=position_of(state, now),
            used_before=used_before(found.result, state, wanted.instance_id),
            gave_way=tuple(one.instance_id for one in found.gives_way),
            barred=found.barred,
        ),
    )


def pending(
    wanted: Wanted,
    refused: Refused,
    state: FleetState,
    now: datetime,
    *,
    cause: events.ChangeCause,
    reason: str,
    barred: Sequence[str] = (),
    command_id: CommandId | None = None,
) -> events.InstancePending:
    """Return that an instance is wanted and has no place; with what it is of if it is new."""
    old = state.instances.get(wanted.instance_id)
    is_new = old is None or not old.is_wanted
    return events.InstancePending(
        instance_id=wanted.instance_id,
        command_id=command_id,
        reason=reason,
        cause=cause,
        result=refused,
        position=position_of(state, now),
        barred=tuple(barred),
        model=wanted.model if is_new else None,
        request=wanted.request if is_new else None,
        deployment_id=wanted.deployment_id if is_new else None,
        grant=wanted.grant if is_new else None,
    )


def giving_way(wanted: Wanted, found: Found, state: FleetState, now: datetime) -> Sequence[events.InstancePending]:
    """Return that each of those of a lower priority has lost its place."""
    assert isinstance(found.result, Placed)
    return [_gone(record, wanted, found.result, position_of(state, now)) for record in found.gives_way]


def _gone(record: InstanceRecord, wanted: Wanted, plan: Placed, position: StatePosition) -> events.InstancePending:
    shared = sorted(record.promised.keys() & plan.memory_by_device.keys())
    freed = sum(record.promised[key] for key in shared)
    where = f", which takes {bytes_text(freed)} of its memory on {', '.join(shared)}" if shared else ""
    reason = f"gave way to {wanted.instance_id} (priority {wanted.priority} over {record.request.priority}){where}"
    return events.InstancePending(
        instance_id=record.instance_id,
        reason=reason,
        cause="preempted",
        result=without_plan(wanted=record.model.model_id, code="preempted", message=reason),
        position=position,
        gave_way_to=wanted.instance_id,
    )


def rejected(
    command_type: str,
    command_id: CommandId,
    code: events.CommandRejectionCode,
    message: str,
    result: Refused | None = None,
) -> events.CommandRejected:
    """Return that a command other than a placement is not carried out."""
    return events.CommandRejected(
        command_id=command_id, command_type=command_type, code=code, message=message, result=result
    )


def without_plan(*, wanted: str, code: str, message: str, remedy: str | None = None) -> Refused:
    """Return a refusal that no planner was asked for."""
    return Refused.model_validate(
        {
            "model_id": wanted,
            "strategy": "none",
            "strategy_reason": "refused before planning",
            "refusal": Refusal.model_validate({"code": code, "message": message, "remedy": remedy}),
        }
    )
