"""What the placer does by itself: one step at a time from what is to what is wanted. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from shardbus_eventstore.instance_fold import AGAINST_ITS_WILL
from shardbus_eventstore.state import DeploymentRecord, FleetState, InstanceRecord
from shardbus_schemas import events
from shardbus_schemas.events import ChangeCause
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import Placed, Refused

from shardbus_placer import telling
from shardbus_placer.capacity_seen import CapacitySeen, capacity_seen, has_grown
from shardbus_placer.finding import NO_ROOM, Found, find_place
from shardbus_placer.gain import gain_of, is_same_place
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.naming import instance_id_of, replica_command_id
from shardbus_placer.needs import CANNOT_STAY, Need, back_off, needs_of
from shardbus_placer.wanted import Wanted, wanted_of
from shardbus_placer.watch import Watch, unstable

_MINUTE: Final = timedelta(minutes=1)
_NOT_LIMITED: Final = frozenset[ChangeCause]({"drained", "capacity"})
"""Somebody waits for these: they are never put off, and do not put off others."""
_LIMITED: Final = AGAINST_ITS_WILL - {"preempted"}
_UNPROVED_AGAIN: Final = timedelta(seconds=30)
"""When an instance is looked at again for which only time ran out."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try in vain."""

    room: CapacitySeen
    """What there was: with no more than that it is in vain again."""
    again_at: datetime | None = None
    """When to try again all the same: nobody proved that it must be in vain."""


Tried = Mapping[tuple[str, str, int], Attempt]
"""When nothing could be done: by instance, cause, and where the instance changed last."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change, or none."""

    changes: Sequence[events.FleetEvent] = ()
    """To be appended one after the other, each only if the ledger has not changed otherwise."""
    trigger: int | None = None
    """Where in ``FLEET`` the message is that led to it."""
    tried: Tried = field(default_factory=dict[tuple[str, str, int], Attempt])
    next_at: datetime | None = None
    """When there will be something to do even if nothing happens."""


def reconcile(state: FleetState, fleet: Fleet, watch: Watch, tried: Tried, now: datetime, knowledge: Knowledge) -> Step:
    """Return the most important step towards what is wanted; one without changes if there is nothing to be done.

    ``fleet`` is ``fleet_of(state, now)``. The same arguments give the same step, whoever asks.
    """
    rules = knowledge.rules
    seen = dict(tried)
    waiting: list[datetime] = []
    too_many = _moved_lately(state, now) >= rules.moves_per_minute
    for need in needs_of(state, fleet, watch, now, rules):
        if need.due > now:
            waiting.append(need.due)
            continue
        if too_many and need.cause not in _NOT_LIMITED:
            waiting.append(now + timedelta(seconds=1))
            continue
        barred = barred_for(need.instance, watch, now, rules)
        key = (need.instance.instance_id, need.cause, need.instance.updated_sequence)
        # To who leaves a hot device, one that has cooled down is new.
        hidden = (*barred, *watch.throttling) if need.cause == "throttling" else barred
        room = capacity_seen(fleet, hidden, _giving_way(state, need.instance.request.priority), knowledge.policy)
        before = seen.get(key)
        if before is not None and not has_grown(before.room, room):
            if before.again_at is None:
                continue
            if before.again_at > now:
                waiting.append(before.again_at)
                continue
        done = _meet(need, state, now, knowledge, barred)
        if done and not isinstance(done, Refused):
            return Step(done, need.trigger, _alive(seen, state))
        unproved = isinstance(done, Refused) and not (done.refusal.proved and done.refusal.code in NO_ROOM)
        seen[key] = Attempt(room, now + _UNPROVED_AGAIN if unproved else None)
        waiting += [] if not unproved else [now + _UNPROVED_AGAIN]
    for deployment in state.deployments.values():
        done = _towards(deployment, state, now, knowledge, watch)
        if done:
            return Step(done, deployment.sequence, _alive(seen, state))
    waiting += _ends_of_bars(state, watch, now, rules)
    return Step((), None, _alive(seen, state), min(waiting, default=None))


def barred_for(record: InstanceRecord, watch: Watch, now: datetime, rules: LifeRules) -> tuple[str, ...]:
    """Return the devices that an instance may not go to now: where it failed lately, and what keeps going away."""
    failed = {key for key, until in _bars(record, rules).items() if until > now}
    return tuple(sorted(failed | (unstable(watch, now, rules).keys() - record.promised.keys())))


def _bars(record: InstanceRecord, rules: LifeRules) -> Mapping[DeviceKey, datetime]:
    """Return until when each device is barred for its failures."""
    return {
        key: shard.failed_at
        + timedelta(
            seconds=min(
                rules.longest_shard_bar_seconds, rules.shard_bar_seconds * 2.0 ** min(20, max(0, shard.failures - 1))
            )
        )
        for key, shard in record.shards.items()
        if shard.failed_at is not None
    }


def _ends_of_bars(state: FleetState, watch: Watch, now: datetime, rules: LifeRules) -> Sequence[datetime]:
    """Return when something that is barred to who waits is not any more."""
    pending = [record for record in state.instances.values() if record.status in ("pending", "lost")]
    if not pending:
        return []
    ends = [until for record in pending for until in _bars(record, rules).values()]
    return [until for until in (*ends, *unstable(watch, now, rules).values()) if until > now]


