"""``shardbus scale`` and ``deployments``: so many replicas of a model."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import commands, events
from shardbus_schemas.problems import explain

from shardbus_console.commanding import Reason, Timeout, UntilOption, Wait, carry_out
from shardbus_console.connection import open_read_model, settings_for
from shardbus_console.exits import CommandError
from shardbus_console.options import AccessTokenFile, Json, NatsUrl, PostgresUrl
from shardbus_console.output import data, print_json, print_table, say
from shardbus_console.progress import ReplicasRun
from shardbus_console.request_options import request_options

if TYPE_CHECKING:
    from shardbus_eventstore.read_model.queries import DeploymentView
    from shardbus_eventstore.state import FleetState
    from shardbus_schemas.events import Answer

    from shardbus_console.progress import Goal


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(request_options(scale, leave_out={"dry_run", "wait_for_capacity"}))
    app.command()(deployments)


def scale(
    model_id: Annotated[str, typer.Argument(help="A model of `shardbus models`.")],
    replicas: Annotated[int, typer.Argument(min=0, max=1000, metavar="N", help="How many are wanted.")],
    *,
    deployment: Annotated[
        str | None, typer.Option(metavar="NAME", help="What they are called together. [default: the model's id]")
    ] = None,
    spread_by: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="The label of nodes that names what fails together. [default: each node]"),
    ] = None,
    reason: Reason = None,
    wait: Wait = False,
    until: UntilOption = None,
    timeout: Timeout = None,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
    asked: dict[str, object],
) -> None:
    """Want N replicas of a model, each apart from the others.

    They are spread over what fails together: nodes, or with --spread-by the sites or racks that a label names.

    Of a deployment that there is already only the number changes, unless conditions are given. What has no place waits
    as pending. With --wait until all are placed and run, or the rest is pending (exit code 6).
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)
    own = {"deployment_id": deployment, "spread_by": spread_by, "reason": reason, "replicas": replicas}
    command = scale_command({"model_id": model_id, **own, **asked})

    def scaled(_: "FleetState", answer: "Answer") -> "Goal | None":
        if isinstance(answer, events.DeploymentScaled):
            return ReplicasRun(answer.deployment_id, until)
        return None

    waits = wait or until is not None
    carry_out(
        command,
        settings,
        timeout_seconds=timeout,
        json=json,
        access_token_file=access_token_file,
        wait_for=scaled if waits else None,
    )


def scale_command(asked: dict[str, Any]) -> commands.Scale:
    """Return the command that ``asked`` describes; raise CommandError with what is wrong."""
    try:
        return commands.Scale.model_validate(asked, strict=False)
    except ValidationError as error:
        raise CommandError(explain(error, commands.Scale)) from error


def deployments(*, postgres_url: PostgresUrl = None, json: Json = False) -> None:
    """List the deployments: replicas wanted, placed, pending."""
    from shardbus_eventstore.read_model import queries

    with open_read_model(settings_for(CommonSettings, postgres_url=postgres_url)) as connection:
        found = queries.deployments(connection)
        replicas = [each for each in queries.instances(connection) if each.deployment_id is not None]
    if json:
        print_json(
            [
                {
                    **view.model_dump(mode="json"),
                    "instances": [
                        {"instance_id": each.instance_id, "status": each.status, "reason": each.reason}
                        for each in replicas
                        if each.deployment_id == view.deployment_id
                    ],
                }
                for view in found
            ]
        )
        return
    print_table(None, [deployment_row(view) for view in found], right=frozenset({"wanted", "placed", "pending"}))
    for each in replicas:
        if each.status != "placed":
            data.print(f"{each.instance_id} is {each.status}: {each.reason}", markup=False, soft_wrap=True)
    if not found:
        say("there is no deployment; try `shardbus scale llama-3.1-8b 2`")


def deployment_row(view: "DeploymentView") -> dict[str, object]:
    """Return a deployment as a row of the table."""
    return {
        "deployment": view.deployment_id,
        "model": view.model_id,
        "wanted": view.replicas,
        "placed": view.placed,
        "pending": view.pending or "",
        "spread by": view.spread_by or "node",
        "since": f"{view.created_at:%Y-%m-%d %H:%M:%S}",
        "changed": f"{view.updated_at:%Y-%m-%d %H:%M:%S}",
    }
