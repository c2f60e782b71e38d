"""Which backends and nodes there are: the one module that names them. Nothing is opened here yet."""

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_schemas.ids import BootId, NodeId

from shardbus_agents.agent import Agent, Identity
from shardbus_agents.backends.protocol import Backend, BackendUnavailableError
from shardbus_agents.backends.simulated import SimulatedBackend
from shardbus_agents.collector import Snapshot
from shardbus_agents.links import links_from
from shardbus_agents.node import Node
from shardbus_agents.sampler import PromptSampler, Sampler, ThreadedSampler
from shardbus_agents.settings import AgentSettings, BackendName

BY_TRUST: Final[tuple[BackendName, ...]] = ("nvml", "psutil", "mlx")
"""What an earlier one says of a device, a later one does not change: a driver knows its load, MLX only what it is."""

Watchers = Callable[[NodeId], Sequence[Callable[[Snapshot], None]]]
"""Of each node, who sees its snapshots."""


def nodes(bus: Bus, settings: AgentSettings, *, now: Callable[[], datetime]) -> tuple[Node, ...]:
    """Return this host as a node, or those of the fleet file that is to be played; raises FileError."""
    watchers = _watchers(settings)
    if settings.simulate is not None:
        return _simulated_nodes(bus, settings, settings.simulate, now, watchers)
    identity = Identity(
        node_id=settings.node_id,
        boot_id=_new_boot(),
        hostname=platform.node() or None,
        agent_version=_version(),
        operating_system=f"{platform.system()} {platform.release()} {platform.machine()}",
        labels=tuple(settings.labels.items()),
    )
    return (_node(identity, real_samplers(settings), bus, settings, now, watchers),)


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


def _simulated_nodes(
    bus: Bus, settings: AgentSettings, path: Path, now: Callable[[], datetime], watchers: Watchers
) -> tuple[Node, ...]:
    from shardbus_infra.files.fleet_file import read_fleet  # noqa: PLC0415 - a real node needs no YAML

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
            watchers,
        )
        for node in fleet.nodes
    )


def _node(
    identity: Identity,
    samplers: tuple[Sampler, ...],
    bus: Bus,
    settings: AgentSettings,
    now: Callable[[], datetime],
    watchers: Watchers,
) -> Node:
    return Node(
        Agent(identity, settings.pace),
        samplers,
        bus,
        pace=settings.pace,
        now=now,
        driver_patience_seconds=settings.driver_patience_seconds,
        leave_patience_seconds=settings.leave_patience_seconds,
        watchers=watchers(identity.node_id),
    )


def _watchers(settings: AgentSettings) -> Watchers:
    """Return who else sees a node's snapshots: the hardware metrics, if they go anywhere."""
    if settings.otel_exporter == "none":
        return lambda _: ()
    from shardbus_agents.hardware_metrics import hardware_metrics  # noqa: PLC0415 - who exports nothing pays nothing

    # A tick is late by the patience with a driver at most; what is older than that and two intervals is not renewed.
    lifetime = 2 * settings.sample_interval_seconds + settings.driver_patience_seconds
    return lambda node_id: (hardware_metrics().watcher(node_id, lifetime_seconds=lifetime),)


def _new_boot() -> BootId:
    return BootId(uuid7())


def _version() -> str | None:
    try:
        return metadata.version("shardbus")
    except metadata.PackageNotFoundError:
        return None
