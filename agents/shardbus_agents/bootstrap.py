"""Which backends and nodes there are: the one module that names them. Nothing is opened here yet."""

import logging
import platform
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_infra.files.fleet_file import read_fleet
from shardbus_infra.files.scenario_file import read_scenario
from shardbus_schemas.fleet import Fleet, FleetNode
from shardbus_schemas.ids import BootId, DeviceId
from shardbus_schemas.scenario import Scenario

from shardbus_agents.agent import Agent, Identity
from shardbus_agents.backends.nvml.sampler import NvmlSampler
from shardbus_agents.backends.protocol import Backend, BackendUnavailableError
from shardbus_agents.backends.simulated import Script, SimulatedBackend
from shardbus_agents.benchmarks import FILE_NAME, BenchmarkFile
from shardbus_agents.cast import Cast
from shardbus_agents.links import count_links_from, links_from
from shardbus_agents.node import Node
from shardbus_agents.sampler import BackendSampler, PromptSampler, Sampler, ThreadedSampler
from shardbus_agents.settings import AgentSettings, BackendName
from shardbus_agents.simulation import Narrator, Playable, PlayedLinks, PlayedNode, SimulationClock
from shardbus_agents.timeline import Life

_log = logging.getLogger(__name__)

BY_TRUST: Final[tuple[BackendName, ...]] = ("nvml", "amdgpu", "intel", "psutil", "mlx", "apple")
"""What an earlier one says of a device, a later one does not change: a driver knows its load, MLX only what it is.

On a Mac MLX knows the GPU's limit, and what Apple's tools say fills in the rest.
"""

_ONLY_ON: Final[Mapping[BackendName, str]] = {"amdgpu": "Linux", "intel": "Linux", "apple": "Darwin"}
"""Where ``auto`` looks for a backend that only one system can have."""

_MANY_LINKS: Final = 20_000


def nodes(
    bus: Bus, settings: AgentSettings, *, now: Callable[[], datetime]
) -> tuple[Node | PlayedNode | Narrator, ...]:
    """Return this host as a node, or those of the fleet file that is to be played; raises FileError."""
    if settings.simulate is not None:
        return _simulated_nodes(bus, settings, settings.simulate, now)
    if settings.simulate_scenario is not None:
        _log.warning("simulate_scenario is set, but no fleet is played: there is nobody to play it")
    return (_node(identity(settings), real_samplers(settings), bus, settings, now),)


def real_samplers(settings: AgentSettings) -> tuple[BackendSampler, ...]:
    """Return a sampler for each backend that ``settings`` ask for, in order of trust."""
    here = platform.system()
    possible = tuple(name for name in BY_TRUST if _ONLY_ON.get(name, here) == here)
    is_wanted = settings.backends != "auto"
    wanted = possible if settings.backends == "auto" else settings.backends
    return tuple(
        # The child that it starts is its thread.
        NvmlSampler(settings.node_id, is_wanted=is_wanted)
        if name == "nvml"
        else ThreadedSampler(name, _opener(name, settings), is_wanted=is_wanted)
        for name in BY_TRUST
        if name in wanted
    )


def identity(settings: AgentSettings) -> Identity:
    """Return who this host's agent speaks for, in a new life."""
    return Identity(
        node_id=settings.node_id,
        boot_id=_new_boot(),
        hostname=platform.node() or None,
        agent_version=_version(),
        operating_system=f"{platform.system()} {platform.release()} {platform.machine()}",
        labels=tuple(settings.labels.items()),
    )


def _opener(name: BackendName, settings: AgentSettings) -> Callable[[], Backend]:
    def open_backend() -> Backend:
        # Imported here, on the backend's own thread: a package that is missing or broken is the loss of one backend.
        try:
            return _OPENERS[name](settings)
        except ImportError as error:
            raise BackendUnavailableError(f"{error}; install it with: pip install 'shardbus[agent]'") from error

    return open_backend


def _open_amdgpu(settings: AgentSettings) -> Backend:
    from shardbus_agents.backends.amdgpu import AmdgpuBackend  # noqa: PLC0415 - see _opener

    return AmdgpuBackend(settings.node_id)


def _open_intel(settings: AgentSettings) -> Backend:
    from shardbus_agents.backends.intel import IntelBackend  # noqa: PLC0415 - see _opener

    return IntelBackend(settings.node_id)


def _open_psutil(settings: AgentSettings) -> Backend:
    from shardbus_agents.backends.host import HostBackend  # noqa: PLC0415 - see _opener

    return HostBackend(settings.node_id)


