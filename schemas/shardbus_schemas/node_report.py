"""What ``shardbus agent --once --json`` prints: what a node is, and one look at each of its devices."""

from typing import Literal

from shardbus_schemas.devices import DeviceFacts, PeerPath
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.model import FrozenModel, UtcDatetime
from shardbus_schemas.telemetry import DeviceGPUState


class ReportedDevice(FrozenModel):
    """One device: what it is, and what it did at the moment of the report."""

    facts: DeviceFacts
    """With ``sources`` of each figure, and ``unknown``: the reason for each fact that is not known."""
    state: DeviceGPUState | None = None
    """``None`` if nobody could sample it."""
    unknown: dict[str, str] = {}
    """Reading that is ``None`` in ``state`` to the reason."""
    gauges: dict[str, float] = {}
    """Further figures, by a name that ends in its unit."""
    problem: str | None = None
    """Why it cannot be used: it fell off the bus, hangs, or must be reset."""


class ReportedLink(FrozenModel):
    """The way from one device of the node to another."""

    from_device: DeviceId
    to: PeerPath


class ReportedInterface(FrozenModel):
    """One network interface of the node."""

    name: str
    speed_bytes_per_second: float | None = None
    is_up: bool | None = None
    addresses: tuple[str, ...] = ()


class ReportedBackend(FrozenModel):
    """One source of devices that was asked."""

    name: str
    is_available: bool
    reason: str | None = None
    """Why it is not available."""
    devices: tuple[DeviceId, ...] = ()
    """Those that it knows of."""


class NodeReport(FrozenModel):
    """A node as its agent sees it, without any server."""

    version: Literal[1] = 1
    """Of this document's shape."""
    node_id: NodeId
    hostname: str | None = None
    operating_system: str | None = None
    python: str | None = None
    agent_version: str | None = None
    labels: dict[str, str] = {}
    taken_at: UtcDatetime
    seconds: float
    """How long the look took."""
    devices: tuple[ReportedDevice, ...] = ()
    links: tuple[ReportedLink, ...] = ()
    """Inside the node."""
    interfaces: tuple[ReportedInterface, ...] = ()
    faults: tuple[str, ...] = ()
    """Errors that drivers told of during the look."""
    backends: tuple[ReportedBackend, ...] = ()
