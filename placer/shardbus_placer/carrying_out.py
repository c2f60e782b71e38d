"""Commands that change where instances are: move, rebalance; and what nodes take: cordon, drain, uncordon. Pure."""

from collections.abc import Sequence
from datetime import datetime

from shardbus_eventstore.fold import fold
from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas import commands, events
from shardbus_schemas.access import Grant
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.ids import CommandId, EventId, target_name
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import Placed, Refused
from shardbus_schemas.problems import suggest
from shardbus_schemas.registry import Received

from shardbus_placer import telling
from shardbus_placer.access.quota import owner_problem, target_problem
from shardbus_placer.finding import Found, find_place
from shardbus_placer.gain import gain_of, is_same_place
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.reconcile import barred_for
from shardbus_placer.wanted import wanted_of
from shardbus_placer.watch import Watch

Answer = Sequence[events.FleetEvent]
"""What happens; the last of it is the answer."""


def delete(command: commands.Delete, command_id: CommandId, state: FleetState, grant: Grant | None) -> Answer:
    """Return that an instance is not wanted any more."""
    record = state.instances.get(command.instance_id)
    if record is None or not record.is_wanted:
        return [_unknown_instance(command.TYPE, command.instance_id, command_id, state)]
    if (foreign := _not_own(command.TYPE, command_id, record, grant)) is not None:
        return [foreign]
    return [events.InstanceDeleted(instance_id=record.instance_id, command_id=command_id, reason=command.reason)]


def move(
    command: commands.Move,
    command_id: CommandId,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    grant: Grant | None,
) -> Answer:
    """Return an instance's new place, or why it stays."""
    record = state.instances.get(command.instance_id)
    if record is None or not record.is_wanted:
        return [_unknown_instance(command.TYPE, command.instance_id, command_id, state)]
    if (foreign := _not_own(command.TYPE, command_id, record, grant)) is not None:
        return [foreign]
    unknown = [name for name in command.away_from if name not in _targets(state)]
    if unknown:
        return [_unknown_target(command.TYPE, unknown[0], command_id, state)]
    wanted = wanted_of(record)
    barred = (*command.away_from, *barred_for(record, Watch(), now, knowledge.rules))
    horizon = knowledge.rules.move_horizon_tokens
    found = find_place(wanted, state, now, knowledge, barred=barred, horizon_tokens=horizon)
    if isinstance(found.result, Refused):
        message = f"{record.instance_id} stays where it is: {found.result.refusal.message}"
        return [telling.rejected(command.TYPE, command_id, "no_place", message, found.result)]
    if record.status == "placed" and record.plan is not None and is_same_place(found.result, record.plan):
        message = f"{record.instance_id} lies as well as it can: no other place is worth the move"
        return [telling.rejected(command.TYPE, command_id, "nothing_to_do", message)]
    because = f": {command.reason}" if command.reason else ""
    return telling.replaced(
        wanted, found, state, now, cause="moved", reason=f"a command asked for it{because}", command_id=command_id
    )


def rebalance(
    command: commands.Rebalance, command_id: CommandId, state: FleetState, now: datetime, knowledge: Knowledge
) -> Answer:
    """Return the moves that gain more than the threshold, each planned after the ones before it, and their sum."""
    threshold = knowledge.rules.worthwhile_gain if command.threshold is None else command.threshold
    moved: dict[str, float] = {}
    best: tuple[float, str] | None = None
    done: list[events.FleetEvent] = []
    then = state
    in_order = sorted(
        (record for record in state.instances.values() if record.promised),
        key=lambda record: (-record.request.priority, record.created_sequence),
    )
    for was in in_order:
        record = then.instances[was.instance_id]
        found, gain = _better(record, then, now, knowledge)
        if found is None or gain is None:
            continue
        if best is None or gain > best[0]:
            best = (gain, record.instance_id)
        if gain > threshold:
            because = f": {command.reason}" if command.reason else ""
            said = telling.replaced(
                wanted_of(record),
                found,
                then,
                now,
                cause="rebalanced",
                reason=f"{gain:.0%} better for it{because}",
            )
            done += said
            moved[record.instance_id] = gain
            then = after(then, said, now)
    if not moved:
        nearest = "" if best is None else f"; the most is {best[0]:.1%}, for {best[1]}"
        message = f"no instance gains more than {threshold:.0%} by moving{nearest}"
        return [telling.rejected(command.TYPE, command_id, "nothing_to_do", message)]
    return [
        *done,
        events.FleetRebalanced.model_validate(
            {
                "moved": moved,
                "threshold": threshold,
                "position": telling.position_of(state, now),
                "command_id": command_id,
            }
        ),
    ]


