"""Which backends and nodes there are: the one module that names them. Nothing is opened here yet."""

import os
import platform
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_infra.files.fleet_file import read_fleet
from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.presence import AgentPresent

from shardbus_agents.agent import Agent, Identity
from shardbus_agents.backends.protocol import Backend, BackendUnavailableError
from shardbus_agents.backends.simulated import SimulatedBackend
from shardbus_agents.collector import Snapshot
from shardbus_agents.links import links_from
from shardbus_agents.member import Member
from shardbus_agents.node import Node
from shardbus_agents.presence import Presence
from shardbus_agents.sampler import PromptSampler, Sampler, ThreadedSampler
from shardbus_agents.settings import AgentSettings, BackendName

if TYPE_CHECKING:
    from shardbus_agents.probe.prober import Prober

BY_TRUST: Final[tuple[BackendName, ...]] = ("nvml", "psutil", "mlx")
"""What an earlier one says of a device, a later one does not change: a driver knows its load, MLX only what it is."""


def nodes(bus: Bus, settings: AgentSettings, *, now: Callable[[], datetime]) -> tuple[Member, ...]:
    """Return this host as a node, or those of the fleet file that is to be played.

    Raises FileError, and InfraError if the probe server cannot listen.
    """
    if settings.simulate is not None:
        return _simulated_nodes(bus, settings, settings.simulate, now)
    identity = Identity(
        node_id=settings.node_id,
        boot_id=_new_boot(),
        hostname=platform.node() or None,
        agent_version=_version(),
        operating_system=f"{platform.system()} {platform.release()} {platform.machine()}",
        labels=tuple(settings.labels.items()),
    )
    return (_node(identity, real_samplers(settings), bus, settings, now, probe_listen=settings.probe_listen),)


def real_samplers(settings: AgentSettings) -> tuple[Sampler, ...]:
    """Return a sampler for each backend that ``settings`` ask for, in order of trust."""
    wanted = BY_TRUST if settings.backends == "auto" else settings.backends
    return tuple(
        ThreadedSampler(name, _opener(name, settings.node_id), is_wanted=settings.backends != "auto")
        for name in BY_TRUST
        if name in wanted
    )


def _opener(name: BackendName, node_id: NodeId) -> Callable[[], Backend]:
    def open_backend() -> Backend:
        # Imported here, on the backend's own thread: a package that is missing or broken is the loss of one backend.
        try:
            return _OPENERS[name](node_id)
        except ImportError as error:
            raise BackendUnavailableError(f"{error}; install it with: pip install 'shardbus[agent]'") from error

    return open_backend


def _open_nvml(node_id: NodeId) -> Backend:
    from shardbus_agents.backends.nvml import NvmlBackend  # noqa: PLC0415 - see _opener

    return NvmlBackend(node_id)


def _open_psutil(node_id: NodeId) -> Backend:
    from shardbus_agents.backends.host import HostBackend  # noqa: PLC0415 - see _opener

    return HostBackend(node_id)


def _open_mlx(node_id: NodeId) -> Backend:
    from shardbus_agents.backends.mlx import MlxBackend  # noqa: PLC0415 - see _opener

    return MlxBackend(node_id)


_OPENERS: Final[Mapping[BackendName, Callable[[NodeId], Backend]]] = {
    "nvml": _open_nvml,
    "psutil": _open_psutil,
    "mlx": _open_mlx,
}


def _simulated_nodes(bus: Bus, settings: AgentSettings, path: Path, now: Callable[[], datetime]) -> tuple[Member, ...]:
    fleet = read_fleet(path)
    return tuple(
        _node(
            Identity(
                node_id=node.node_id,
                boot_id=_new_boot(),
                agent_version=_version(),
                operating_system="simulated",
                labels=tuple(node.labels.items()),
                device_link=node.device_link,
                links=links_from(fleet, node.node_id),
            ),
            (PromptSampler(SimulatedBackend(node, seed=settings.simulate_seed)),),
            bus,
            settings,
            now,
        )
        for node in fleet.nodes
    )


def _node(
    identity: Identity,
    samplers: tuple[Sampler, ...],
    bus: Bus,
    settings: AgentSettings,
    now: Callable[[], datetime],
    *,
    probe_listen: str | None = None,
) -> Member:
    word = AgentPresent(
        node_id=identity.node_id,
        boot_id=identity.boot_id,
        started_at=now(),
        hostname=platform.node() or None,
        process_id=os.getpid(),
    )
    presence = Presence(word, bus)
    watchers: list[Callable[[Snapshot], None]] = []
    node = Node(
        Agent(identity, settings.pace),
        samplers,
        bus,
        pace=settings.pace,
        now=now,
        driver_patience_seconds=settings.driver_patience_seconds,
        leave_patience_seconds=settings.leave_patience_seconds,
        watchers=watchers,
        admitted=presence.admitted,
    )
    presence.contested = node.join_again
    prober = None
    if probe_listen is not None:
        prober = _prober(probe_listen, identity, bus, settings, node, now)
        watchers.append(prober.watch)
    return Member(node, presence, prober)


def _prober(
    probe_listen: str,
    identity: Identity,
    bus: Bus,
    settings: AgentSettings,
    node: Node,
    now: Callable[[], datetime],
) -> "Prober":
    # Imported here: an agent that measures no links does without all of it.
    from shardbus_agents.probe.prober import Listen, Prober  # noqa: PLC0415 - see above
    from shardbus_agents.probe.schedule import Rules  # noqa: PLC0415 - see above

    host, _, port = probe_listen.rpartition(":")
    return Prober(
        identity.node_id,
        identity.boot_id,
        bus,
        listen=Listen(host.strip("[]"), int(port)),
        rules=Rules(ttl_seconds=settings.link_ttl_seconds),
        busy_percent=settings.probe_busy_percent,
        tell=node.tell,
        now=now,
    )


def _new_boot() -> BootId:
    return BootId(uuid7())


def _version() -> str | None:
    try:
        return metadata.version("shardbus")
    except metadata.PackageNotFoundError:
        return None
