"""The directed links of a fleet file, by the node that they leave."""

from collections.abc import Iterator

from shardbus_schemas.fleet import Fleet, FleetLink
from shardbus_schemas.ids import NodeId


def links_from(fleet: Fleet, node_id: NodeId) -> Iterator[FleetLink]:
    """Yield every directed link that leaves ``node_id``: those that the file gives, then the default for the rest."""
    own = [link for link in fleet.links if link.from_node == node_id]
    yield from own
    if fleet.default_link is None:
        return
    reached = {link.to_node for link in own} | {node_id}
    for node in fleet.nodes:
        if node.node_id not in reached:
            yield FleetLink(
                **{"from": node_id, "to": node.node_id},
                bandwidth_bytes_per_second=fleet.default_link.bandwidth_bytes_per_second,
                latency_seconds=fleet.default_link.latency_seconds,
            )


def count_links_from(fleet: Fleet, node_id: NodeId) -> int:
    """Return how many those are."""
    if fleet.default_link is not None:
        return len(fleet.nodes) - 1
    return sum(link.from_node == node_id for link in fleet.links)
