from shardbus_agents.links import links_from
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetLink, FleetNode
from shardbus_schemas.ids import NodeId

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
FAST = FleetLink(**{"from": A, "to": B}, bandwidth_bytes_per_second=1e9, latency_seconds=0.001)
SLOW = LinkFigures(bandwidth_bytes_per_second=1e6, latency_seconds=0.1)
NODES = (FleetNode(node_id=A), FleetNode(node_id=B), FleetNode(node_id=C))


def test_without_a_default_only_the_links_of_the_file_exist_each_in_its_direction() -> None:
    fleet = Fleet(nodes=NODES, links=(FAST,))
    assert list(links_from(fleet, A)) == [FAST]
    assert list(links_from(fleet, B)) == []


def test_a_default_stands_for_every_pair_that_the_file_leaves_out() -> None:
    fleet = Fleet(nodes=NODES, links=(FAST,), default_link=SLOW)
    pairs = {(link.from_node, link.to_node): link for node in NODES for link in links_from(fleet, node.node_id)}
    assert set(pairs) == {(one, other) for one in (A, B, C) for other in (A, B, C) if one != other}
    assert pairs[A, B] == FAST
    assert pairs[B, A].bandwidth_bytes_per_second == 1e6
