"""``shardbus place`` and ``shardbus delete``: ask the placer, and print what it answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.files.model_file import read_model
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import commands, events
from shardbus_schemas.ids import InstanceId

from shardbus_console.commanding import AnswerTimeout, Reason, Timeout, UntilOption, Wait, carry_out
from shardbus_console.connection import settings_for
from shardbus_console.exits import CommandError
from shardbus_console.options import AccessTokenFile, Json, NatsUrl
from shardbus_console.progress import InstancesRun
from shardbus_console.request_options import place_command, request_options

if TYPE_CHECKING:
    from shardbus_eventstore.state import FleetState
    from shardbus_schemas.events import Answer

    from shardbus_console.progress import Goal

ModelFile = Annotated[
    Path | None, typer.Option("--model", metavar="FILE", help="A model file instead of a known model's id.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(request_options(place))
    app.command()(delete)


def place(
    model_id: Annotated[str | None, typer.Argument(help="A model of `shardbus models`.")] = None,
    *,
    model: ModelFile = None,
    wait: Wait = False,
    until: UntilOption = None,
    timeout: Timeout = None,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
    asked: dict[str, object],
) -> None:
    """Place a model on the fleet.

    Prints which device holds which layers, and why. With --wait until it runs: until all its shards are ready, if its
    runtimes say so. Exits with 3 if it is refused, 4 if other placers were faster, 5 if no server or placer answers,
    6 if it waits for a place (--wait-for-capacity) or the time of --wait is over.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)
    command = place_command(asked | which_model(model_id, model))

    def placed(_: "FleetState", answer: "Answer") -> "Goal | None":
        if isinstance(answer, events.InstancePlaced | events.InstancePending):
            return InstancesRun((answer.instance_id,), until, patient=command.wait_for_capacity)
        return None

    waits = wait or until is not None
    carry_out(
        command,
        settings,
        timeout_seconds=timeout,
        json=json,
        access_token_file=access_token_file,
        wait_for=placed if waits else None,
    )


def delete(
    instance_id: Annotated[str, typer.Argument(help="An instance of `shardbus instances`.")],
    *,
    reason: Reason = None,
    timeout: AnswerTimeout = 10.0,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Delete an instance: its memory is free for others."""
    settings = settings_for(CommonSettings, nats_url=nats_url)
    command = commands.Delete(instance_id=InstanceId(instance_id), reason=reason)
    carry_out(command, settings, timeout_seconds=timeout, json=json, access_token_file=access_token_file)


def which_model(model_id: str | None, file: Path | None) -> dict[str, object]:
    """Return the request's fields that name the model; exactly one way must be given."""
    if (model_id is None) == (file is None):
        raise CommandError("name a model (`shardbus models` lists them) or give one with --model FILE")
    return {"model_id": model_id} if file is None else {"model": read_model(file)}
