"""What a message says, in one line for a person. Pure."""

from collections.abc import Sequence

from shardbus_schemas import commands, events
from shardbus_schemas.ids import DeviceKey, target_name
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import Placed
from shardbus_schemas.units import bytes_text, rate_text, seconds_text

_MOST_NAMED = 5


def layout(plan: Placed) -> str:
    """Return which devices hold which layers, for a person."""
    return ", ".join(f"{'+'.join(stage.devices)} [{stage.start_layer}-{stage.end_layer - 1}]" for stage in plan.stages)


def summary(message: FrozenModel) -> str:
    """Return a message in one line, for a person. One that is not known is told by its name alone."""
    return " ".join(_summary(message).split())  # reasons are anybody's text


def named_summary(message: FrozenModel) -> str:
    """Return a message in one line that also names the instance that it is about."""
    match message:
        case (
            events.InstancePlaced()
            | events.InstanceReplaced()
            | events.InstancePending()
            | events.InstanceDeleted()
            | events.InstanceLost()
            | events.ShardReported()
        ):
            return f"{message.instance_id}: {summary(message)}"
        case _:
            return summary(message)


def asked_for(answer: FrozenModel) -> tuple[str, str]:
    """Return what was asked by the command that ``answer`` answers: the command's type, and one line for a person."""
    match answer:
        case events.InstancePlaced() | events.PlacementPreviewed() | events.PlacementRejected():
            return commands.Place.TYPE, f"place {answer.request.wanted_model_id}{_at_priority(answer.request.priority)}"
        case events.InstancePending(request=request) if request is not None:
            return commands.Place.TYPE, f"place {request.wanted_model_id}{_at_priority(request.priority)}"
        case events.InstanceReplaced() | events.InstancePending():
            return commands.Move.TYPE, f"move {answer.instance_id}"
        case events.InstanceDeleted():
            return commands.Delete.TYPE, f"delete {answer.instance_id}{_because(answer.reason)}"
        case events.ModelRegistered(profile=profile):
            return commands.RegisterModel.TYPE, f"register the model {profile.model_id}"
        case events.Cordoned():
            verb = commands.Drain.TYPE if answer.drain else commands.Cordon.TYPE
            return verb, f"{verb.lower()} {_place(answer)}{_because(answer.reason)}"
        case events.Uncordoned():
            return commands.Uncordon.TYPE, f"uncordon {_place(answer)}{_because(answer.reason)}"
        case events.DeploymentScaled():
            return commands.Scale.TYPE, f"scale {answer.deployment_id} to {_replicas(answer.replicas)}"
        case events.FleetRebalanced():
            return commands.Rebalance.TYPE, f"rebalance the fleet where that gains over {answer.threshold:.0%}"
        case events.CommandRejected(command_type=command_type):
            return command_type, command_type.lower()
        case _:
            return "?", "?"


def _summary(message: FrozenModel) -> str:
    match message:
        case events.InstancePlaced() | events.InstanceReplaced() | events.InstancePending():
            return _settled(message)
        case events.InstanceDeleted(reason=reason):
            return f"deleted{_because(reason)}"
        case events.InstanceLost(devices=devices, reason=reason):
            return f"lost with {', '.join(devices)}: {reason}"
        case events.ShardReported():
            return _shard(message)
        case events.PlacementRejected(result=refused):
            return f"refused ({refused.refusal.code}): {refused.refusal.message}"
        case events.PlacementPreviewed(plan=plan):
            return f"{plan.model_id} would go to {layout(plan)} (dry run)"
        case events.CommandRejected():
            return f"refused ({message.code}): {message.message}"
        case events.ModelRegistered(profile=profile):
            return f"model {profile.model_id} registered"
        case events.Cordoned() | events.Uncordoned() | events.DeploymentScaled() | events.FleetRebalanced():
            return _wanted(message)
        case (
            events.NodeJoined()
            | events.NodeLeft()
            | events.DeviceRegistered()
            | events.DeviceLost()
            | events.DeviceFaulted()
        ):
            return _hardware(message)
        case events.DeviceGPUStateUpdated() | events.GPUBandwidthMeasured():
            return _telemetry(message)
        case events.DeadLettered():
            return f"{message.stream} {message.sequence} cannot be read ({message.code}): {message.reason}"
        case events.DeadLetterRetried():
            return f"{message.stream} {message.sequence} was tried again"
        case _:
            return type(message).__name__


