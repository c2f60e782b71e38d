"""Replicas of one deployment apart from each other: which nodes their siblings' failure domains take. Pure."""

from collections.abc import Iterator

from shardbus_eventstore.state import FleetState
from shardbus_schemas.ids import NodeId

from shardbus_placer.wanted import Wanted


def domains_taken(wanted: Wanted, state: FleetState) -> Iterator[tuple[str, ...]]:
    """Yield what to keep away from, the most first: the domains of other replicas, their nodes, nothing.

    A node without the label is a domain of its own.
    """
    deployment = None if wanted.deployment_id is None else state.deployments.get(wanted.deployment_id)
    nodes = {
        device.node_id
        for other in state.instances.values()
        if wanted.deployment_id is not None
        and other.deployment_id == wanted.deployment_id
        and other.instance_id != wanted.instance_id
        for device in other.promised
    }
    label = None if deployment is None else deployment.spread_by
    if nodes:
        domains = {_domain(state, node, label) for node in nodes}
        together = {node for node in state.nodes if _domain(state, node, label) in domains} | nodes
        if together != nodes:
            yield tuple(sorted(together))
        yield tuple(sorted(nodes))
    yield ()


def _domain(state: FleetState, node: NodeId, label: str | None) -> tuple[str, str]:
    record = state.nodes.get(node)
    value = None if record is None or label is None else record.joined.labels.get(label)
    return ("node", node) if value is None else ("label", value)
