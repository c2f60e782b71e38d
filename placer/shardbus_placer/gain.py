"""How much better another plan is than the one an instance has, both on the fleet as it is now. Pure."""

from dataclasses import replace
from datetime import datetime

from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_schemas.placement import Placed

from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planning import planned
from shardbus_placer.wanted import wanted_of


def gain_of(
    record: InstanceRecord, better: Placed, state: FleetState, now: datetime, knowledge: Knowledge
) -> float | None:
    """Return by how much ``better`` beats the present plan, relative to that one's value; ``None`` if nobody can tell.

    The present plan is priced by asking for it: the same devices, with as many layers each.
    """
    if record.plan is None:
        return None
    held = {device: stage.layers for stage in record.plan.stages for device in stage.devices}
    as_it_is = record.request.model_copy(
        update={"pin": dict(held), "include": tuple(held), "exclude": (), "max_devices": None, "max_stages": None}
    )
    present = planned(replace(wanted_of(record), request=as_it_is), state, now, knowledge)
    if not isinstance(present, Placed):
        return None
    before, after = _steady(present), _steady(better)
    if before == 0:
        return None
    less_is_better = better.objective.unit == "seconds"
    return (before - after) / abs(before) if less_is_better else (after - before) / abs(before)


def is_same_place(one: Placed, other: Placed) -> bool:
    """Return whether two plans put the same layers on the same devices."""
    return _layout(one) == _layout(other)


def _layout(plan: Placed) -> object:
    return [(stage.devices, stage.start_layer, stage.end_layer) for stage in plan.stages]


def _steady(plan: Placed) -> float:
    steady = None if plan.movement is None else plan.movement.steady_value
    return plan.objective.value if steady is None else steady
