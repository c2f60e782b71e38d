"""What the placer answers: a command and a state in, events out. Pure; time and the catalogue come in."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.state import FleetState
from shardbus_schemas import commands, events, subjects
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import CommandId, InstanceId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import (
    Placed,
    PlacementRequest,
    Refusal,
    RefusalCode,
    Refused,
    StatePosition,
)
from shardbus_schemas.problems import suggest
from shardbus_schemas.registry import Received

from shardbus_placer.models.catalogue import variants_of
from shardbus_placer.policy import Policy


class Planner(Protocol):
    """``planner.plan``, or another policy's."""

    def __call__(
        self,
        fleet: Fleet,
        model: ModelProfile,
        request: PlacementRequest,
        policy: Policy,
        *,
        variants: Iterable[ModelProfile] = (),
    ) -> Placed | Refused:
        """Return where ``model`` goes, or why it cannot, naming one of ``variants`` that fits."""
        ...


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the placer decides with, besides the state."""

    catalogue: Mapping[str, ModelProfile]
    policy: Policy
    plan: Planner


def command_id_of(received: Received[commands.Command]) -> CommandId:
    """Return the id the sender chose, or the one that the message's envelope or place in the stream gives."""
    return received.message.command_id or CommandId(received.envelope.event_id)


def instance_id_of(model_id: str, command_id: str) -> InstanceId:
    """Return the instance's name: a function of the command, so that the same command never makes two."""
    digest = hashlib.sha256(command_id.encode()).hexdigest()[:8]
    return InstanceId(f"{model_id.replace('/', '-')[:180]}-{digest}")


def decide(
    received: Received[commands.Command], state: FleetState, now: datetime, knowledge: Knowledge
) -> events.FleetEvent | None:
    """Return the event that answers the command, or ``None`` if the state holds its answer already."""
    command_id = command_id_of(received)
    if command_id in state.decisions:
        return None
    answer = _answer(received, command_id, state, now, knowledge)
    return answer.model_copy(update={"asked": asked(received)})


def asked(received: Received[commands.Command]) -> events.Asked:
    """Return who sent the command and when: the queue forgets it once it is answered."""
    return events.Asked(
        source=received.envelope.source,
        occurred_at=received.envelope.occurred_at,
        recorded_at=received.recorded_at,
        sequence=received.sequence,
    )


def _answer(
    received: Received[commands.Command], command_id: CommandId, state: FleetState, now: datetime, knowledge: Knowledge
) -> events.Answer:
    match received.message:
        case commands.Place() as place:
            return _place(place, received.unknown_fields, command_id, state, now, knowledge)
        case commands.Delete() as delete:
            return _delete(delete, command_id, state)
        case commands.RegisterModel(profile=profile):
            return events.ModelRegistered(profile=profile, command_id=command_id)
        case commands.Drain() | commands.Replan() as command:
            return events.CommandRejected(
                command_id=command_id,
                command_type=command.TYPE,
                code="unsupported_command",
                message=f"this placer does not carry out {command.TYPE} commands",
            )


def conflict(received: Received[commands.Place], state: FleetState, attempts: int) -> events.PlacementRejected:
    """Return the refusal of a placement that lost every race against other placers."""
    place = received.message
    message = f"other placements changed the fleet {attempts} times while this one was planned; send it again"
    answer = _reject(place, command_id_of(received), state, "conflict", message, "send the command again")
    return answer.model_copy(update={"asked": asked(received)})


