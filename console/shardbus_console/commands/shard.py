"""``shardbus shard``: say from a shell what a runtime of this node runs."""

from pathlib import Path
from typing import Annotated

import typer
from shardbus_schemas.units import bytes_of

from shardbus_console.exits import CommandError, Exit

Instance = Annotated[str, typer.Argument(help="The instance that the shard is of.")]
Device = Annotated[str, typer.Argument(help="The device of this node: its id, its uuid, or its label, such as cuda:0.")]
Memory = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="What the runtime takes there now: 7.5GiB, or bytes.")
]
Layers = Annotated[
    str | None, typer.Option("--layers", metavar="FIRST-LAST", help="The layers it holds, as plans print them: 0-15.")
]
Message = Annotated[str | None, typer.Option("--message", metavar="TEXT", help="What went wrong, or how far it is.")]
Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="Where the agent listens. [env: SHARDBUS_RUNNER_SOCKET; default: where this host's agent does]",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(
        help="Say to the agent of this node what a shard does.", no_args_is_help=True, rich_markup_mode=None
    )
    for command in (loading, ready, failed, stopped):
        group.command()(command)
    app.add_typer(group, name="shard")


def loading(
    instance: Instance,
    device: Device,
    *,
    memory: Memory = None,
    layers: Layers = None,
    message: Message = None,
    socket: Socket = None,
) -> None:
    """Say that a shard's weights are on their way."""
    _report(socket, "loading", instance, device, memory, layers, message)


def ready(
    instance: Instance,
    device: Device,
    *,
    memory: Memory = None,
    layers: Layers = None,
    message: Message = None,
    socket: Socket = None,
) -> None:
    """Say that a shard answers."""
    _report(socket, "ready", instance, device, memory, layers, message)


def failed(
    instance: Instance,
    device: Device,
    *,
    memory: Memory = None,
    layers: Layers = None,
    message: Message = None,
    socket: Socket = None,
) -> None:
    """Say that a shard does not run: it is placed anew.

    The device is left alone for a while.
    """
    _report(socket, "failed", instance, device, memory, layers, message)


def stopped(instance: Instance, device: Device, *, message: Message = None, socket: Socket = None) -> None:
    """Say that a shard runs no more, as it should be."""
    _report(socket, "stopped", instance, device, None, None, message)


def _report(
    socket: Path | None,
    state: str,
    instance: str,
    device: str,
    memory: str | None,
    layers: str | None,
    message: str | None,
) -> None:
    """Say it, and end with 5 where no agent is and with 2 where the agent does not take it."""
    from shardbus_agents.runners.client import AgentAwayError, ReportRefusedError, report

    first, end = _range(layers)
    try:
        used = None if memory is None else bytes_of(memory)
    except ValueError as error:
        raise CommandError(f"--memory {error}") from error
    try:
        report(
            socket,
            instance_id=instance,
            device=device,
            state=state,
            start_layer=first,
            end_layer=end,
            memory_used_bytes=used,
            message=message,
        )
    except AgentAwayError as error:
        raise CommandError(str(error), Exit.UNREACHABLE) from error
    except ReportRefusedError as error:
        raise CommandError(f"the agent does not take this: {error}") from error


def _range(layers: str | None) -> tuple[int | None, int | None]:
    """Return the first layer, and one past the last."""
    if layers is None:
        return None, None
    first, _, last = layers.partition("-")
    if not (first.isdecimal() and last.isdecimal()) or int(first) > int(last):
        raise CommandError(f"--layers {layers}: write the first and the last layer, such as 0-15")
    return int(first), int(last) + 1