def _settled(message: events.InstancePlaced | events.InstanceReplaced | events.InstancePending) -> str:
    match message:
        case events.InstancePlaced(plan=plan):
            return f"{plan.model_id} placed on {layout(plan)}{_taking(message.gave_way)}"
        case events.InstanceReplaced(plan=plan, reason=reason):
            moved = "placed again on" if message.cause == "capacity" else "moved to"
            return f"{moved} {layout(plan)}: {reason}{_taking(message.gave_way)}"
        case events.InstancePending(reason=reason, gave_way_to=to):
            return f"has no place{'' if to is None or to in reason else f', gave way to {to}'}: {reason}"


def _shard(message: events.ShardReported) -> str:
    layers = "" if message.end_layer is None else f" [{message.start_layer or 0}-{message.end_layer - 1}]"
    used = "" if message.memory_used_bytes is None else f", {bytes_text(message.memory_used_bytes)} in use"
    where = DeviceKey.of(message.node_id, message.device_id)
    return f"shard on {where}{layers} {message.state}{used}{_because(message.message)}"


def _wanted(
    message: events.Cordoned | events.Uncordoned | events.DeploymentScaled | events.FleetRebalanced,
) -> str:
    match message:
        case events.Cordoned():
            verb = "drained" if message.drain else "cordoned"
            return f"{_place(message)} {verb}{_by(message.asked)}{_because(message.reason)}"
        case events.Uncordoned():
            return f"{_place(message)} uncordoned{_by(message.asked)}{_because(message.reason)}"
        case events.DeploymentScaled():
            replicas = f"{_replicas(message.replicas)} of {message.model.model_id}"
            spread = "" if message.spread_by is None else f", spread by {message.spread_by}"
            wanted = f"{message.deployment_id}: {replicas} wanted{spread}"
            return f"{wanted}{_by(message.asked)}{_because(message.reason)}"
        case events.FleetRebalanced(moved=moved):
            gains = [f"{name} {gain:+.0%}" for name, gain in moved.items()]
            return f"fleet rebalanced{_by(message.asked)}: {_named(gains) if gains else 'nothing'} moved"


def _hardware(
    message: events.NodeJoined | events.NodeLeft | events.DeviceRegistered | events.DeviceLost | events.DeviceFaulted,
) -> str:
    match message:
        case events.NodeJoined():
            return f"node {message.node_id} joined"
        case events.NodeLeft():
            return f"node {message.node_id} left: {message.reason}"
        case events.DeviceRegistered(device=facts):
            name = "" if facts.name is None else f", {facts.name}"
            return f"{DeviceKey.of(message.node_id, facts.device_id)} is there{name}"
        case events.DeviceLost():
            return f"{_place(message)} lost: {message.reason}"
        case events.DeviceFaulted():
            return f"{_place(message)} {message.kind} error: {message.message}"


def _telemetry(message: events.DeviceGPUStateUpdated | events.GPUBandwidthMeasured) -> str:
    match message:
        case events.DeviceGPUStateUpdated(states=states):
            said = ", ".join(state.device_id for state in states) or "is alive, nothing new"
            return f"{message.node_id}: {said}{' (all readings)' if message.heartbeat else ''}"
        case events.GPUBandwidthMeasured():
            figures = f"{rate_text(message.bandwidth_bytes_per_second)}, {seconds_text(message.latency_seconds)}"
            return f"{message.from_node} > {message.to_node}: {figures}, by {message.method}"


def _place(message: events.Cordoned | events.Uncordoned | events.DeviceLost | events.DeviceFaulted) -> str:
    return target_name(message.node_id, message.device_id)


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _at_priority(priority: int) -> str:
    return f" with priority {priority}" if priority else ""


def _taking(gave_way: Sequence[str]) -> str:
    return f"; {_named(gave_way)} gave way" if gave_way else ""


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def sender(source: str) -> str:
    """Return who sent a command, for a person: a bare message names nobody."""
    return "a sender without a name" if source == "unknown" else source


def _by(asked: events.Asked | None) -> str:
    return "" if asked is None else f" by {sender(asked.source)}"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
