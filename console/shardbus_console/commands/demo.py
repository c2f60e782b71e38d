"""``shardbus demo``: the whole pipeline on real parts, in under a minute, then it ends by itself."""

import asyncio
import contextlib
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import subjects

from shardbus_console.commands.serve import all_parts, start_servers
from shardbus_console.output import data, heading, messages

FLEET_FILE = files("shardbus_console") / "data" / "demo_fleet.yaml"


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(demo)


def demo(
    *,
    model: Annotated[str, typer.Option(help="What to place.")] = "llama-3.1-405b-4bit",
    seed: Annotated[int, typer.Option(help="The simulation's seed.")] = 7,
) -> None:
    """Show the whole pipeline on real servers, then end.

    This machine and a simulated fleet report; a model is placed, and one that cannot fit is refused.
    """
    from shardbus_console.demonstration import show

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shardbus-demo-") as folder, contextlib.ExitStack() as stack:
        # The servers may run as another user (Postgres refuses root), who must reach the folder.
        Path(folder).chmod(0o711)
        heading("1. The servers: NATS JetStream and Postgres, embedded, on loopback")
        with messages.status("starting both"):
            urls = start_servers(CommonSettings(data_dir=Path(folder)), stack)
        data.print(f"NATS at {urls['nats_url']}, Postgres beside it; their data goes when the demo ends", markup=False)
        fleet_file = stack.enter_context(as_file(FLEET_FILE))
        flags = {"data_dir": Path(folder), "log_level": "warning", **urls}
        asyncio.run(show(all_parts(flags, fleet_file, seed), CommonSettings(**flags), fleet_file, model))
    heading(f"Done in {time.monotonic() - started:.0f} s. What to try next")
    for line in (
        "shardbus up                        everything stays, until Ctrl-C; then in another terminal:",
        "shardbus devices                   the fleet, read from Postgres",
        "shardbus place llama-3.1-8b        a placement; try --objective latency, --context-tokens 32768, --dry-run",
        "shardbus events --follow           what happens, as it happens",
        f'nats pub {subjects.command("place")} \'{{"model_id": "llama-3.1-8b"}}\'      the same, from any NATS client',
    ):
        data.print("  " + line, markup=False, soft_wrap=True)
