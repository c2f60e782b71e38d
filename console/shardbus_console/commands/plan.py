"""``shardbus plan``: a fleet file and a model in, a placement and its reasons out; no servers."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from shardbus_infra.files.fleet_file import parse_fleet, read_fleet
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest, Refused

from shardbus_console.commands.place import ModelFile, which_model
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.options import Json
from shardbus_console.output import print_json
from shardbus_console.placement_view import print_result, result_json
from shardbus_console.request_options import place_command, request_options


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(request_options(plan))


def plan(
    model_id: Annotated[str | None, typer.Argument(help="A model of `shardbus models`.")] = None,
    *,
    fleet: Annotated[Path, typer.Option("--fleet", metavar="FILE", help="A fleet file, or - for stdin.")],
    model: ModelFile = None,
    json: Json = False,
    asked: dict[str, object],
) -> None:
    """Plan a placement on a fleet file, offline.

    Prints which device would hold which layers, and why; exits with 3 if no placement exists.
    """
    with needs("placer"):
        from shardbus_placer.planner import plan as make_plan
        from shardbus_placer.policy import Policy
    command = place_command(asked | which_model(model_id, model))
    request = PlacementRequest(**{name: getattr(command, name) for name in PlacementRequest.model_fields})
    result = make_plan(_fleet(fleet), _profile(request), request, Policy())
    if json:
        print_json(result_json(result))
    else:
        print_result(result)
    if isinstance(result, Refused):
        raise typer.Exit(Exit.REFUSED)


def _fleet(file: Path) -> Fleet:
    if str(file) != "-":
        return read_fleet(file)
    try:
        return parse_fleet(sys.stdin.buffer.read().decode("utf-8-sig"), name="standard input")
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input: not UTF-8: byte {error.start}") from error


def _profile(request: PlacementRequest) -> ModelProfile:
    from shardbus_placer.models.catalogue import catalogue

    known = catalogue()
    profile = request.model or known.get(request.wanted_model_id)
    if profile is None:
        name = request.wanted_model_id
        raise CommandError(f"no model is named {name!r}{known.did_you_mean(name)}; `shardbus models` lists them")
    return profile
