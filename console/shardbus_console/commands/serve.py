"""``shardbus agent``, ``projector``, ``placer``, and ``up``, which runs them all with servers of its own."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from shardbus_infra.settings import CommonSettings

from shardbus_console.connection import announce, settings_for
from shardbus_console.exits import needs
from shardbus_console.options import NatsUrl, PostgresUrl
from shardbus_console.output import say

if TYPE_CHECKING:
    from shardbus_console.running import Part

NodeName = Annotated[str | None, typer.Option("--node-id", help="This node's name. [default: its host name]")]


def _readable_fleet(file: Path | None) -> Path | None:
    """Read the file once before anything starts: a mistake in it is said at once."""
    if file is not None:
        from shardbus_infra.files.fleet_file import read_fleet

        read_fleet(file)
    return file


FleetFile = Annotated[
    Path | None,
    typer.Option("--simulate", metavar="FILE", callback=_readable_fleet, help="Play the fleet of this file."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="The simulation's seed.")]
DataFolder = Annotated[
    Path | None, typer.Option("--data-dir", metavar="FOLDER", help="Where the servers keep their data.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (up, agent, projector, placer):
        app.command()(command)


def agent(*, node_id: NodeName = None, simulate: FleetFile = None, seed: Seed = None, nats_url: NatsUrl = None) -> None:
    """Report this node's devices until interrupted.

    With --simulate the fleet of a file is played instead.
    """
    with needs("agent"):
        from shardbus_agents.settings import AgentSettings
    flags = {"node_id": node_id, "simulate": simulate, "simulate_seed": seed, "nats_url": nats_url}
    settings = settings_for(AgentSettings, **flags)
    from shardbus_console.agent_process import become

    become(settings, flags)


def projector(*, nats_url: NatsUrl = None, postgres_url: PostgresUrl = None) -> None:
    """Fold the streams into Postgres until interrupted.

    Run several: one works, the others stand by.
    """
    with needs("projector"):
        from shardbus_eventstore.settings import ProjectorSettings
    settings = settings_for(ProjectorSettings, nats_url=nats_url, postgres_url=postgres_url)
    from shardbus_console.running import projector_part

    _serve({"projector": projector_part(settings)}, settings)


def placer(*, nats_url: NatsUrl = None) -> None:
    """Answer placement commands until interrupted.

    Run several: they share the queue.
    """
    with needs("placer"):
        from shardbus_placer.settings import PlacerSettings
    settings = settings_for(PlacerSettings, nats_url=nats_url)
    from shardbus_console.running import placer_part

    _serve({"placer": placer_part(settings)}, settings)


def up(
    *,
    data_dir: DataFolder = None,
    node_id: NodeName = None,
    simulate: FleetFile = None,
    seed: Seed = None,
    nats_port: Annotated[int, typer.Option(help="Port of the embedded NATS server.", min=0, max=65535)] = 4222,
    postgres_port: Annotated[int, typer.Option(help="Port of the embedded Postgres.", min=0, max=65535)] = 5433,
    nats_url: NatsUrl = None,
    postgres_url: PostgresUrl = None,
) -> None:
    """Run everything, with servers of its own, until interrupted.

    That is NATS, Postgres, this node's agent, the projector and the placer. Servers that are given by URL are
    used; the others are embedded, bind to loopback and keep their data. With --simulate the fleet of a file is
    played beside this node.
    """
    common = CommonSettings(**_given(data_dir=data_dir, nats_url=nats_url, postgres_url=postgres_url))
    with contextlib.ExitStack() as stack:
        say("starting the servers…")
        urls = start_servers(common, stack, nats_port=nats_port, postgres_port=postgres_port)
        file = announce(common.data_dir, urls)
        stack.callback(file.unlink, missing_ok=True)
        parts = all_parts(_given(data_dir=data_dir, node_id=node_id, **urls), simulate, seed)
        settings = CommonSettings(**_given(data_dir=data_dir, **urls))
        say(f"NATS      {urls['nats_url']}")
        say(f"data      {common.data_dir}")
        if data_dir is not None:
            say(f"          export SHARDBUS_DATA_DIR={common.data_dir} where other commands are to find it")
        say("try       `shardbus devices`, `shardbus place llama-3.1-8b` in another terminal; Ctrl-C stops everything")
        _serve(parts, settings)


def start_servers(
    settings: CommonSettings, stack: contextlib.ExitStack, *, nats_port: int = 0, postgres_port: int = 0
) -> dict[str, str]:
    """Return the URLs of both servers; those that ``settings`` does not name are started, and stopped by ``stack``."""
    with needs("embedded"):
        from shardbus_infra.embedded.servers import Servers
    named = settings.model_fields_set
    servers = Servers(
        settings.data_dir,
        nats_port=nats_port,
        postgres_port=postgres_port,
        nats_url=settings.nats_url if "nats_url" in named else None,
        postgres_url=settings.postgres_url if "postgres_url" in named else None,
    )
    stack.enter_context(servers)
    return {"nats_url": servers.nats_url, "postgres_url": servers.postgres_url}


def all_parts(flags: Mapping[str, Any], simulate: Path | None, seed: int | None) -> "dict[str, Part]":
    """Return every process, with settings from ``flags``; with ``simulate`` a second agent plays that fleet."""
    with needs("all"):
        from shardbus_agents.settings import AgentSettings
        from shardbus_eventstore.settings import ProjectorSettings
        from shardbus_placer.settings import PlacerSettings
    from shardbus_console.running import agent_part, placer_part, projector_part

    shared = {name: value for name, value in flags.items() if name != "node_id"}
    parts = {
        "projector": projector_part(ProjectorSettings(**shared)),
        "placer": placer_part(PlacerSettings(**shared)),
        "agent": agent_part(AgentSettings(**flags)),
    }
    if simulate is not None:
        play = AgentSettings(**shared, simulate=simulate, **_given(simulate_seed=seed))
        parts["simulated-agent"] = agent_part(play)
    return parts


def _serve(parts: "Mapping[str, Part]", settings: CommonSettings) -> None:
    from shardbus_console.running import serve

    serve(parts, settings, say)


def _given(**flags: object) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}
