"""What is exported: a plan, with what is known of its model and of the devices and nodes it names."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shardbus_schemas.devices import Backend, DeviceFacts
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, Stage

from shardbus_console.export.refusal import CannotExpressError

ADDRESS_LABEL: Final = "address"
"""The label of a node that says under which name or IP address the other nodes reach it."""

_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_INDEXED: Final = re.compile(r"(?P<backend>cuda|rocm|xpu|vulkan):(?P<index>\d+)")
_MOST_PORTS: Final = 65535


@dataclass(frozen=True)
class Address:
    """Where a node is, and at which port something of it listens, if that was said."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address that ``host``, ``host:port``, an IP address or ``[ip]:port`` says."""
        bracketed = re.fullmatch(r"\[(?P<host>[^\]]+)\](?::(?P<port>\d+))?", text)
        plain = re.fullmatch(r"(?P<host>[^:]+)(?::(?P<port>\d+))?", text)
        found = bracketed or plain
        host, port = (found["host"], found["port"]) if found else (text, None)
        if not (_is_ip(host) or _HOST.fullmatch(host)) or (port is not None and not 0 < int(port) <= _MOST_PORTS):
            raise CannotExpressError(
                "address_invalid", f"{text!r} is no address", "write a host name or an IP address, and :PORT if need be"
            )
        return cls(host, None if port is None else int(port))

    @property
    def is_ip(self) -> bool:
        """Whether it is an IP address, and not a name."""
        return _is_ip(self.host)

    @property
    def url_host(self) -> str:
        """The host as it stands before ``:PORT``."""
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True)
class Placement:
    """A plan and the facts around it; what is not known is absent."""

    plan: Placed
    instance_id: str | None = None
    model: ModelProfile | None = None
    devices: Mapping[DeviceKey, DeviceFacts] = field(default_factory=dict[DeviceKey, DeviceFacts])
    addresses: Mapping[NodeId, Address] = field(default_factory=dict[NodeId, Address])
    """What a person, a label or a node's own host name says."""
    context_tokens: int | None = None
    concurrency: int | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return self.instance_id or self.plan.model_id

    @property
    def layers(self) -> int:
        """How many layers the model has: a plan covers them all."""
        return max(stage.end_layer for stage in self.plan.stages)

    @property
    def members(self) -> Sequence[DeviceKey]:
        """The devices in pipeline order, those of one stage side by side."""
        return [device for stage in self.plan.stages for device in stage.devices]

    def pipeline(self) -> Sequence[Stage]:
        """Return the stages of the one pipeline that the plan is; refuse a plan of several."""
        stages = self.plan.stages
        ends = [0, *(stage.end_layer for stage in stages)]
        if [stage.start_layer for stage in stages] != ends[:-1]:
            raise CannotExpressError(
                "several_pipelines",
                f"the plan of {self.name} is several pipelines that share the requests, and a runtime runs one",
                "place it with --objective throughput or latency, or several times with --exclude",
            )
        return stages

    def pure_pipeline(self, runtime: str) -> Sequence[Stage]:
        """Return the stages, of one device each; refuse a plan that splits layers."""
        stages = self.pipeline()
        for stage in stages:
            if len(stage.devices) > 1:
                raise CannotExpressError(
                    "tensor_unsupported",
                    f"{_names(stage.devices)} share a stage's layers, and {runtime} gives each to one device",
                    "place it with --sharding pipeline",
                )
        return stages

    def backend_of(self, device: DeviceKey) -> Backend:
        """Return what drives ``device``; refuse if nobody knows."""
        facts = self.devices.get(device)
        if facts is not None and facts.backend is not None:
            return facts.backend
        if device.device_id == "cpu":
            return "cpu"
        if indexed := _INDEXED.fullmatch(device.device_id):
            backend: Backend = indexed["backend"]  # pyright: ignore[reportAssignmentType] -- the expression says which
            return backend
        raise CannotExpressError(
            "backend_unknown",
            f"what drives {device} (CUDA, Metal, …) is not known",
            "give the fleet's facts with --fleet FILE, or run an agent on that node",
        )

    def demand_backends(self, runtime: str, allowed: Sequence[Backend]) -> None:
        """Refuse a device of a backend that ``runtime`` does not have."""
        for device in self.members:
            backend = self.backend_of(device)
            if backend not in allowed:
                raise CannotExpressError(
                    "backend_unsupported",
                    f"{device} is driven by {backend}, which {runtime} does not run on",
                    f"place it with --exclude {device}, or export it for another runtime",
                )

    def index_of(self, device: DeviceKey) -> int | None:
        """Return the driver's own number of ``device``, if it is known: by its label, or by its name."""
        facts = self.devices.get(device)
        said = (facts.label if facts is not None else None) or device.device_id
        indexed = _INDEXED.fullmatch(said)
        return int(indexed["index"]) if indexed else None

    def address_of(self, node: NodeId) -> Address:
        """Return where ``node`` is: as it was said, or else under its own name; refuse if that cannot be a host's."""
        if node in self.addresses:
            return self.addresses[node]
        try:
            return Address(Address.parse(node).host)
        except CannotExpressError as error:
            raise CannotExpressError(
                "address_unknown", f"where node {node} is, is not known", f"say it with --address '{node}=HOST'"
            ) from error

    def demand_ring_addresses(self) -> None:
        """Refuse an address that MLX's ring cannot take: it splits ``host:port`` at the first colon."""
        for node in self.plan.nodes:
            address = self.address_of(node)
            if ":" in address.host or address.port is not None:
                where = address.url_host if address.port is None else f"{address.url_host}:{address.port}"
                raise CannotExpressError(
                    "address_invalid",
                    f"{node} is at {where}, and MLX's ring takes IPv4 addresses or names, and one first port for all",
                    f"say --address '{node}=HOST', and --port for the port",
                )

    def assumed_addresses(self) -> Sequence[NodeId]:
        """Return the nodes whose own name is taken for that of their host."""
        return [node for node in self.plan.nodes if node not in self.addresses]


@dataclass(frozen=True)
class Exported:
    """What a runtime needs: files by name, the first one is where to begin, and what to know of them."""

    files: Mapping[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Options:
    """What a person says of the run, beside the placement."""

    weights: str | None = None
    """What the runtime loads: a file, a folder or a repository's name on its hosts; ``None``: ``$MODEL``."""
    port: int | None = None
    """The first port, where the runtime listens; ``None``: the runtime's own."""
    exo_nodes: Mapping[NodeId, str] = field(default_factory=dict[NodeId, str])
    """The names that exo has for the nodes."""


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _names(devices: Sequence[DeviceKey]) -> str:
    return " and ".join(devices)