def _place(
    place: commands.Place,
    unknown_fields: tuple[str, ...],
    command_id: CommandId,
    state: FleetState,
    now: datetime,
    knowledge: Knowledge,
) -> events.InstancePlaced | events.PlacementPreviewed | events.PlacementRejected:
    if place.access_token is not None:
        message = "this placer cannot check access tokens, so it grants nothing to a request that carries one"
        return _reject(
            place, command_id, state, "unsupported_access_token", message, "send the request without access_token"
        )
    name = place.wanted_model_id
    registered = state.models.get(name)
    model = place.model or (registered.profile if registered else knowledge.catalogue.get(name))
    if model is None:
        known = [*state.models, *knowledge.catalogue]
        message = f"no model is named {name!r}{suggest(name, known)}"
        remedy = "`shardbus models` lists the known ones; `shardbus model add PATH` adds one"
        return _reject(place, command_id, state, "unknown_model", message, remedy)
    request = _request_of(place)
    result = planned(model, request, state, now, knowledge)
    if unknown_fields:
        notes = (*result.notes, *(f"ignored the unknown field {field}" for field in unknown_fields))
        result = result.model_copy(update={"notes": notes})
    position = position_of(state, now)
    if isinstance(result, Refused):
        return events.PlacementRejected(
            command_id=command_id,
            model_id=model.model_id,
            request=request,
            result=result,
            position=position,
            model=model,
        )
    if place.dry_run:
        return events.PlacementPreviewed(
            command_id=command_id, request=request, plan=result, position=position, model=model
        )
    return events.InstancePlaced(
        instance_id=instance_id_of(model.model_id, command_id),
        command_id=command_id,
        model=model,
        request=request,
        plan=result,
        position=position,
    )


def planned(
    model: ModelProfile, request: PlacementRequest, state: FleetState, now: datetime, knowledge: Knowledge
) -> Placed | Refused:
    """Return where ``model`` goes in ``state``, judged at ``now``, or why it cannot."""
    variants = variants_of(model.model_id, knowledge.catalogue)
    return knowledge.plan(fleet_of(state, now), model, request, knowledge.policy, variants=variants)


def _delete(
    delete: commands.Delete, command_id: CommandId, state: FleetState
) -> events.InstanceDeleted | events.CommandRejected:
    instance = state.instances.get(delete.instance_id)
    if instance is not None and instance.status != "deleted":
        return events.InstanceDeleted(instance_id=delete.instance_id, command_id=command_id, reason=delete.reason)
    # A state that began with a snapshot does not know what was deleted before it: the answer must be the same.
    alive = [name for name, record in state.instances.items() if record.status != "deleted"]
    message = (
        f"there is no instance {delete.instance_id!r}: it never was, or is deleted already"
        f"{suggest(delete.instance_id, alive)}"
    )
    return events.CommandRejected(
        command_id=command_id, command_type=delete.TYPE, code="unknown_instance", message=message
    )


def position_of(state: FleetState, as_of: datetime | None = None) -> StatePosition:
    """Return the pair of sequences that names ``state``, and the moment at which it was judged, if it was."""
    return StatePosition(
        telemetry_sequence=state.positions.get("TELEMETRY", 0),
        fleet_sequence=state.positions.get("FLEET", 0),
        as_of=as_of,
    )


def _reject(
    place: commands.Place, command_id: CommandId, state: FleetState, code: RefusalCode, message: str, remedy: str
) -> events.PlacementRejected:
    refused = Refused(
        model_id=place.wanted_model_id,
        strategy="none",
        strategy_reason="refused before planning",
        refusal=Refusal(code=code, message=message, remedy=remedy),
    )
    return events.PlacementRejected(
        command_id=command_id,
        model_id=place.wanted_model_id,
        request=_request_of(place),
        result=refused,
        position=position_of(state),
    )


def _request_of(place: commands.Place) -> PlacementRequest:
    """Return what was asked, as it may be stored: without the token, and with the model by its name alone."""
    kept = {name: getattr(place, name) for name in PlacementRequest.model_fields}
    return PlacementRequest.model_validate(
        kept | {"model_id": place.wanted_model_id, "model": None, "access_token": None}
    )


LEDGER = subjects.INSTANCES_ALL
"""Placements are appended only if nothing was placed, replaced, lost or deleted since the state they saw."""