def _better(
    record: InstanceRecord, state: FleetState, now: datetime, knowledge: Knowledge
) -> tuple[Found | None, float | None]:
    barred = barred_for(record, Watch(), now, knowledge.rules)
    horizon = knowledge.rules.move_horizon_tokens
    found = find_place(wanted_of(record), state, now, knowledge, barred=barred, horizon_tokens=horizon)
    if not isinstance(found.result, Placed) or found.gives_way or record.plan is None:
        return None, None
    if is_same_place(found.result, record.plan):
        return None, None
    return found, gain_of(record, found.result, state, now, knowledge)


def cordon(
    command: commands.Cordon | commands.Drain, command_id: CommandId, state: FleetState, grant: Grant | None
) -> Answer:
    """Return that a node or device takes nothing new; under a drain the placer then empties it by itself."""
    target = target_name(command.node_id, command.device_id)
    if target not in _targets(state):
        return [_unknown_target(command.TYPE, target, command_id, state)]
    if (problem := grant and target_problem(grant, target)) is not None:
        return [telling.rejected(command.TYPE, command_id, problem.code, problem.text)]
    drain = isinstance(command, commands.Drain)
    held = state.cordons.get(target)
    if held is not None and held.lifted_at is None and held.drain == drain:
        message = f"{target} is {'drained' if drain else 'cordoned'} already"
        return [telling.rejected(command.TYPE, command_id, "nothing_to_do", message)]
    return [
        events.Cordoned(
            node_id=command.node_id,
            device_id=command.device_id,
            drain=drain,
            reason=command.reason,
            command_id=command_id,
        )
    ]


def uncordon(command: commands.Uncordon, command_id: CommandId, state: FleetState, grant: Grant | None) -> Answer:
    """Return that a node or device takes instances again."""
    target = target_name(command.node_id, command.device_id)
    if target not in _targets(state):
        return [_unknown_target(command.TYPE, target, command_id, state)]
    if (problem := grant and target_problem(grant, target)) is not None:
        return [telling.rejected(command.TYPE, command_id, problem.code, problem.text)]
    held = [
        record.key
        for record in state.cordons.values()
        if record.lifted_at is None
        and record.node_id == command.node_id
        and command.device_id in (None, record.device_id)
    ]
    if not held:
        node = state.cordons.get(command.node_id)
        of_node = node is not None and node.lifted_at is None
        message = f"{target} is not cordoned by itself" + (f", but all of {command.node_id} is" if of_node else "")
        return [telling.rejected(command.TYPE, command_id, "nothing_to_do", message)]
    return [
        events.Uncordoned(
            node_id=command.node_id, device_id=command.device_id, reason=command.reason, command_id=command_id
        )
    ]


def after(state: FleetState, said: Sequence[FrozenModel], now: datetime) -> FleetState:
    """Return the state as it will be once ``said`` is in the stream."""
    first = state.positions.get(FLEET, 0) + 1
    return fold(
        state,
        (
            Received(message, Envelope(EventId("to come"), "", 1, now, ""), FLEET, first + number, now)
            for number, message in enumerate(said)
        ),
    )


def _unknown_instance(
    command_type: str, instance_id: str, command_id: CommandId, state: FleetState
) -> events.CommandRejected:
    """Return that nothing is named so."""
    # A state that began with a snapshot does not know what was deleted before it: the answer must be the same.
    alive = [name for name, record in state.instances.items() if record.is_wanted]
    message = f"there is no instance {instance_id!r}: it never was, or is deleted already{suggest(instance_id, alive)}"
    return telling.rejected(command_type, command_id, "unknown_instance", message)


def _not_own(
    command_type: str, command_id: CommandId, record: InstanceRecord, grant: Grant | None
) -> events.CommandRejected | None:
    """Return that an instance is somebody else's; ``None`` if it is not, or the owner of the fleet asks."""
    problem = None if grant is None else owner_problem(grant, record)
    return None if problem is None else telling.rejected(command_type, command_id, problem.code, problem.text)


def _unknown_target(command_type: str, target: str, command_id: CommandId, state: FleetState) -> events.CommandRejected:
    message = f"there is no node or device {target!r}{suggest(target, sorted(_targets(state)))}"
    return telling.rejected(command_type, command_id, "unknown_target", message)


def _targets(state: FleetState) -> set[str]:
    return {*(str(node) for node in state.nodes), *(str(device) for device in state.devices)}
