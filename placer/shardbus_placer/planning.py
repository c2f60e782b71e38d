"""The planner asked on behalf of an instance: on the fleet as it would be without what gives way. Pure.

The same call with the same state and the same answers to what is barred and what gives way makes the same plan, so a
decision can be taken again.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.reservations import claims_of
from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_schemas.ids import DeviceKey, InstanceId
from shardbus_schemas.placement import Placed, PlacementRequest, Refused

from shardbus_placer.candidates import names_of
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.models.catalogue import variants_of
from shardbus_placer.movement import Holding, held_by
from shardbus_placer.wanted import Wanted


def planned(
    wanted: Wanted,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    *,
    barred: Collection[str] = (),
    without: Collection[InstanceId] = (),
    horizon_tokens: float | None = None,
) -> Placed | Refused:
    """Return where ``wanted`` goes in ``state``, judged at ``now``, or why it cannot.

    Its own memory and that of the instances in ``without`` counts as free. ``barred`` names nodes and devices that it
    may not use besides what its request says. Of an instance that is placed, as little is moved as ``horizon_tokens``
    asks for.
    """
    record = state.instances.get(wanted.instance_id)
    home = frozenset[DeviceKey]() if record is None else frozenset(record.promised)
    fleet = fleet_of(state, now, without={wanted.instance_id, *without}, at_home=home)
    known = names_of(fleet)
    request = conditions(wanted, [name for name in barred if name in known])
    variants = variants_of(wanted.model.model_id, knowledge.catalogue)
    if record is None or not home:
        return knowledge.plan(fleet, wanted.model, request, knowledge.policy, variants=variants)
    usable = {key for key, _, device in fleet.devices() if device.status not in ("lost", "stale")}
    return knowledge.plan(
        fleet,
        wanted.model,
        request,
        knowledge.policy,
        held=held(record, usable),
        horizon_tokens=horizon_tokens,
        variants=variants,
    )


def held(record: InstanceRecord, usable: Collection[DeviceKey]) -> Mapping[DeviceKey, Holding]:
    """Return which of its layers an instance has on devices that can still give them away."""
    if record.plan is None or record.status != "placed":
        return {}
    return held_by(record.plan.stages, lost=[key for key in record.plan.memory_by_device if key not in usable])


def conditions(wanted: Wanted, barred: Collection[str]) -> PlacementRequest:
    """Return the request with what else holds for it: what is barred."""
    if not barred:
        return wanted.request
    exclude = tuple(dict.fromkeys((*wanted.request.exclude, *barred)))
    return wanted.request.model_copy(update={"exclude": exclude})


def used_before(plan: Placed, state: FleetState, instance_id: InstanceId) -> dict[DeviceKey, int]:
    """Return what others use on the plan's devices now; 0 where nobody has read it yet, for so it was counted.

    What is known to be the instance's own was planned with as free, and stays its own: a runtime that went on through
    the time without a place has no reason to say so again.
    """
    claims = claims_of(state)
    found: dict[DeviceKey, int] = {}
    for key in plan.memory_by_device:
        record = state.device_states.get(key)
        used = 0 if record is None else record.reading.memory_used_bytes or 0
        found[key] = used - sum(claim.used for claim in claims.get(key, ()) if claim.instance_id == instance_id)
    return found
