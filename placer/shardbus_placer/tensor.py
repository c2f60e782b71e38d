"""Tensor groups: which devices may hold a stage together, what part of it each holds, and what joins them.

A group is of alike devices, of one node or of several whose links allow it (``Policy.tensor_link``, both ways). Across
nodes it takes all alike devices of each, and equally many from each.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Sharding

from shardbus_placer.candidates import Candidate
from shardbus_placer.links import Links

MOST_SUBSETS_OF = 6
"""Up to so many alike devices, or nodes, every subset is a possible group. Among more devices only runs of the list
sorted by room are, and among more nodes only the list of names cut into pieces of one size."""

Group = tuple[Candidate, ...]
NOTHING: Mapping[DeviceKey, Hashable] = {}


def largest_share(model: ModelProfile, devices: int) -> Fraction | None:
    """Return what part of each layer a device of so many must be able to hold, or ``None`` if they cannot share it.

    Where the heads do not come out even and the model allows it, whole KV heads are dealt out. Which device gets one
    more is the runtime's business, so each is counted with the most.
    """
    if devices == 1:
        return Fraction(1)
    if not model.supports_tensor:
        return None
    heads = model.num_key_value_heads
    sizes = (model.num_attention_heads, heads, model.hidden_size)
    if all(size is not None and size % devices == 0 for size in sizes):
        return Fraction(1, devices)
    if not model.supports_uneven_tensor or heads is None or devices > heads:
        return None
    return Fraction(-(-heads // devices), heads)


def share_bytes(total: int, share: Fraction) -> int:
    """Return the whole bytes of a share of ``total``, rounded up."""
    return -(-total * share.numerator // share.denominator)


def together_bytes(room: int, share: Fraction) -> int:
    """Return the most that a group may hold in all when the largest share of it must fit into ``room``."""
    return room * share.denominator // share.numerator


def share_seconds(seconds: float, share: Fraction) -> float:
    """Return the time of the largest share of what takes one device ``seconds``."""
    return seconds * share.numerator / share.denominator


def joining_link(links: Links, devices: Sequence[DeviceKey]) -> LinkFigures:
    """Return the figures that every step between these devices of a group meets: the worst of all links used."""
    nodes = sorted({device.node_id for device in devices})
    used = [links.inside[node] for node in nodes] if len(devices) > len(nodes) else []
    used += [links.between[a, b] for a in nodes for b in nodes if a != b]
    return LinkFigures(
        bandwidth_bytes_per_second=min(link.bandwidth_bytes_per_second for link in used),
        latency_seconds=max(link.latency_seconds for link in used),
    )


def groups(
    candidates: Sequence[Candidate],
    model: ModelProfile,
    sharding: Sharding,
    pinned: Collection[DeviceKey],
    links: Links,
    standing: Mapping[DeviceKey, Hashable] = NOTHING,
) -> list[Group]:
    """Return the single devices and tensor groups that may hold a stage.

    ``standing`` are devices that hold layers already, those of one group with equal values: then it matters which of
    alike devices are taken, and old groups are among the new ones.
    """
    found: list[Group] = []
    if sharding != "tensor":
        found += [(candidate,) for candidate in candidates]
    if sharding == "pipeline" or not model.supports_tensor:
        return found
    sizes = {size for size in range(2, len(candidates) + 1) if largest_share(model, size) is not None}
    by_kind: dict[object, dict[NodeId, list[Candidate]]] = {}
    for candidate in candidates:
        by_kind.setdefault(_kind(candidate), {}).setdefault(candidate.node, []).append(candidate)
    for by_node in by_kind.values():
        for members in by_node.values():
            found += _inside(members, sizes, pinned, standing)
        found += _across(by_node, sizes, links, standing)
    return found


def _kind(candidate: Candidate) -> object:
    """Return all in which alike devices are equal."""
    device = candidate.device
    kind = (device.name, device.backend, device.architecture, device.memory_total_bytes)
    return (kind, candidate.bandwidth, candidate.seconds, candidate.seconds_by_count, candidate.flops)


def _inside(
    members: list[Candidate],
    sizes: Collection[int],
    pinned: Collection[DeviceKey],
    standing: Mapping[DeviceKey, Hashable],
) -> Iterator[Group]:
    """Yield the groups of alike devices of one node.

    They are interchangeable but for their free memory: a group is as roomy as its least roomy member, so only runs
    of the list sorted by room can be needed, unless one of them is pinned or holds layers already. Where there are too
    many for every subset, the latter are put together in runs as well.
    """
    members.sort(key=lambda candidate: (-candidate.room_bytes, candidate.key))
    apart = any(candidate.key in pinned or candidate.key in standing for candidate in members)
    every = len(members) <= MOST_SUBSETS_OF and apart
    orders = [members]
    if apart and not every:
        held = [candidate for candidate in members if candidate.key in standing]
        held.sort(key=lambda candidate: (repr(standing[candidate.key]), candidate.key))
        orders.append(held + [candidate for candidate in members if candidate.key not in standing])
    for size in sorted(sizes):
        if every:
            yield from combinations(members, size)
        else:
            runs = [tuple(order[at : at + size]) for order in orders for at in range(len(order) - size + 1)]
            once = {frozenset(candidate.key for candidate in run): run for run in runs} if len(orders) > 1 else {}
            yield from once.values() if once else runs


def _across(
    by_node: Mapping[NodeId, list[Candidate]],
    sizes: Collection[int],
    links: Links,
    standing: Mapping[DeviceKey, Hashable],
) -> Iterator[Group]:
    """Yield the groups of whole nodes: all alike devices of each, where every pair of nodes is joined well enough."""
    by_count: dict[int, list[NodeId]] = {}
    for node, members in by_node.items():
        if any(node in pair for pair in links.for_tensor):
            by_count.setdefault(len(members), []).append(node)
    for count, nodes in by_count.items():
        for many in range(2, len(nodes) + 1):
            if count * many not in sizes:
                continue
            if len(nodes) <= MOST_SUBSETS_OF:
                chosen = list(combinations(nodes, many))
            else:
                chosen = list(_pieces(nodes, many))
                chosen += [old for old in _standing(by_node, nodes, many, standing) if old not in chosen]
            for together in chosen:
                if all(pair in links.for_tensor for pair in combinations(together, 2)):
                    yield tuple(candidate for node in together for candidate in by_node[node])


def _standing(
    by_node: Mapping[NodeId, list[Candidate]],
    nodes: Sequence[NodeId],
    many: int,
    standing: Mapping[DeviceKey, Hashable],
) -> Iterator[tuple[NodeId, ...]]:
    """Yield so many nodes each whose devices are an old group."""
    groups: dict[Hashable, list[NodeId]] = {}
    for node in nodes:
        held = {standing.get(candidate.key) for candidate in by_node[node]}
        if len(held) == 1 and (one := held.pop()) is not None:
            groups.setdefault(one, []).append(node)
    yield from (tuple(group) for group in groups.values() if len(group) == many)


def _pieces(nodes: Sequence[NodeId], many: int) -> Iterator[tuple[NodeId, ...]]:
    return (tuple(nodes[start : start + many]) for start in range(0, len(nodes) - many + 1, many))
