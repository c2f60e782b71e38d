"""Which links are missing: the fewest that, added to those there are, let a plan exist."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from shardbus_schemas.fleet import FleetLink
from shardbus_schemas.ids import NodeId
from shardbus_schemas.placement import Remedy

from shardbus_placer.counted import Rooms
from shardbus_placer.links import links_of
from shardbus_placer.plea import Plea
from shardbus_placer.trial import Trial

Pair = tuple[NodeId, NodeId]


def missing_links(plea: Plea, trial: Trial, rooms: Rooms) -> Iterator[Remedy]:
    """Yield the link that is missing, or the links that are missing together.

    One alone is looked for first, the way back of one that is there before others; then a chain of the roomiest
    nodes, less what it can do without.
    """
    existing = links_of(plea.fleet, plea.policy).between
    room: dict[NodeId, int] = {}
    for key, count in rooms.items():
        room[key.node_id] = room.get(key.node_id, 0) + max(0, count)
    nodes = sorted(room, key=lambda node: (-room[node], node))
    absent = [(a, b) for a in nodes for b in nodes if a != b and (a, b) not in existing]
    absent.sort(key=lambda pair: ((pair[1], pair[0]) not in existing, -room[pair[0]] - room[pair[1]], pair))
    if not absent or not trial.fits(_linked(plea, absent)):
        return
    needed = next(([pair] for pair in absent if trial.fits(_linked(plea, [pair]))), None) or _chain(
        plea, trial, nodes, absent
    )
    if needed:
        named = " and ".join(f"from {a} to {b}" for a, b in needed)
        text = f"add {'a link' if len(needed) == 1 else 'links'} {named}"
        yield Remedy(kind="add_link", text=text, from_node=needed[0][0], to_node=needed[0][1])


def _chain(plea: Plea, trial: Trial, nodes: Sequence[NodeId], absent: Sequence[Pair]) -> list[Pair]:
    """Return links that make a chain of the roomiest nodes, without any that is not needed; empty if none is found."""
    chain = list(nodes[:1])
    for node in nodes[1:]:
        chain.append(node)
        steps = [pair for pair in pairwise(chain) if pair in set(absent)]
        if trial.fits(_linked(plea, steps)):
            for pair in list(steps):
                fewer = [other for other in steps if other != pair]
                if trial.fits(_linked(plea, fewer)):
                    steps = fewer
            return steps
    return []


def _linked(plea: Plea, pairs: Sequence[Pair]) -> Plea:
    figures = plea.policy.device_link.model_dump()
    links = [FleetLink.model_validate({"from": a, "to": b, **figures}) for a, b in pairs]
    return replace(plea, fleet=plea.fleet.model_copy(update={"links": (*plea.fleet.links, *links)}))
