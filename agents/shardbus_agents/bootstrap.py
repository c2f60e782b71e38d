"""Which backends and nodes there are: the one module that names them. Nothing is opened here yet."""

import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shardbus_infra.bus.port import Bus
from shardbus_schemas.ids import NodeId
from shardbus_schemas.presence import AgentPresent

from shardbus_agents.agent import Agent, Identity
from shardbus_agents.backends.nvml.sampler import NvmlSampler
from shardbus_agents.backends.protocol import Backend, BackendUnavailableError
from shardbus_agents.benchmarks import FILE_NAME, BenchmarkFile
from shardbus_agents.collector import Snapshot
from shardbus_agents.life import agent_version, new_boot
from shardbus_agents.member import Member
from shardbus_agents.node import Node
from shardbus_agents.presence import Presence
from shardbus_agents.runners.address import default_socket
from shardbus_agents.runners.board import Board
from shardbus_agents.runners.server import RunnerServer
from shardbus_agents.sampler import BackendSampler, PromptSampler, Sampler, ThreadedSampler
from shardbus_agents.settings import AgentSettings, BackendName

if TYPE_CHECKING:
    from shardbus_agents.probe.prober import Prober
    from shardbus_agents.runners.ledger import Ledger
    from shardbus_agents.runners.played import PlayedRunners
    from shardbus_agents.simulation import Narrator, PlayedNode

_log = logging.getLogger(__name__)

BY_TRUST: Final[tuple[BackendName, ...]] = ("nvml", "amdgpu", "intel", "psutil", "mlx", "apple")
"""What an earlier one says of a device, a later one does not change: a driver knows its load, MLX only what it is.

On a Mac MLX knows the GPU's limit, and what Apple's tools say fills in the rest.
"""

_ONLY_ON: Final[Mapping[BackendName, str]] = {"amdgpu": "Linux", "intel": "Linux", "apple": "Darwin"}
"""Where ``auto`` looks for a backend that only one system can have."""


def nodes(
    bus: Bus, settings: AgentSettings, *, now: Callable[[], datetime]
) -> "tuple[Member | PlayedNode | Narrator | Ledger, ...]":
    """Return this host as a node, or those of the fleet file that is to be played.

    Raises FileError, and InfraError if the probe server or the runners' socket cannot be where a person said.
    """
    wiring = _Wiring(bus, settings, now, _watchers(settings))
    if settings.simulate is not None:
        # Imported here: an agent of a real host needs neither this nor YAML.
        from shardbus_agents.played_fleet import play_file  # noqa: PLC0415 - see above

        ledger = None
        if settings.simulate_shards:
            from shardbus_agents.runners.ledger import Ledger  # noqa: PLC0415 - see above

            ledger = Ledger(bus)
        played = play_file(
            settings.simulate,
            settings,
            lambda who, what, runners: wiring.member(who, (PromptSampler(what),), played=runners),
            now=now,
            wanted=None if ledger is None else (lambda: ledger.wanted),
        )
        return played if ledger is None else (*played, ledger)
    if settings.simulate_scenario is not None:
        _log.warning("simulate_scenario is set, but no fleet is played: there is nobody to play it")
    if settings.simulate_shards:
        _log.warning("simulate_shards is set, but no fleet is played: shards of this host are run by its runtimes")
    return (wiring.host(),)


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
        boot_id=new_boot(),
        hostname=platform.node() or None,
        agent_version=agent_version(),
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


Watch = Callable[[Snapshot], None]


@dataclass(frozen=True, slots=True)
class _Wiring:
    """What all nodes of this process have in common."""

    bus: Bus
    settings: AgentSettings
    now: Callable[[], datetime]
    watchers: Callable[[NodeId], Sequence[Watch]]
    """Of each node, who else sees its snapshots."""

    def host(self) -> Member:
        """Return this host as a node."""
        settings = self.settings
        return self.member(
            identity(settings),
            real_samplers(settings),
            probe_listen=settings.probe_listen,
            hears_runners=settings.runner_socket != "off",
        )

    def member(
        self,
        identity: Identity,
        samplers: tuple[Sampler, ...],
        *,
        probe_listen: str | None = None,
        hears_runners: bool = False,
        played: "PlayedRunners | None" = None,
    ) -> Member:
        """Return a node with all that runs beside it."""
        settings = self.settings
        word = AgentPresent(
            node_id=identity.node_id,
            boot_id=identity.boot_id,
            started_at=self.now(),
            hostname=platform.node() or None,
            process_id=os.getpid(),
        )
        presence = Presence(word, self.bus)
        watchers = list(self.watchers(identity.node_id))
        node = Node(
            Agent(identity, settings.pace),
            samplers,
            self.bus,
            pace=settings.pace,
            now=self.now,
            driver_patience_seconds=settings.driver_patience_seconds,
            leave_patience_seconds=settings.leave_patience_seconds,
            watchers=watchers,
            admitted=presence.admitted,
        )
        presence.contested = node.join_again
        prober = None
        if probe_listen is not None:
            prober = self._prober(probe_listen, identity, node)
            watchers.append(prober.watch)
        runners = None
        if hears_runners or played is not None:
            board = Board(identity.node_id, node, thresholds=settings.pace.thresholds, now=self.now)
            watchers.append(board.watch)
            if played is None:
                runners = self._runner_server(identity, board)
            else:
                watchers.append(lambda snapshot: board.take_all(played.reports(snapshot.devices)))
        return Member(node, presence, prober, runners)

    def _runner_server(self, identity: Identity, board: Board) -> RunnerServer:
        named = self.settings.runner_socket
        if isinstance(named, Path):
            return RunnerServer(named, board, is_named=True)
        return RunnerServer(default_socket(identity.node_id), board, is_named=False)

    def _prober(self, probe_listen: str, identity: Identity, node: Node) -> "Prober":
        # Imported here: an agent that measures no links does without all of it.
        from shardbus_agents.probe.prober import Listen, Prober  # noqa: PLC0415 - see above
        from shardbus_agents.probe.schedule import Rules  # noqa: PLC0415 - see above

        host, _, port = probe_listen.rpartition(":")
        return Prober(
            identity.node_id,
            identity.boot_id,
            self.bus,
            listen=Listen(host.strip("[]"), int(port)),
            rules=Rules(ttl_seconds=self.settings.link_ttl_seconds),
            busy_percent=self.settings.probe_busy_percent,
            tell=node.tell,
            now=self.now,
        )


def _watchers(settings: AgentSettings) -> Callable[[NodeId], Sequence[Watch]]:
    """Return who else sees a node's snapshots: the hardware metrics, if they go anywhere."""
    if settings.otel_exporter == "none":
        return lambda _: ()
    from shardbus_agents.hardware_metrics import hardware_metrics  # noqa: PLC0415 - who exports nothing pays nothing

    # A tick is late by the patience with a driver at most; what is older than that and two intervals is not renewed.
    lifetime = 2 * settings.sample_interval_seconds + settings.driver_patience_seconds
    return lambda node_id: (hardware_metrics().watcher(node_id, lifetime_seconds=lifetime),)
