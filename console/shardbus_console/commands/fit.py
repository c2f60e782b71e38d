"""``shardbus fit``: which models a fleet can hold; nothing is placed."""

from typing import Annotated

import typer

from shardbus_console.exits import Exit, needs
from shardbus_console.fit_view import RIGHT, fitting_rows, missing_rows, summary
from shardbus_console.known import FleetFile, position_json, print_position, read_known
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import data, print_json, print_table, with_progress
from shardbus_console.request_options import ONLY_COMMANDS, request_of, request_options

DEADLINE_MS = 50
"""Per model: a whole catalogue is planned, and a good answer for each is enough."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(request_options(fit, leave_out={*ONLY_COMMANDS, "pin"}, defaults={"deadline_ms": DEADLINE_MS}))


def fit(
    search: Annotated[str | None, typer.Argument(help="Only models whose id contains this.")] = None,
    *,
    fleet: FleetFile = None,
    family: Annotated[str | None, typer.Option(help="Only models of this family, such as llama or qwen3_moe.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Each in every quantisation.")] = False,
    longest_context: Annotated[
        bool, typer.Option("--longest-context", help="Also the longest context that fits; takes several times as long.")
    ] = False,
    nats_url: NatsUrl = None,
    json: Json = False,
    asked: dict[str, object],
) -> None:
    """Say which models fit the fleet, and how fast.

    Each model of the catalogue, and each that was registered on the live fleet: its predicted speed, or how many
    bytes are missing. One that does not fit as published is also listed in its largest quantisation that does.
    Without --fleet it folds the streams on NATS. Exits with 3 if none fits, 5 if NATS does not answer.
    """
    with needs("placer"):
        from shardbus_placer.fit import fit as find_fits
        from shardbus_placer.fit import ranked
        from shardbus_placer.policy import Policy
    request = request_of({**asked, "model_id": "each"})
    known = read_known(fleet, nats_url)
    groups = known.groups(search, family, everything=everything)
    found = find_fits(known.fleet, groups, request, Policy(), longest_context=longest_context)
    fits = ranked(with_progress(found, "models", len(groups)))
    if json:
        print_json({**position_json(known), "models": fits})
    else:
        print_table(None, fitting_rows(fits), right=RIGHT)
        print_table("what does not fit" if any(one.fits for one in fits) else None, missing_rows(fits), right=RIGHT)
        data.print(summary(fits))
        print_position(known)
    if not any(one.fits for one in fits):
        raise typer.Exit(Exit.REFUSED)
