"""The fleet's links, each way, as the planner sees them."""

from collections.abc import Mapping
from dataclasses import dataclass

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey, NodeId

from shardbus_placer.policy import Policy


@dataclass(frozen=True)
class Links:
    """Every link that exists."""

    between: Mapping[tuple[NodeId, NodeId], LinkFigures]
    inside: Mapping[NodeId, LinkFigures]
    guessed: frozenset[NodeId]
    """Nodes that do not say what lies between their devices."""
    for_tensor: frozenset[tuple[NodeId, NodeId]] = frozenset()
    """Pairs of nodes, either way round, whose links both ways are good enough for a tensor group across them."""

    def way(self, here: DeviceKey, there: DeviceKey) -> LinkFigures:
        """Return the link from one device to another; it must exist."""
        a, b = here.node_id, there.node_id
        return self.inside[a] if a == b else self.between[a, b]


def links_of(fleet: Fleet, policy: Policy) -> Links:
    """Return every link that exists: declared ones, the default for other pairs, and those inside nodes."""
    declared: dict[tuple[NodeId, NodeId], LinkFigures] = {(link.from_node, link.to_node): link for link in fleet.links}
    if fleet.default_link is not None:
        for a in fleet.nodes:
            for b in fleet.nodes:
                if a.node_id != b.node_id:
                    declared.setdefault((a.node_id, b.node_id), fleet.default_link)
    good = {pair for pair, link in declared.items() if joins_tensor_groups(link, policy)}
    return Links(
        between=declared,
        inside={node.node_id: node.device_link or policy.device_link for node in fleet.nodes},
        guessed=frozenset(node.node_id for node in fleet.nodes if node.device_link is None),
        for_tensor=frozenset((a, b) for a, b in good if (b, a) in good),
    )


def joins_tensor_groups(link: LinkFigures, policy: Policy) -> bool:
    """Return whether a tensor group may use this link between nodes."""
    least = policy.tensor_link
    return least is not None and (
        link.bandwidth_bytes_per_second >= least.bandwidth_bytes_per_second
        and link.latency_seconds <= least.latency_seconds
    )
