"""What the placer answers: a command and a state in, events out. Pure; time and the catalogue come in."""

from dataclasses import replace
from datetime import datetime

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.state import FleetState
from shardbus_schemas import commands, events
from shardbus_schemas.access import Grant
from shardbus_schemas.ids import CommandId, DeploymentId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest
from shardbus_schemas.problems import suggest
from shardbus_schemas.registry import Received

from shardbus_placer import carrying_out, telling
from shardbus_placer.access.check import AccessProblem, check
from shardbus_placer.access.quota import narrowed
from shardbus_placer.carrying_out import Answer
from shardbus_placer.finding import Found, find_place, may_wait, within_grant
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.naming import instance_id_of
from shardbus_placer.planning import planned
from shardbus_placer.wanted import Wanted


def command_id_of(received: Received[commands.Command]) -> CommandId:
    """Return the id the sender chose, or the one that the message's envelope or place in the stream gives."""
    return received.message.command_id or CommandId(received.envelope.event_id)


def decide(received: Received[commands.Command], state: FleetState, now: datetime, knowledge: Knowledge) -> Answer:
    """Return the events that answer the command, the answer itself last; none if the state holds its answer already.

    What comes before the answer gives way to it, and is appended before it.
    """
    command_id = command_id_of(received)
    if command_id in state.decisions:
        return ()
    *before, answer = _answer(received, command_id, state, now, knowledge)
    return (*before, answer.model_copy(update={"asked": asked(received)}))


def asked(received: Received[commands.Command]) -> events.Asked:
    """Return who sent the command and when: the queue forgets it once it is answered."""
    return events.Asked(
        source=received.envelope.source,
        occurred_at=received.envelope.occurred_at,
        recorded_at=received.recorded_at,
        sequence=received.sequence,
    )


def conflict(received: Received[commands.Command], state: FleetState, attempts: int) -> events.FleetEvent:
    """Return the refusal of a command that lost every race against other placers."""
    message = f"other placements changed the fleet {attempts} times while this one was planned; send it again"
    if isinstance(received.message, commands.Place):
        place = received.message
        answer = _reject(place, command_id_of(received), state, "conflict", message, "send the command again")
    else:
        answer = telling.rejected(received.message.TYPE, command_id_of(received), "conflict", message)
    return answer.model_copy(update={"asked": asked(received)})


def _answer(
    received: Received[commands.Command], command_id: CommandId, state: FleetState, now: datetime, knowledge: Knowledge
) -> Answer:
    command = received.message
    grant = check(command, knowledge.access, now)
    if isinstance(grant, AccessProblem):
        return [_not_permitted(command, command_id, state, grant)]
    match command:
        case commands.Place() as place:
            return _place(place, received.unknown_fields, command_id, state, now, knowledge, grant)
        case commands.Scale() as scale:
            return [_scale(scale, command_id, state, now, knowledge, grant)]
        case commands.Delete() as delete:
            return carrying_out.delete(delete, command_id, state, grant)
        case commands.RegisterModel(profile=profile):
            return [events.ModelRegistered(profile=profile, command_id=command_id)]
        case commands.Move() as move:
            return carrying_out.move(move, command_id, state, now, knowledge, grant)
        case commands.Rebalance() as rebalance:
            return carrying_out.rebalance(rebalance, command_id, state, now, knowledge)
        case commands.Cordon() | commands.Drain() as cordon:
            return carrying_out.cordon(cordon, command_id, state, grant)
        case commands.Uncordon() as uncordon:
            return carrying_out.uncordon(uncordon, command_id, state, grant)


def _place(
    place: commands.Place,
    unknown_fields: tuple[str, ...],
    command_id: CommandId,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    grant: Grant | None,
) -> Answer:
    model = _model_of(place, state, knowledge)
    if model is None:
        remedy = "`shardbus models` lists the known ones; `shardbus model add PATH` adds one"
        return [_reject(place, command_id, state, "unknown_model", _unknown_model(place, state, knowledge), remedy)]
    request = _permitted(place, state, now, grant)
    if isinstance(request, AccessProblem):
        return [_not_permitted(place, command_id, state, request)]
    wanted = Wanted(instance_id_of(model.model_id, command_id), model, request, grant)
    if place.dry_run:
        found = within_grant(wanted, Found(planned(wanted, state, now, knowledge)), state)
    else:
        found = find_place(wanted, state, now, knowledge)
    if unknown_fields:
        notes = (*found.result.notes, *(f"ignored the unknown field {field}" for field in unknown_fields))
        found = replace(found, result=found.result.model_copy(update={"notes": notes}))
    result = found.result
    if isinstance(result, Placed):
        if not place.dry_run:
            return telling.placed(wanted, found, state, now, command_id)
        position = telling.position_of(state, now)
        return [
            events.PlacementPreviewed(
                command_id=command_id, request=request, plan=result, position=position, model=model
            )
        ]
    if request.wait_for_capacity and not place.dry_run and may_wait(result):
        reason = f"there is no room yet: {result.refusal.message}"
        return [telling.pending(wanted, result, state, now, cause="no_room", reason=reason, command_id=command_id)]
    return [
        events.PlacementRejected(
            command_id=command_id,
            model_id=model.model_id,
            request=request,
            result=result,
            position=telling.position_of(state, now),
            model=model,
        )
    ]