def _giving_way(state: FleetState, priority: int) -> Mapping[DeviceKey, int]:
    """Return what those of a lower priority are promised, by device."""
    found: dict[DeviceKey, int] = {}
    for record in state.instances.values():
        if record.request.priority < priority:
            for key, count in record.promised.items():
                found[key] = found.get(key, 0) + count
    return found


def _alive(tried: Tried, state: FleetState) -> Tried:
    """Return what is about instances as they are now."""
    now = {(record.instance_id, record.updated_sequence) for record in state.instances.values() if record.is_wanted}
    return {key: attempt for key, attempt in tried.items() if (key[0], key[2]) in now}


def _moved_lately(state: FleetState, now: datetime) -> int:
    return sum(record.cause in _LIMITED and now - record.updated_at < _MINUTE for record in state.instances.values())


def _meet(
    need: Need, state: FleetState, now: datetime, knowledge: Knowledge, barred: tuple[str, ...]
) -> Sequence[events.FleetEvent] | Refused:
    """Return what is done about it; nothing, or the refusal, if it stays as it is."""
    record, rules = need.instance, knowledge.rules
    wanted = wanted_of(record)
    if need.cause in AGAINST_ITS_WILL and need.cause in CANNOT_STAY:
        rest = back_off(record, now, rules, again=True)
        if rest:
            return [_resting(need, wanted, state, now, rest)]
    horizon = None if need.cause == "capacity" else rules.repair_horizon_tokens
    found = _find_soon(wanted, state, now, knowledge, barred, horizon)
    if isinstance(found.result, Refused):
        if need.cause not in CANNOT_STAY:
            return found.result
        reason = f"{need.why}; no other place: {found.result.refusal.message}"
        return [telling.pending(wanted, found.result, state, now, cause=need.cause, reason=reason, barred=found.barred)]
    if need.cause not in CANNOT_STAY and record.status == "placed":
        assert record.plan is not None  # a placed instance has one
        if is_same_place(found.result, record.plan) or found.gives_way:
            return []
        if need.cause == "throttling" and not _is_worth_it(record, found.result, state, now, knowledge):
            return []
    return telling.replaced(wanted, found, state, now, cause=need.cause, reason=need.why)


def _find_soon(
    wanted: Wanted,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    barred: Collection[str],
    horizon_tokens: float | None = None,
) -> Found:
    """Return a place that is found quickly; one that takes longer only if that is too little time for any answer."""
    most = knowledge.rules.repair_deadline_ms
    if wanted.request.deadline_ms > most:
        hurried = replace(wanted, request=wanted.request.model_copy(update={"deadline_ms": most}))
        found = find_place(hurried, state, now, knowledge, barred=barred, horizon_tokens=horizon_tokens)
        if isinstance(found.result, Placed) or found.result.refusal.code != "deadline_without_answer":
            return found
    return find_place(wanted, state, now, knowledge, barred=barred, horizon_tokens=horizon_tokens)


def _is_worth_it(
    record: InstanceRecord, better: Placed, state: FleetState, now: datetime, knowledge: Knowledge
) -> bool:
    gain = gain_of(record, better, state, now, knowledge)
    return gain is not None and gain >= knowledge.rules.worthwhile_gain


def _resting(need: Need, wanted: Wanted, state: FleetState, now: datetime, rest: timedelta) -> events.FleetEvent:
    times = len(need.instance.displaced_at) + 1
    message = f"displaced {times} times lately, so it waits for {rest.total_seconds():g} s before it is placed again"
    refused = telling.without_plan(wanted=wanted.model.model_id, code="back_off", message=message)
    return telling.pending(wanted, refused, state, now, cause=need.cause, reason=f"{need.why}; {message}")


def _towards(
    deployment: DeploymentRecord, state: FleetState, now: datetime, knowledge: Knowledge, watch: Watch
) -> Sequence[events.FleetEvent]:
    """Return the next replica, or one less."""
    replicas = [
        record
        for record in state.instances.values()
        if record.is_wanted and record.deployment_id == deployment.deployment_id
    ]
    if len(replicas) > deployment.replicas:
        # First who has no place, then the youngest.
        gone = min(replicas, key=lambda one: (one.status == "placed", -one.created_sequence))
        reason = f"deployment {deployment.deployment_id} was scaled to {deployment.replicas}"
        return [events.InstanceDeleted(instance_id=gone.instance_id, reason=reason)]
    if len(replicas) == deployment.replicas:
        return ()
    command_id = replica_command_id(deployment, state)
    wanted = Wanted(
        instance_id=instance_id_of(deployment.model.model_id, command_id),
        model=deployment.model,
        request=deployment.request,
        grant=deployment.grant,
        deployment_id=deployment.deployment_id,
    )
    found = _find_soon(wanted, state, now, knowledge, unstable(watch, now, knowledge.rules))
    if isinstance(found.result, Placed):
        return telling.placed(wanted, found, state, now, command_id)
    reason = f"no room for replica {len(replicas) + 1} of {deployment.replicas}: {found.result.refusal.message}"
    return [
        telling.pending(
            wanted, found.result, state, now, cause="no_room", reason=reason, barred=found.barred, command_id=command_id
        )
    ]
