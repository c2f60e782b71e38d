"""Who plays which part: a scenario's steps by the device, node and link that they are about."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.scenario import AnyStep, LinkStep, NodeStep, Scenario
from shardbus_schemas.scenario_targets import LinkEnds, devices_of, links_of, nodes_of


class Cast:
    """The steps of each node, its devices and the links that leave it, in the file's order."""

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        devices: dict[NodeId, dict[DeviceId, list[AnyStep]]] = defaultdict(lambda: defaultdict(list))
        nodes: dict[NodeId, list[NodeStep]] = defaultdict(list)
        links: dict[NodeId, dict[LinkEnds, list[LinkStep]]] = defaultdict(lambda: defaultdict(list))
        for step in scenario.timed_steps():
            if isinstance(step, LinkStep):
                for ends in sorted(links_of(step, fleet)):
                    links[ends[0]][ends].append(step)
            elif isinstance(step, NodeStep):
                for node_id in nodes_of(step, fleet):
                    nodes[node_id].append(step)
            else:
                for key in devices_of(step, fleet):
                    devices[key.node_id][key.device_id].append(step)
        self.devices: Mapping[NodeId, Mapping[DeviceId, Sequence[AnyStep]]] = devices
        self.nodes: Mapping[NodeId, Sequence[NodeStep]] = nodes
        self.links: Mapping[NodeId, Mapping[LinkEnds, Sequence[LinkStep]]] = links