_NOT_CONDITIONS = {"model_id", "model", "replicas", "deployment_id", "reason", "command_id", "access_token"}
"""What of ``Scale`` says nothing of how replicas are to be placed."""


def _scale(
    scale: commands.Scale,
    command_id: CommandId,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
    grant: Grant | None,
) -> events.FleetEvent:
    if scale.dry_run:
        return telling.rejected(
            scale.TYPE, command_id, "unsupported_command", "a deployment cannot be scaled as a dry run"
        )
    model = _model_of(scale, state, knowledge)
    if model is None:
        return telling.rejected(scale.TYPE, command_id, "unknown_model", _unknown_model(scale, state, knowledge))
    deployment_id = scale.deployment_id or DeploymentId(scale.wanted_model_id.replace("/", "-"))
    old = state.deployments.get(deployment_id)
    if old is not None and grant is not None and (old.grant is None or old.grant.subject != grant.subject):
        message = f"deployment {deployment_id} is not {grant.subject}'s, whose access token came with the command"
        return telling.rejected(scale.TYPE, command_id, "access_denied", message)
    if old is not None and old.model.model_id != model.model_id:
        message = (
            f"deployment {deployment_id} is of {old.model.model_id}; give another --deployment for {model.model_id}"
        )
        return telling.rejected(scale.TYPE, command_id, "unsupported_command", message)
    request = _permitted(scale, state, now, grant)
    if isinstance(request, AccessProblem):
        return _not_permitted(scale, command_id, state, request)
    keeps = old is not None and scale.model_fields_set <= _NOT_CONDITIONS
    return events.DeploymentScaled(
        deployment_id=deployment_id,
        replicas=scale.replicas,
        model=model,
        request=old.request if old is not None and keeps else request,
        spread_by=old.spread_by if old is not None and keeps else scale.spread_by,
        grant=grant,
        reason=scale.reason,
        command_id=command_id,
    )


def _model_of(
    asked_for: commands.Place | commands.Scale, state: FleetState, knowledge: Knowledge
) -> ModelProfile | None:
    name = asked_for.wanted_model_id
    registered = state.models.get(name)
    return asked_for.model or (registered.profile if registered else knowledge.catalogue.get(name))


def _unknown_model(asked_for: PlacementRequest, state: FleetState, knowledge: Knowledge) -> str:
    name = asked_for.wanted_model_id
    return f"no model is named {name!r}{suggest(name, [*state.models, *knowledge.catalogue])}"


def _reject(
    place: commands.Place, command_id: CommandId, state: FleetState, code: str, message: str, remedy: str
) -> events.PlacementRejected:
    return events.PlacementRejected(
        command_id=command_id,
        model_id=place.wanted_model_id,
        request=_request_of(place),
        result=telling.without_plan(wanted=place.wanted_model_id, code=code, message=message, remedy=remedy),
        position=telling.position_of(state),
    )


def _not_permitted(
    command: commands.Command, command_id: CommandId, state: FleetState, problem: AccessProblem
) -> events.FleetEvent:
    if isinstance(command, commands.Place):
        return _reject(command, command_id, state, problem.code, problem.message, problem.remedy)
    return telling.rejected(command.TYPE, command_id, problem.code, problem.text)


def _permitted(
    asked_for: PlacementRequest, state: FleetState, now: datetime, grant: Grant | None
) -> PlacementRequest | AccessProblem:
    """Return the request as it may be stored, on the devices that the grant permits: later plans keep to them too."""
    request = _request_of(asked_for)
    return request if grant is None else narrowed(request, grant, fleet_of(state, now))


def _request_of(asked_for: PlacementRequest) -> PlacementRequest:
    """Return what was asked, as it may be stored: without the token, and with the model by its name alone."""
    kept = {name: getattr(asked_for, name) for name in PlacementRequest.model_fields}
    return PlacementRequest.model_validate(
        kept | {"model_id": asked_for.wanted_model_id, "model": None, "access_token": None}
    )
