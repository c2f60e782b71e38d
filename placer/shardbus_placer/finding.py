"""A place for an instance: apart from its siblings if that is possible, over lower priorities if it must be. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_schemas.placement import Placed, RefusalCode, Refused

from shardbus_placer.access.quota import memory_problem, promised_bytes, told
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planning import planned
from shardbus_placer.spreading import domains_taken
from shardbus_placer.wanted import Wanted

NO_ROOM: Final = frozenset[RefusalCode](
    {
        "no_devices",
        "insufficient_memory",
        "not_enough_nodes",
        "no_links",
        "layer_too_large",
        "pin_impossible",
        "tensor_impossible",
        "backend_mismatch",
    }
)
"""Refusals that more room, or another fleet, may turn: lower priorities may give way."""
_SPARED_AT_MOST: Final = 8
"""How many of those that would give way are tried for whether they need to."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, and at whose cost."""

    result: Placed | Refused
    barred: tuple[str, ...] = ()
    """What was barred besides what the request says."""
    gives_way: tuple[InstanceRecord, ...] = ()
    """What must be taken off its devices first."""


def find_place(
    wanted: Wanted,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    *,
    barred: Collection[str] = (),
    horizon_tokens: float | None = None,
) -> Found:
    """Return a plan for ``wanted``, or the refusal of the gentlest try.

    First it keeps away from the failure domains of its siblings, then from their nodes only, then shares; and if there
    is no room at all, instances of a lower priority give way. What is new keeps within the memory of its grant.
    """
    found = _anywhere(wanted, state, now, knowledge, barred, horizon_tokens)
    return within_grant(wanted, found, state)


def within_grant(wanted: Wanted, found: Found, state: FleetState) -> Found:
    """Return what was found, or that it is more memory than the grant permits; what was placed once may move."""
    grant = wanted.grant
    if grant is None:
        return found
    record = state.instances.get(wanted.instance_id)
    if isinstance(found.result, Refused):
        return replace(found, result=told(found.result, grant))
    if record is None or record.status != "placed":
        promised = promised_bytes(grant.subject, state.instances.values(), but_for=wanted.instance_id)
        problem = memory_problem(grant, found.result, promised)
        if problem is not None:
            refused = Refused(
                model_id=wanted.model.model_id,
                strategy=found.result.strategy,
                strategy_reason="there is a plan, but its memory is not permitted",
                refusal=problem.refusal(),
            )
            return Found(refused, found.barred)
    return replace(found, result=told(found.result, grant))


def _anywhere(
    wanted: Wanted,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    barred: Collection[str],
    horizon_tokens: float | None,
) -> Found:
    tries = list(domains_taken(wanted, state))
    last: Found | None = None
    for apart in tries:
        away = (*barred, *apart)
        result = planned(wanted, state, now, knowledge, barred=away, horizon_tokens=horizon_tokens)
        last = Found(_with_note(result, tries, apart), away)
        if isinstance(result, Placed):
            return last
    assert last is not None  # one try at least
    return _over_others(wanted, state, now, knowledge, last, horizon_tokens)


def may_wait(result: Refused) -> bool:
    """Return whether more room, or another fleet, could turn a refusal."""
    return result.refusal.code in NO_ROOM or result.refusal.code in {"deadline_without_answer", "quota_exceeded"}


def _with_note(result: Placed | Refused, tries: Sequence[Collection[str]], apart: Collection[str]) -> Placed | Refused:
    if apart == tries[0] or isinstance(result, Refused):
        return result
    missing = "node" if apart == () else "failure domain"
    note = f"shares a {missing} with another replica of its deployment: there is no room apart from them"
    return result.model_copy(update={"notes": (*result.notes, note)})


def _over_others(
    wanted: Wanted,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    refused: Found,
    horizon_tokens: float | None,
) -> Found:
    """Return a plan with the fewest of the least important others gone, or the refusal."""
    # The least important first, of equals the youngest.
    lower = sorted(
        (one for one in state.instances.values() if one.promised and one.request.priority < wanted.priority),
        key=lambda one: (one.request.priority, -one.created_sequence),
    )
    if not lower or isinstance(refused.result, Placed) or refused.result.refusal.code not in NO_ROOM:
        return refused

    def without(some: Sequence[InstanceRecord]) -> Placed | Refused:
        gone = [one.instance_id for one in some]
        return planned(
            wanted, state, now, knowledge, barred=refused.barred, without=gone, horizon_tokens=horizon_tokens
        )

    best = without(lower)
    if isinstance(best, Refused):
        return refused
    enough, too_few = len(lower), 0
    while enough - too_few > 1:  # the more give way, the more room there is
        middle = (enough + too_few) // 2
        if isinstance(found := without(lower[:middle]), Placed):
            enough, best = middle, found
        else:
            too_few = middle
    going = lower[:enough]
    while True:  # who has nothing where it goes need not leave
        fewer = [one for one in going if one.promised.keys() & best.memory_by_device.keys()]
        if len(fewer) == len(going) or isinstance(found := without(fewer), Refused):
            break
        going, best = fewer, found
    for spared in reversed(going[-_SPARED_AT_MOST:]):  # the most important of them first
        fewer = [one for one in going if one is not spared]
        if fewer and isinstance(found := without(fewer), Placed):
            going, best = fewer, found
    return Found(best, refused.barred, tuple(going))
