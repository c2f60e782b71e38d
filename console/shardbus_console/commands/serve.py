"""``shardbus agent``, ``projector``, ``placer``, and ``up``, which runs them all with servers of its own."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from shardbus_infra.settings import CommonSettings

from shardbus_console.connection import announce, settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.options import NatsUrl, PostgresUrl
from shardbus_console.output import print_json, say

if TYPE_CHECKING:
    from shardbus_agents.settings import AgentSettings

    from shardbus_console.running import Part

NodeName = Annotated[str | None, typer.Option("--node-id", help="This node's name. [default: its host name]")]


def _readable_fleet(file: Path | None) -> Path | None:
    """Read the file once before anything starts: a mistake in it is said at once."""
    if file is not None:
        from shardbus_infra.files.fleet_file import read_fleet

        read_fleet(file)
    return file


def _check_scenario(fleet: Path | None, scenario: Path | None) -> None:
    """Read the scenario once before anything starts; raises FileError, and CommandError without a fleet."""
    if scenario is None:
        return
    if fleet is None:
        raise CommandError(f"{scenario}: a scenario needs a fleet that is played; name its file with --simulate")
    from shardbus_infra.files.fleet_file import read_fleet
    from shardbus_infra.files.scenario_file import read_scenario

    read_scenario(scenario, read_fleet(fleet))


FleetFile = Annotated[
    Path | None,
    typer.Option("--simulate", metavar="FILE", callback=_readable_fleet, help="Play the fleet of this file."),
]
Scenario = Annotated[
    Path | None, typer.Option("--scenario", metavar="FILE", help="What happens to the fleet that is played.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="The simulation's seed.")]
RunShards = Annotated[
    bool | None,
    typer.Option(
        "--run-shards/--no-run-shards", help="Let the fleet that is played load what is placed on it, and report it."
    ),
]
ProbeListen = Annotated[
    str | None,
    typer.Option(
        "--probe-listen",
        metavar="HOST:PORT",
        help="Where other agents may measure the path to this node; 0.0.0.0:0 is everywhere, on a free port. "
        "[default: no link is measured]",
    ),
]
DataFolder = Annotated[
    Path | None, typer.Option("--data-dir", metavar="FOLDER", help="Where the servers keep their data.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (up, agent, projector, placer):
        app.command()(command)


def agent(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print what this node is and one look at it, and end.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure memory bandwidth and arithmetic, keep the figures, and end.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --once or --measure: print JSON.")] = False,
    node_id: NodeName = None,
    simulate: FleetFile = None,
    scenario: Scenario = None,
    seed: Seed = None,
    run_shards: RunShards = None,
    probe_listen: ProbeListen = None,
    nats_url: NatsUrl = None,
) -> None:
    """Report this node's devices until interrupted.

    With --once nothing is reported anywhere: it prints what this node is (devices, where their figures come from,
    why the others are unknown) and one look at each device; paste that into a bug report. With --measure each
    device that MLX can compute on is measured, which takes seconds per device; a running agent takes the figures
    over at its next look. With --simulate the fleet of a file is played instead, with --scenario what happens to it,
    with --run-shards as if runtimes loaded there what is placed.
    """
    with needs("agent"):
        from shardbus_agents.settings import AgentSettings
    if once or measure:
        if simulate is not None or (once and measure):
            raise CommandError("--once, --measure and --simulate exclude each other: give one of them")
        own = AgentSettings(**_given(node_id=node_id, nats_url=nats_url))
        _look(own, as_json=json) if once else _measure(own, as_json=json)
        return
    if json:
        raise CommandError("--json goes with --once or --measure")
    flags = {
        "node_id": node_id,
        "simulate": simulate,
        "simulate_scenario": scenario,
        "simulate_seed": seed,
        "simulate_shards": run_shards,
        "probe_listen": probe_listen,
        "nats_url": nats_url,
    }
    settings = settings_for(AgentSettings, **flags)
    _check_scenario(settings.simulate, settings.simulate_scenario)
    from shardbus_console.agent_process import become

    become(settings, flags)


def _look(settings: "AgentSettings", *, as_json: bool) -> None:
    """Print what this node is, and one look at it."""
    with needs("agent"):
        from shardbus_agents.once import look_once
    from shardbus_console.node_report_view import print_report

    report = look_once(settings)
    if as_json:
        print_json(report)
    else:
        print_report(report)


def _measure(settings: "AgentSettings", *, as_json: bool) -> None:
    """Measure what MLX can compute on, keep it and print it; exit with 1 if nothing could be measured."""
    with needs("agent"):
        from shardbus_agents.measuring import measure
    from shardbus_console.measurement_view import print_measurements

    try:
        measured = measure(settings, say)
    except OSError as error:
        remedy = "name another folder by SHARDBUS_DATA_DIR"
        problem = f"measurements cannot be kept in {settings.data_dir}: {error.strerror or error}"
        raise CommandError(f"{problem}; {remedy}", Exit.FAILED) from error
    if as_json:
        print_json(measured)
    else:
        print_measurements(measured)
    if not any(device.benchmark for device in measured.devices):
        raise typer.Exit(Exit.FAILED)


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
    scenario: Scenario = None,
    seed: Seed = None,
    run_shards: RunShards = True,
    probe_listen: ProbeListen = None,
    nats_port: Annotated[int, typer.Option(help="Port of the embedded NATS server.", min=0, max=65535)] = 4222,
    postgres_port: Annotated[int, typer.Option(help="Port of the embedded Postgres.", min=0, max=65535)] = 5433,
    nats_url: NatsUrl = None,
    postgres_url: PostgresUrl = None,
) -> None:
    """Run everything, with its own servers, until interrupted.

    That is NATS, Postgres, this node's agent, the projector and the placer. Servers that are given by URL are
    used; the others are embedded, bind to loopback and keep their data. With --simulate the fleet of a file is
    played beside this node, with --scenario what happens to it.
    """
    _check_scenario(simulate, scenario)
    common = CommonSettings(**_given(data_dir=data_dir, nats_url=nats_url, postgres_url=postgres_url))
    with contextlib.ExitStack() as stack:
        say("starting the servers…")
        urls = start_servers(common, stack, nats_port=nats_port, postgres_port=postgres_port)
        file = announce(common.data_dir, urls)
        stack.callback(file.unlink, missing_ok=True)
        parts = all_parts(
            _given(data_dir=data_dir, node_id=node_id, probe_listen=probe_listen, **urls),
            simulate,
            seed,
            scenario,
            run_shards=run_shards,
        )
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


def all_parts(
    flags: Mapping[str, Any],
    simulate: Path | None,
    seed: int | None,
    scenario: Path | None = None,
    *,
    run_shards: bool | None = None,
) -> "dict[str, Part]":
    """Return every process, with settings from ``flags``; with ``simulate`` a second agent plays that fleet."""
    with needs("all"):
        from shardbus_agents.settings import AgentSettings
        from shardbus_eventstore.settings import ProjectorSettings
        from shardbus_placer.settings import PlacerSettings
    from shardbus_console.running import agent_part, placer_part, projector_part

    shared = {name: value for name, value in flags.items() if name not in {"node_id", "probe_listen"}}
    parts = {
        "projector": projector_part(ProjectorSettings(**shared)),
        "placer": placer_part(PlacerSettings(**shared)),
        "agent": agent_part(AgentSettings(**flags)),
    }
    if simulate is not None:
        own = _given(simulate_seed=seed, simulate_scenario=scenario, simulate_shards=run_shards)
        play = AgentSettings(**shared, simulate=simulate, **own)
        parts["simulated-agent"] = agent_part(play)
    return parts


def _serve(parts: "Mapping[str, Part]", settings: CommonSettings) -> None:
    from shardbus_console.running import serve

    serve(parts, settings, say)


def _given(**flags: object) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}
