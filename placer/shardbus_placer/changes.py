"""What could become of a fleet: devices and links added, removed or slowed, as values; and the fleet after them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.problems import suggest

_MOST_LISTED = 12


class ImpossibleChangeError(ValueError):
    """The fleet has no such node, device or link. The text is for a person."""


@dataclass(frozen=True)
class AddDevice:
    """One more device, on a node that is there or on a new one."""

    node: NodeId
    device: FleetDevice


@dataclass(frozen=True)
class RemoveDevice:
    """The device is gone."""

    device: DeviceKey


@dataclass(frozen=True)
class RemoveNode:
    """The node is gone, with its devices and its links."""

    node: NodeId


@dataclass(frozen=True)
class Throttle:
    """The device runs hot, and slower by the policy's factor."""

    device: DeviceKey


@dataclass(frozen=True)
class SetLink:
    """There is this link in one direction, whatever was there before."""

    from_node: NodeId
    to_node: NodeId
    figures: LinkFigures


@dataclass(frozen=True)
class RemoveLink:
    """There is no link in this direction, not even the fleet's default."""

    from_node: NodeId
    to_node: NodeId


Change = AddDevice | RemoveDevice | RemoveNode | Throttle | SetLink | RemoveLink


def changed(fleet: Fleet, changes: Iterable[Change]) -> Fleet:
    """Return ``fleet`` after ``changes``, one after the other; raise ImpossibleChangeError.

    Links are cut last: a node that comes later then still has the fleet's default link to all the others.
    """
    for change in sorted(changes, key=lambda change: isinstance(change, RemoveLink)):
        fleet = _apply(fleet, change)
    return fleet


def new_nodes(before: Fleet, after: Fleet) -> tuple[NodeId, ...]:
    """Return the nodes that only ``after`` has, in its order."""
    known = {node.node_id for node in before.nodes}
    return tuple(node.node_id for node in after.nodes if node.node_id not in known)


def _apply(fleet: Fleet, change: Change) -> Fleet:
    match change:
        case AddDevice(node, device):
            return _add(fleet, node, device)
        case RemoveDevice(key):
            _device(fleet, key, "remove")
            return _with_devices(fleet, key, ())
        case RemoveNode(node):
            _node(fleet, node, "remove")
            nodes = tuple(one for one in fleet.nodes if one.node_id != node)
            links = tuple(link for link in fleet.links if node not in {link.from_node, link.to_node})
            return _rebuilt(fleet, nodes, links)
        case Throttle(key):
            device = _device(fleet, key, "throttle")
            return _with_devices(fleet, key, (device.model_copy(update={"is_thermal_throttling": True}),))
        case SetLink(start, end, figures):
            _pair(fleet, start, end)
            link = FleetLink.model_validate({"from": start, "to": end, **figures.model_dump(by_alias=False)})
            return _rebuilt(fleet, fleet.nodes, (*_other_links(fleet.links, start, end), link))
        case RemoveLink(start, end):
            return _cut(fleet, start, end)


def _add(fleet: Fleet, node: NodeId, device: FleetDevice) -> Fleet:
    there = next((one for one in fleet.nodes if one.node_id == node), None)
    if there is None:
        return _rebuilt(fleet, (*fleet.nodes, FleetNode(node_id=node, devices=(device,))), fleet.links)
    if any(one.device_id == device.device_id for one in there.devices):
        raise ImpossibleChangeError(f"cannot add {DeviceKey.of(node, device.device_id)}: it is there already")
    grown = there.model_copy(update={"devices": (*there.devices, device)})
    return _rebuilt(fleet, tuple(grown if one is there else one for one in fleet.nodes), fleet.links)


def _cut(fleet: Fleet, start: NodeId, end: NodeId) -> Fleet:
    """Return the fleet without one link. Where a default would stand in, every other pair gets it by name."""
    _pair(fleet, start, end)
    kept = _other_links(fleet.links, start, end)
    if len(kept) == len(fleet.links) and fleet.default_link is None:
        raise ImpossibleChangeError(f"cannot unlink {start} > {end}: there is no such link")
    if fleet.default_link is not None:
        named = {(link.from_node, link.to_node) for link in kept} | {(start, end)}
        ids = [node.node_id for node in fleet.nodes]
        figures = fleet.default_link.model_dump()
        kept += tuple(
            FleetLink.model_validate({"from": a, "to": b, **figures})
            for a in ids
            for b in ids
            if a != b and (a, b) not in named
        )
    return _rebuilt(fleet.model_copy(update={"default_link": None}), fleet.nodes, kept)


def _other_links(links: Sequence[FleetLink], start: NodeId, end: NodeId) -> tuple[FleetLink, ...]:
    return tuple(link for link in links if (link.from_node, link.to_node) != (start, end))


def _with_devices(fleet: Fleet, key: DeviceKey, instead: tuple[FleetDevice, ...]) -> Fleet:
    """Return the fleet with one device replaced by ``instead``."""
    return _rebuilt(
        fleet,
        tuple(
            node
            if node.node_id != key.node_id
            else node.model_copy(
                update={
                    "devices": tuple(
                        kept
                        for device in node.devices
                        for kept in (instead if device.device_id == key.device_id else (device,))
                    )
                }
            )
            for node in fleet.nodes
        ),
        fleet.links,
    )


def _rebuilt(fleet: Fleet, nodes: tuple[FleetNode, ...], links: tuple[FleetLink, ...]) -> Fleet:
    return fleet.model_copy(update={"nodes": nodes, "links": links})


def _node(fleet: Fleet, node: NodeId, doing: str) -> FleetNode:
    for one in fleet.nodes:
        if one.node_id == node:
            return one
    raise ImpossibleChangeError(f"cannot {doing} {node!r}: no node has this name{_or_else(node, fleet)}")


def _device(fleet: Fleet, key: DeviceKey, doing: str) -> FleetDevice:
    for known, _, device in fleet.devices():
        if known == key:
            return device
    raise ImpossibleChangeError(f"cannot {doing} {str(key)!r}: no device has this name{_or_else(key, fleet)}")


def _or_else(name: str, fleet: Fleet) -> str:
    """Return what the name may have been meant for: the nearest that is there, else the first of them."""
    known = [str(key) for key, _, _ in fleet.devices()] if "/" in name else [str(one.node_id) for one in fleet.nodes]
    more = " and more" if len(known) > _MOST_LISTED else ""
    return suggest(name, known) or (f"; there are {', '.join(known[:_MOST_LISTED])}{more}" if known else "")


def _pair(fleet: Fleet, start: NodeId, end: NodeId) -> None:
    for node in (start, end):
        _node(fleet, node, f"link {start} > {end}, for")
    if start == end:
        raise ImpossibleChangeError(f"cannot link {start} > {end}: a link joins two nodes")
