"""``shardbus models`` and ``shardbus model add``: what can be placed."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import events
from shardbus_schemas.commands import RegisterModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.units import bytes_text

from shardbus_console.access_token import with_access
from shardbus_console.connection import open_bus, settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.options import AccessTokenFile, Json, NatsUrl
from shardbus_console.output import print_json, print_table, say

if TYPE_CHECKING:
    from shardbus_placer.models.catalogue import Catalogue

_RIGHT = frozenset({"parameters", "weights", "KV/token", "layers"})


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(models)
    group = typer.Typer(help="Show a model, or add one of your own.", no_args_is_help=True, rich_markup_mode=None)
    group.command()(add)
    group.command()(show)
    app.add_typer(group, name="model")


def models(
    search: Annotated[str | None, typer.Argument(help="Only models whose id contains this.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Each in every quantisation, too.")] = False,
    json: Json = False,
) -> None:
    """List the models that can be placed by their id alone."""
    known = _catalogue()
    names = known if everything else known.models
    found = [known[name] for name in sorted(names) if search is None or search in name]
    if json:
        print_json(found)
        return
    print_table(None, [_row(profile) for profile in found], right=_RIGHT)
    say(
        f"{len(found)} models; each also as MODEL-4bit, -8bit, -fp8, -q4_k_m and more (`shardbus models --all`). "
        "`shardbus model add PATH` adds one from a config.json or a GGUF file"
    )


def show(model_id: Annotated[str, typer.Argument(help="A model of `shardbus models`.")]) -> None:
    """Print a model's profile as JSON, in the shape of a model file."""
    known = _catalogue()
    if model_id not in known:
        raise CommandError(
            f"no model is named {model_id!r}{known.did_you_mean(model_id)}; `shardbus models` lists them"
        )
    print_json(known[model_id].model_dump(mode="json", exclude_defaults=True))


def add(
    path: Annotated[Path, typer.Argument(help="A model's folder, config.json, GGUF file, or model file.")],
    *,
    model_id: Annotated[str | None, typer.Option(help="The name to give it. [default: its own]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the profile, register nothing.")] = False,
    access_token_file: AccessTokenFile = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 10.0,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Register a model by its own files.

    Its profile is computed from them, offline.
    """
    with needs("placer"):
        from shardbus_placer.models.importer import import_model
    profile = import_model(path, model_id=model_id)
    if not dry_run:
        settings = settings_for(CommonSettings, nats_url=nats_url)
        command = with_access(RegisterModel(profile=profile), access_token_file)
        answer = asyncio.run(_register(command, settings, timeout))
        if isinstance(answer, events.CommandRejected):
            raise CommandError(answer.message, Exit.REFUSED)
        if not isinstance(answer, events.ModelRegistered):
            raise CommandError(f"the placer answered with {type(answer).__name__}", Exit.REFUSED)
    if json:
        print_json(profile)
    else:
        print_table(None, [_row(profile)], right=_RIGHT)
        say("nothing was registered (dry run)" if dry_run else f"{profile.model_id} is registered")


async def _register(command: RegisterModel, settings: CommonSettings, timeout_seconds: float) -> object:
    from shardbus_console.ask import ask

    async with open_bus(settings) as bus:
        return await ask(bus, command, timeout_seconds=timeout_seconds)


def _catalogue() -> "Catalogue":
    with needs("placer"):
        from shardbus_placer.models.catalogue import catalogue
    return catalogue()


def _row(profile: ModelProfile) -> dict[str, object]:
    parameters = profile.parameters
    return {
        "model": profile.model_id,
        "parameters": "?" if parameters is None else f"{parameters / 1e9:.3g}B",
        "layers": profile.layers,
        "weights": bytes_text(profile.weight_bytes),
        "stored as": profile.quantization or profile.dtype or "?",
        "KV/token": bytes_text(sum(profile.kv_bytes_by_layer(1))),
        "source": profile.source or "",
    }
