"""``shardbus explain``: why a decision was taken, as the read model has it."""

from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import events
from shardbus_schemas.placement import Placed, PlacementRequest, Refused, StatePosition
from shardbus_schemas.problems import suggest

from shardbus_console.connection import open_read_model, settings_for
from shardbus_console.exits import CommandError
from shardbus_console.explanation_view import print_explanation
from shardbus_console.options import Json, PostgresUrl
from shardbus_console.output import data, print_json

if TYPE_CHECKING:
    from shardbus_eventstore.read_model.queries import InstanceView
    from shardbus_eventstore.state import Decision
    from sqlalchemy import Connection

_MOST_NAMED = 5


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(explain)


def explain(
    name: Annotated[str, typer.Argument(metavar="INSTANCE|COMMAND", help="An id, or enough of its beginning.")],
    *,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """Explain a placement, or why there is none.

    What was asked, where the time goes by stage and hop, what binds, the second-best plan, each device's score and
    why it holds layers or not, how the answer was found and what was proved; of a refusal, what would make it fit.
    An instance that moved since, or has no place any more, is explained as it is now; its first command, as it was.
    """
    with open_read_model(settings_for(CommonSettings, postgres_url=postgres_url)) as connection:
        found = _find(connection, name)
        newer = _newer(connection, found, name)
    if newer is not None:
        _print_newer(newer, found, json=json)
        return
    result, request, position = _explained(found)
    if json:
        print_json(
            {
                "command_id": found.command_id,
                "instance_id": found.instance_id,
                "sequence": found.sequence,
                "recorded_at": found.recorded_at.isoformat(),
                "position": position,
                "request": request,
                "result": result,
            }
        )
        return
    data.print(_heading(found), style="bold", markup=False, soft_wrap=True)
    print_explanation(result, request)
    data.print(
        f"on the fleet as of TELEMETRY {position.telemetry_sequence}, FLEET {position.fleet_sequence}; "
        f"answered at FLEET {found.sequence}, {found.recorded_at:%Y-%m-%d %H:%M:%S}Z, to {found.command_id}",
        markup=False,
        soft_wrap=True,
    )


def _newer(connection: "Connection", found: "Decision", name: str) -> "InstanceView | None":
    """Return the instance that was asked for, if another answer holds for it since ``found``."""
    from shardbus_eventstore.read_model import queries

    if found.instance_id is None or not found.instance_id.startswith(name) or found.command_id == name:
        return None
    instance = queries.instance(connection, found.instance_id)
    if instance is None or instance.status == "deleted" or instance.updated_at <= found.recorded_at:
        return None
    return instance


def _print_newer(instance: "InstanceView", first: "Decision", *, json: bool) -> None:
    """Print why an instance is where it is now, or nowhere."""
    result = instance.plan if instance.status == "placed" else instance.refusal
    if json:
        print_json(
            {
                "command_id": first.command_id,
                "instance_id": instance.instance_id,
                "status": instance.status,
                "updated_at": instance.updated_at.isoformat(),
                "cause": instance.cause,
                "reason": instance.reason,
                "request": instance.request,
                "result": result,
            }
        )
        return
    became = "was placed anew" if instance.status == "placed" else "has no place"
    cause = "" if instance.cause is None else f" ({instance.cause})"
    data.print(f"{instance.instance_id} {became}{cause}: {instance.reason}", style="bold", markup=False, soft_wrap=True)
    if result is not None:
        print_explanation(result, instance.request)
    data.print(
        f"so since {instance.updated_at:%Y-%m-%d %H:%M:%S}Z; `shardbus explain {first.command_id}` says how it began, "
        f"`shardbus story {instance.instance_id}` what befell it since",
        markup=False,
        soft_wrap=True,
    )


def _find(connection: "Connection", name: str) -> "Decision":
    """Return the decision of this name, or the only one whose name begins so; raise CommandError."""
    from shardbus_eventstore.read_model import queries

    if not name:
        raise CommandError("name an instance or a command; `shardbus instances --all` lists the instances")
    exact = queries.decision(connection, command_id=name) or queries.decision(connection, instance_id=name)
    if exact is not None:
        return exact
    begin = [
        named
        for row in queries.decision_names(connection, prefix=name)
        for named in (row.instance_id, row.command_id)
        if named is not None and named.startswith(name)
    ]
    found = {
        one.command_id: one
        for named in begin
        if (one := queries.decision(connection, instance_id=named) or queries.decision(connection, command_id=named))
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        some = ", ".join(sorted(set(begin))[:_MOST_NAMED])
        raise CommandError(f"{len(found)} decisions have names that begin with {name!r}: {some}; write more of it")
    known = [
        named for row in queries.decision_names(connection) for named in (row.instance_id, row.command_id) if named
    ]
    raise CommandError(
        f"no decision is known for an instance or command {name!r}{suggest(name, known)}; "
        "`shardbus instances --all` lists the instances"
    )


def _explained(found: "Decision") -> tuple[Placed | Refused, PlacementRequest | None, StatePosition]:
    match found.event:
        case events.InstancePlaced() | events.PlacementPreviewed() as answer:
            return answer.plan, answer.request, answer.position
        case events.PlacementRejected() | events.InstancePending() as answer:
            return answer.result, answer.request, answer.position
        case events.InstanceReplaced() as answer:
            return answer.plan, None, answer.position
        case events.InstanceDeleted(instance_id=instance_id):
            why = f"deleted {instance_id}; `shardbus explain {instance_id}` says why it was where it was"
        case events.CommandRejected(message=message):
            why = f"was refused: {message}"
        case events.ModelRegistered(profile=profile):
            why = f"registered the model {profile.model_id}"
        case events.Cordoned() | events.Uncordoned() | events.DeploymentScaled() | events.FleetRebalanced() as answer:
            why = f"was answered by {answer.TYPE}; `shardbus story` tells it"
    raise CommandError(f"the command {found.command_id} placed nothing that could be explained: it {why}")


def _heading(found: "Decision") -> str:
    match found.event:
        case events.InstancePlaced() as answer:
            return f"{answer.model.model_id} was placed as {answer.instance_id}"
        case events.InstanceReplaced() as answer:
            return f"{answer.instance_id} got a new plan: {answer.reason}"
        case events.PlacementPreviewed() as answer:
            return f"{answer.plan.model_id} would have been placed (dry run)"
        case _:
            return f"{found.command_id} was refused"
