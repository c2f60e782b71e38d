"""Whom a scenario's steps are about, in a given fleet: names and patterns become devices, nodes and links."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from shardbus_schemas.fleet import Fleet, FleetNode
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.problems import Location, suggest
from shardbus_schemas.scenario import AnyStep, BatteryStep, DeviceStep, LinkStep, NodeStep, Scenario

_PATTERN: Final = re.compile(r"[*?\[]")

LinkEnds = tuple[NodeId, NodeId]
"""From, to."""


def nodes_of(step: NodeStep | BatteryStep, fleet: Fleet) -> tuple[NodeId, ...]:
    """Return the nodes that ``step`` is about, in the fleet's order."""
    return tuple(
        node.node_id for node in fleet.nodes if _labelled(node, step.where) and _matches(node.node_id, step.on)
    )


def devices_of(step: DeviceStep | BatteryStep, fleet: Fleet) -> tuple[DeviceKey, ...]:
    """Return the devices that ``step`` is about, in the fleet's order; of a battery's, those that show one."""
    if isinstance(step, BatteryStep):
        nodes = set(nodes_of(step, fleet))
        return tuple(
            key for key, node, device in fleet.devices() if node.node_id in nodes and device.battery_percent is not None
        )
    return tuple(
        key
        for key, node, _ in fleet.devices()
        if _labelled(node, step.where) and (_matches(key, step.on) or _matches(node.node_id, step.on))
    )


def links_of(step: LinkStep, fleet: Fleet) -> frozenset[LinkEnds]:
    """Return the directed links that ``step`` is about: of those in the file and, with a default, all others."""
    names = [node.node_id for node in fleet.nodes]
    listed = {(link.from_node, link.to_node) for link in fleet.links}
    found: set[LinkEnds] = set()
    for first, second in _ends(step):
        starts, ends = ([name for name in names if _matches(name, (pattern,))] for pattern in (first, second))
        pairs = ((start, end) for start in starts for end in ends if start != end)
        found.update(pair for pair in pairs if fleet.default_link is not None or pair in listed)
    return frozenset(found)


def problems_of(scenario: Scenario, fleet: Fleet) -> Iterator[tuple[Location, str]]:
    """Yield the place in the scenario, and the problem, of each step that is about nobody in ``fleet``."""
    for index, step in enumerate(scenario.steps):
        yield from ((("steps", index, *place), text) for place, text in _problems(step, fleet))


def _problems(step: AnyStep, fleet: Fleet) -> Iterator[tuple[Location, str]]:
    nodes = [node.node_id for node in fleet.nodes]
    if isinstance(step, LinkStep):
        unknown = [name for ends in _ends(step) for name in ends if not any(_matches(node, (name,)) for node in nodes)]
        yield from ((("on",), _nobody("node", name, nodes)) for name in dict.fromkeys(unknown))
        if not unknown and not links_of(step, fleet):
            yield ("on",), f"the fleet has no link {', '.join(step.on)}, and no default_link"
        return
    names = nodes
    if isinstance(step, DeviceStep):
        names = [*nodes, *(key for key, _, _ in fleet.devices())]
    unknown = [pattern for pattern in step.on if not any(_matches(name, (pattern,)) for name in names)]
    for pattern in unknown:
        whole_nodes = "; this step is about whole nodes" if "/" in pattern and names is nodes else ""
        yield ("on",), _nobody("device" if "/" in pattern else "node", pattern, names) + whole_nodes
    unlabelled = list(_labels_of_nobody(step.where, fleet))
    yield from unlabelled
    if not unknown and not unlabelled:
        found = nodes_of(step, fleet) if isinstance(step, NodeStep) else devices_of(step, fleet)
        if not found:
            yield (), _nothing(step)


def _labels_of_nobody(where: Mapping[str, str], fleet: Fleet) -> Iterator[tuple[Location, str]]:
    for label, pattern in where.items():
        values = {node.labels[label] for node in fleet.nodes if label in node.labels}
        if not values:
            known = sorted({label for node in fleet.nodes for label in node.labels})
            yield ("where", label), f"no node has a label {label!r}{suggest(label, known)}"
        elif not any(fnmatchcase(value, pattern) for value in values):
            yield ("where", label), f"no node has {label}: {pattern!r}{suggest(pattern, sorted(values))}"


def _nothing(step: AnyStep) -> str:
    if isinstance(step, BatteryStep):
        return f"nothing to {step.do}: none of these nodes has a device with battery_percent in the fleet file"
    return "this is about nobody: what `on` names has not the labels that `where` asks for"


def _nobody(kind: str, name: str, known: Sequence[str]) -> str:
    if _PATTERN.search(name):
        return f"{name!r} matches no {kind} of the fleet"
    return f"the fleet has no {kind} {name!r}{suggest(name, known)}"


def _ends(step: LinkStep) -> Iterator[tuple[str, str]]:
    for pair in step.on:
        first, second = (name.strip() for name in re.split("<?>", pair))
        yield first, second
        if "<>" in pair:
            yield second, first


def _labelled(node: FleetNode, where: Mapping[str, str]) -> bool:
    return all(name in node.labels and fnmatchcase(node.labels[name], value) for name, value in where.items())


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