def _open_mlx(settings: AgentSettings) -> Backend:
    from shardbus_agents.backends.mlx import MlxBackend  # noqa: PLC0415 - see _opener

    return MlxBackend(settings.node_id, benchmarks=benchmark_file(settings))


def _open_apple(settings: AgentSettings) -> Backend:
    from shardbus_agents.backends.apple import AppleBackend  # noqa: PLC0415 - see _opener

    return AppleBackend(settings.node_id)


_OPENERS: Final[Mapping[BackendName, Callable[[AgentSettings], Backend]]] = {
    "amdgpu": _open_amdgpu,
    "intel": _open_intel,
    "psutil": _open_psutil,
    "mlx": _open_mlx,
    "apple": _open_apple,
}


def benchmark_file(settings: AgentSettings) -> BenchmarkFile:
    """Return where this host's measurements are kept."""
    return BenchmarkFile(settings.data_dir / FILE_NAME)


def _simulated_nodes(
    bus: Bus, settings: AgentSettings, path: Path, now: Callable[[], datetime]
) -> tuple[PlayedNode | Narrator, ...]:
    fleet = read_fleet(path)
    scenario = Scenario() if settings.simulate_scenario is None else read_scenario(settings.simulate_scenario, fleet)
    devices, links = sum(1 for _ in fleet.devices()), sum(count_links_from(fleet, node.node_id) for node in fleet.nodes)
    _log.info("playing %d nodes with %d devices and %d links of %s", len(fleet.nodes), devices, links, path)
    if links > _MANY_LINKS:
        rate = links / settings.link_interval_seconds
        _log.warning("%d links are %.0f messages a second: leave default_link out of %s", links, rate, path)
    return played_nodes(
        fleet,
        scenario,
        settings,
        lambda identity, backend: _node(identity, (PromptSampler(backend),), bus, settings, now),
        now=now,
    )


def played_nodes(
    fleet: Fleet,
    scenario: Scenario,
    settings: AgentSettings,
    begin: Callable[[Identity, Backend], Playable],
    *,
    now: Callable[[], datetime],
) -> tuple[PlayedNode | Narrator, ...]:
    """Return every node of ``fleet``, and who narrates ``scenario``.

    ``begin`` makes an agent of a node for each of its lives.
    """
    cast = Cast(scenario, fleet)
    interval = settings.sample_interval_seconds
    clock = SimulationClock(time_scale=scenario.time_scale, interval_seconds=interval, nodes=len(fleet.nodes))

    def played(place: int, node: FleetNode) -> PlayedNode:
        seen: set[DeviceId] = set()

        def live(life: Life) -> Playable:
            script = Script(
                steps=cast.devices.get(node.node_id, {}),
                clock=clock.ticks(life, place) if scenario.steps else None,
                began=life.start,
                time_scale=scenario.time_scale,
                patience_seconds=settings.driver_patience_seconds,
                seen=seen,
            )
            identity = Identity(
                node_id=node.node_id,
                boot_id=_new_boot(),
                hostname=node.node_id,
                agent_version=_version(),
                operating_system="simulated",
                labels=tuple(node.labels.items()),
                device_link=node.device_link,
            )
            return begin(identity, SimulatedBackend(node, seed=settings.simulate_seed, script=script))

        count = count_links_from(fleet, node.node_id)
        links = PlayedLinks(
            lambda: links_from(fleet, node.node_id),
            count,
            cast.links.get(node.node_id, {}),
            clock=clock,
            interval_seconds=settings.link_interval_seconds,
            now=now,
        )
        steps = cast.nodes.get(node.node_id, ())
        return PlayedNode(place, live, steps=steps, links=links if count else None, clock=clock)

    narrator = [Narrator(scenario.timed_steps(), clock)] if scenario.steps else []
    return (*(played(place, node) for place, node in enumerate(fleet.nodes)), *narrator)


def _node(
    identity: Identity, samplers: tuple[Sampler, ...], bus: Bus, settings: AgentSettings, now: Callable[[], datetime]
) -> Node:
    return Node(
        Agent(identity, settings.pace),
        samplers,
        bus,
        pace=settings.pace,
        now=now,
        driver_patience_seconds=settings.driver_patience_seconds,
        leave_patience_seconds=settings.leave_patience_seconds,
    )


def _new_boot() -> BootId:
    return BootId(uuid7())


def _version() -> str | None:
    try:
        return metadata.version("shardbus")
    except metadata.PackageNotFoundError:
        return None
