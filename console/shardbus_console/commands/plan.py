"""``shardbus plan``: a fleet and a model in, a placement and its reasons out; nothing is placed."""

from typing import Annotated

import typer
from shardbus_schemas.placement import Placed, Refused

from shardbus_console.commands.place import ModelFile, which_model
from shardbus_console.exits import Exit, needs
from shardbus_console.flow_view import Front, flow_asked, print_front
from shardbus_console.known import FleetFile, position_json, print_position, read_known
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import print_json
from shardbus_console.placement_view import print_result, result_json
from shardbus_console.request_options import request_of, request_options


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(request_options(plan))


def plan(
    model_id: Annotated[str | None, typer.Argument(help="A model of `shardbus models`.")] = None,
    *,
    fleet: FleetFile = None,
    model: ModelFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
    front: Front = False,
    asked: dict[str, object],
) -> None:
    """Plan a placement on a fleet file or the live fleet.

    Prints which device would hold which layers, and why; places nothing and writes nothing. With --fleet it needs
    no server; without, it folds the streams on NATS, as `shardbus state` does. Exits with 3 if no placement
    exists, 5 if NATS does not answer.
    """
    with needs("placer"):
        from shardbus_placer.planner import plan as make_plan
        from shardbus_placer.policy import Policy
    if front:
        asked = flow_asked(asked)
    request = request_of(asked | which_model(model_id, model))
    known = read_known(fleet, nats_url)
    if front:
        print_front(known, request, Policy(), json=json)
        return
    profile = known.profile_of(request)
    result = make_plan(known.fleet, profile, request, Policy(), variants=known.variants_of(profile))
    if json:
        print_json(result_json(result) | position_json(known))
    else:
        print_result(result, heading=f"{result.model_id} would be placed" if isinstance(result, Placed) else None)
        print_position(known)
    if isinstance(result, Refused):
        raise typer.Exit(Exit.REFUSED)
