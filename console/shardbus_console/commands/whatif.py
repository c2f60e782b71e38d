"""``shardbus whatif``: a model on the fleet as it is and as it could be; nothing is placed."""

from dataclasses import asdict
from typing import Annotated

import typer
from shardbus_schemas.placement import Refused

from shardbus_console.change_options import Add, Hot, Link, Remove, Unlink, changes_of
from shardbus_console.commands.place import ModelFile, which_model
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.known import FleetFile, position_json, print_position, read_known
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import print_json
from shardbus_console.request_options import ONLY_COMMANDS, request_of, request_options
from shardbus_console.whatif_view import print_comparison


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(request_options(whatif, leave_out=ONLY_COMMANDS))


def whatif(
    model_id: Annotated[str | None, typer.Argument(help="A model of `shardbus models`.")] = None,
    *,
    fleet: FleetFile = None,
    model: ModelFile = None,
    add: Add = None,
    remove: Remove = None,
    throttle: Hot = None,
    link: Link = None,
    unlink: Unlink = None,
    nats_url: NatsUrl = None,
    json: Json = False,
    asked: dict[str, object],
) -> None:
    """Compare a plan with that on a changed fleet.

    Devices or links are added, removed or slowed; prints both plans side by side and what it comes to. Without
    --fleet it folds the streams on NATS. Exits with 3 if no placement exists after the changes, 5 if NATS does not
    answer.
    """
    with needs("placer"):
        from shardbus_placer.changes import ImpossibleChangeError
        from shardbus_placer.policy import Policy
        from shardbus_placer.whatif import what_if
    request = request_of(asked | which_model(model_id, model))
    known = read_known(fleet, nats_url)
    profile = known.profile_of(request)
    changes = changes_of(known.fleet, add=add, remove=remove, throttle=throttle, link=link, unlink=unlink)
    try:
        comparison = what_if(known.fleet, changes, profile, request, Policy())
    except ImpossibleChangeError as error:
        raise CommandError(str(error)) from error
    if json:
        told = [{"change": type(change).__name__, **asdict(change)} for change in changes]
        print_json({**position_json(known), "changes": told, **dict(comparison)})
    else:
        print_comparison(comparison, profile.model_id)
        print_position(known)
    if isinstance(comparison.after, Refused):
        raise typer.Exit(Exit.REFUSED)
