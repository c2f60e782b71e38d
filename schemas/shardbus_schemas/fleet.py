"""The fleet at one moment: what a fleet file declares, ``shardbus state --json`` prints, and the planner reads."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator
from typing_extensions import override

from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model import Bytes, FrozenModel, Percent, UtcDatetime
from shardbus_schemas.telemetry import Health, TemperatureCelsius, ThrottleReason

DeviceStatus = Literal["ok", "stale", "lost", "cordoned"]
"""``stale``: its last word is older than its node's heartbeat bound. ``lost``: it is gone, or its node left."""


class FleetDevice(DeviceFacts):
    """A device, with its facts and its last known readings."""

    memory_used_bytes: Bytes | None = None
    """Used by anyone, shardbus' own instances included; ``None`` is unknown."""
    memory_reserved_bytes: Bytes = 0
    """Promised to placed instances and not yet seen in ``memory_used_bytes``."""
    compute_utilization_percent: Percent | None = None
    thermal_temperature_c: TemperatureCelsius | None = None
    thermal_throttle_threshold_c: TemperatureCelsius | None = None
    is_thermal_throttling: bool | None = None
    throttle_reasons: tuple[ThrottleReason, ...] | None = None
    power_watts: Annotated[float, Field(ge=0)] | None = None
    health: Health | None = None
    battery_percent: Percent | None = None
    is_plugged_in: bool | None = None
    last_update: UtcDatetime | None = None
    status: DeviceStatus = "ok"


class FleetNode(FrozenModel):
    """A host and its devices."""

    node_id: NodeId
    labels: dict[str, str] = {}
    devices: tuple[FleetDevice, ...] = ()
    device_link: LinkFigures | None = None
    """Between any two devices of this node; unknown is ``None``."""

    def names(self) -> Sequence[NodeId]:
        """Return the nodes that this stands for: itself."""
        return (self.node_id,)


class FleetLink(LinkFigures):
    """A directed measured path between two nodes."""

    from_node: NodeId = Field(alias="from")
    to_node: NodeId = Field(alias="to")


class Fleet(FrozenModel):
    """All nodes with their devices, and the links between them.

    Without ``default_link`` an absent pair has no link. The two sequences name the state this was read from.
    """

    nodes: tuple[FleetNode, ...] = ()
    links: tuple[FleetLink, ...] = ()
    default_link: LinkFigures | None = None
    telemetry_sequence: int | None = None
    fleet_sequence: int | None = None

    def devices(self) -> Iterator[tuple[DeviceKey, FleetNode, FleetDevice]]:
        """Return each device with its fleet-wide key and its node, in the file's order."""
        for node in self.nodes:
            for device in node.devices:
                yield DeviceKey.of(node.node_id, device.device_id), node, device

    @model_validator(mode="after")
    def _names_are_unique_and_links_end_somewhere(self) -> Self:
        seen: set[str] = set()
        for node in self.nodes:
            for node_id in node.names():
                if node_id in seen:
                    raise ValueError(f"node_id {node_id!r} appears twice")
                seen.add(node_id)
            here: set[str] = set()
            for device in node.devices:
                if device.device_id in here:
                    raise ValueError(f"device_id {device.device_id!r} appears twice on node {node.node_id!r}")
                here.add(device.device_id)
        pairs: set[tuple[str, str]] = set()
        for index, link in enumerate(self.links):
            for end in (link.from_node, link.to_node):
                if end not in seen:
                    raise ValueError(f"links[{index}] names node {end!r}, which is not in nodes")
            if link.from_node == link.to_node:
                raise ValueError(
                    f"links[{index}] goes from node {link.from_node!r} to itself; use the node's device_link"
                )
            if (link.from_node, link.to_node) in pairs:
                raise ValueError(f"links[{index}] repeats the link from {link.from_node!r} to {link.to_node!r}")
            pairs.add((link.from_node, link.to_node))
        return self


class DeclaredNode(FleetNode):
    """A node as a fleet file has it: one, or with ``count`` as many of its kind."""

    count: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """``rack`` with a count of 250 stands for ``rack-001`` to ``rack-250``; they share everything but the name."""

    @override
    def names(self) -> Sequence[NodeId]:
        """Return the names of the nodes that this stands for."""
        if self.count is None:
            return (self.node_id,)
        width = len(str(self.count))
        return tuple(NodeId(f"{self.node_id}-{number:0{width}}") for number in range(1, self.count + 1))

    def nodes(self) -> Iterator[FleetNode]:
        """Yield the nodes that this stands for; they share their devices."""
        own = self.model_fields_set - {"node_id", "count"}
        said: dict[str, Any] = {name: getattr(self, name) for name in own}
        for node_id in self.names():
            yield FleetNode.model_construct(None, node_id=node_id, **said)

    @model_validator(mode="after")
    def _many_have_no_uuid_and_names_of_nodes(self) -> Self:
        if self.count is None:
            return self
        TypeAdapter(NodeId).validate_python(self.names()[-1])
        if any(device.uuid is not None for device in self.devices):
            raise ValueError("one uuid cannot be that of several devices: leave it out where there is a count")
        return self


class FleetFile(Fleet):
    """A fleet as a person writes it: nodes of one kind are written once."""

    nodes: tuple[DeclaredNode, ...] = ()  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen, so covariant

    def fleet(self) -> Fleet:
        """Return the fleet with each node by its own name."""
        # Not validated anew: what was true of the kinds is true of their nodes.
        said: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        said["nodes"] = tuple(node for declared in self.nodes for node in declared.nodes())
        return Fleet.model_construct(None, **said)
