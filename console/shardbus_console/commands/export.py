"""``shardbus export``: a placement as what a runtime needs to run it."""

from pathlib import Path
from typing import Annotated

import typer
from shardbus_infra.files.fleet_file import read_fleet
from shardbus_infra.files.model_file import read_model

from shardbus_console.commands.place import ModelFile
from shardbus_console.exits import CommandError, Exit
from shardbus_console.export.exo import NODE_LABEL
from shardbus_console.export.placement import ADDRESS_LABEL, Exported, Options, Placement
from shardbus_console.export.refusal import CannotExpressError
from shardbus_console.export.runtimes import EXPORTERS, Runtime
from shardbus_console.exportable import (
    Exportable,
    addresses_of,
    catalogue_model,
    labels_named,
    live_instance,
    plan_in,
)
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import data, heading, print_json, say

PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="A plan as `shardbus plan --json` prints it, or - for stdin."),
]
FactsFile = Annotated[
    Path | None, typer.Option("--fleet", metavar="FILE", help="Facts and labels of the plan's nodes, offline.")
]
Addresses = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        metavar="NODE=HOST[:PORT]",
        help="Where a node is; may be repeated. [default: the node's label `address`, else its host name]",
    ),
]
ExoNodes = Annotated[
    list[str] | None,
    typer.Option(
        "--exo-node", metavar="NODE=ID", help="What exo calls a node; may be repeated. [default: label `exo_node_id`]"
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(export)


def export(
    instance: Annotated[
        str | None, typer.Argument(metavar="INSTANCE", help="An id, enough of its beginning, or a model.")
    ] = None,
    *,
    runtime: Annotated[Runtime, typer.Option("--for", help="What is to run it.")],
    plan: PlanFile = None,
    fleet: FactsFile = None,
    model: ModelFile = None,
    address: Addresses = None,
    exo_node: ExoNodes = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model's file, folder or repository there. [default: $MODEL]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65000, help="The first port. [default: the runtime's own]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write the files here. [default: print them]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Write what a runtime needs to run a placement.

    Scripts, host files and shard assignments that give each device exactly the layers that the plan does; a plan that
    the runtime cannot express is refused, with the reason and what to do. With --plan it needs no server. Exits with
    3 if it is refused, 4 if a file is already there, 5 if NATS does not answer.
    """
    if (instance is None) == (plan is None):
        raise CommandError("name an instance (`shardbus instances` lists them) or give a plan with --plan FILE")
    source = live_instance(instance, nats_url) if instance is not None else plan_in(plan or Path())
    if fleet is not None:
        source = source.with_fleet(read_fleet(fleet))
    placement = _placement(source, model, address or [])
    exo_nodes = labels_named(source, exo_node or [], NODE_LABEL, "--exo-node")
    try:
        exported = EXPORTERS[runtime](placement, Options(weights=weights, port=port, exo_nodes=exo_nodes))
    except CannotExpressError as error:
        if json:
            print_json({"refusal": {"code": error.code, "message": error.what, "remedy": error.remedy}})
            raise typer.Exit(Exit.REFUSED) from error
        raise CommandError(f"{runtime.value} cannot run this plan ({error.code}): {error}", Exit.REFUSED) from error
    if output is not None:
        _write(exported, output, force=force)
    if json:
        print_json({"runtime": runtime.value, "files": dict(exported.files), "notes": list(exported.notes)})
        return
    if output is None:
        _print(exported)
    else:
        for name in exported.files:
            data.print(str(output / name), markup=False, soft_wrap=True)
    for note in exported.notes:
        say(f"note: {note}")


def _placement(source: Exportable, model: Path | None, said: list[str]) -> Placement:
    request = source.request
    return Placement(
        plan=source.plan,
        instance_id=source.instance_id,
        model=read_model(model) if model is not None else source.model or catalogue_model(source.plan),
        devices=source.devices or {},
        addresses=addresses_of(source, said, ADDRESS_LABEL),
        context_tokens=request.context_tokens if request is not None else None,
        concurrency=request.concurrency if request is not None else None,
    )


def _write(exported: Exported, folder: Path, *, force: bool) -> None:
    """Write the files, all or none where one is there already; scripts may be executed."""
    folder.mkdir(parents=True, exist_ok=True)
    there = [name for name in exported.files if (folder / name).exists() or (folder / name).is_symlink()]
    if there and not force:
        raise CommandError(f"{folder / there[0]} is already there; --force writes over it", Exit.CONFLICT)
    for name, text in exported.files.items():
        file = folder / name
        file.unlink(missing_ok=True)  # a link is replaced, not followed
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
        file.chmod(0o755 if name.endswith(".sh") else 0o644)


def _print(exported: Exported) -> None:
    for name, text in exported.files.items():
        heading(f"==> {name}")
        data.print(text.rstrip("\n"), markup=False, soft_wrap=True)
