"""``shardbus place`` and ``shardbus delete``: ask the placer, and print what it answers."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from shardbus_infra.files.model_file import read_model
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import commands, events
from shardbus_schemas.commands import Command
from shardbus_schemas.ids import InstanceId

from shardbus_console.access_token import with_access
from shardbus_console.connection import open_bus, settings_for
from shardbus_console.exits import CommandError, Exit
from shardbus_console.options import AccessTokenFile, Json, NatsUrl
from shardbus_console.output import print_json, say
from shardbus_console.placement_view import print_result
from shardbus_console.request_options import place_command, request_options

if TYPE_CHECKING:
    from shardbus_console.ask import Answer

Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the answer.")]
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
    access_token_file: AccessTokenFile = None,
    timeout: Timeout = 10.0,
    nats_url: NatsUrl = None,
    json: Json = False,
    asked: dict[str, object],
) -> None:
    """Place a model on the fleet.

    Prints which device holds which layers, and why. Exits with 3 if it is refused, 4 if other placers were
    faster, 5 if no server or placer answers.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)
    command = with_access(place_command(asked | which_model(model_id, model)), access_token_file)
    answer = asyncio.run(_send(command, settings, timeout))
    if json:
        print_json(answer)
    match answer:
        case events.InstancePlaced():
            if not json:
                print_result(answer.plan, heading=f"{answer.model.model_id} is placed as {answer.instance_id}")
        case events.PlacementPreviewed():
            if not json:
                print_result(answer.plan, heading=f"{answer.plan.model_id} would be placed (dry run)")
        case events.PlacementRejected():
            if not json:
                print_result(answer.result)
            raise typer.Exit(Exit.CONFLICT if answer.result.refusal.code == "conflict" else Exit.REFUSED)
        case _:
            _refuse(answer)


def delete(
    instance_id: Annotated[str, typer.Argument(help="An instance of `shardbus instances`.")],
    *,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    access_token_file: AccessTokenFile = None,
    timeout: Timeout = 10.0,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Delete an instance: its memory is free for others."""
    settings = settings_for(CommonSettings, nats_url=nats_url)
    command = with_access(commands.Delete(instance_id=InstanceId(instance_id), reason=reason), access_token_file)
    answer = asyncio.run(_send(command, settings, timeout))
    if json:
        print_json(answer)
    if not isinstance(answer, events.InstanceDeleted):
        _refuse(answer)
    if not json:
        say(f"{answer.instance_id} is deleted")


def which_model(model_id: str | None, file: Path | None) -> dict[str, object]:
    """Return the request's fields that name the model; exactly one way must be given."""
    if (model_id is None) == (file is None):
        raise CommandError("name a model (`shardbus models` lists them) or give one with --model FILE")
    return {"model_id": model_id} if file is None else {"model": read_model(file)}


async def _send(command: Command, settings: CommonSettings, timeout_seconds: float) -> "Answer":
    from shardbus_console.ask import ask

    async with open_bus(settings) as bus:
        return await ask(bus, command, timeout_seconds=timeout_seconds)


def _refuse(answer: "Answer") -> NoReturn:
    if isinstance(answer, events.CommandRejected):
        raise CommandError(answer.message, Exit.REFUSED)
    raise CommandError(f"the placer answered with {type(answer).__name__}", Exit.FAILED)
