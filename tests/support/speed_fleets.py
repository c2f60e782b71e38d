"""Fleets of a given size and shape, by seed: what the planner's speed is measured on."""

from collections.abc import Iterable
from random import Random

from shardbus_placer.models.catalogue import catalogue
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetNode
from shardbus_schemas.model_profile import ModelProfile
from support import device_kinds as kinds
from support.device_kinds import Kind, device, idle
from support.fleet_families import GIGABIT, HUNDRED, PCIE_4, TEN_GIGABIT, TWENTY_FIVE, link

KINDS = (
    kinds.RTX_3060, kinds.RTX_3090, kinds.RTX_4090, kinds.L4, kinds.A6000, kinds.A100, kinds.H100, kinds.MAC_STUDIO,
)  # fmt: skip
WIRES = (GIGABIT, TEN_GIGABIT, TWENTY_FIVE, HUNDRED)
DEFAULT_LINK = LinkFigures(bandwidth_bytes_per_second=1.18e9, latency_seconds=100e-6)
OF_80_LAYERS = ("llama-3.3-70b-4bit", "llama-3.3-70b-8bit", "llama-3.3-70b", "falcon-180b-8bit", "falcon-180b")
MOST_OF_THE_MEMORY = 0.6


def model_of_80_layers(fleet: Fleet, seed: int) -> ModelProfile:
    """Return one of the catalogue's models of 80 layers whose weights leave room on ``fleet``."""
    free = sum((d.memory_total_bytes or 0) - (d.memory_used_bytes or 0) for _, _, d in fleet.devices())
    profiles = [catalogue()[name] for name in OF_80_LAYERS]
    fitting = [model for model in profiles if model.weight_bytes <= MOST_OF_THE_MEMORY * free]
    return Random(f"model {seed}").choice(fitting or profiles[:1])


def any_links(devices: int, seed: int) -> Fleet:
    """Return nodes of one to three alike devices, with a link of its own each way between all nodes."""
    draw = Random(f"any links {devices} {seed}")
    return _linked(_nodes(_sizes(devices, (1, 1, 2, 3), draw), draw), draw)


def one_link(devices: int, seed: int) -> Fleet:
    """Return nodes of one to four alike devices, all joined by the same link."""
    draw = Random(f"one link {devices} {seed}")
    return Fleet(nodes=_nodes(_sizes(devices, (1, 2, 4), draw), draw), default_link=DEFAULT_LINK)


def unequal_links(nodes: int, seed: int) -> Fleet:
    """Return ``nodes`` nodes of 2, 4 or 6 alike devices, four on average, with a link of its own each way between."""
    draw = Random(f"unequal links {nodes} {seed}")
    sizes = [(2, 4, 4, 6)[index % 4] for index in range(nodes)]
    draw.shuffle(sizes)
    return _linked(_nodes(sizes, draw), draw)


def few_kinds(devices: int, seed: int, *, own_readings: bool = False) -> Fleet:
    """Return nodes of 4 or 8 idle devices of at most six kinds, all joined by the same link.

    All of a kind read the same, or, with ``own_readings``, each its own memory, load and temperature.
    """
    draw = Random(f"few kinds {devices} {seed}")
    chosen = draw.sample(KINDS[:-1], draw.randint(2, 6))
    sizes = _sizes(devices, (4, 8), draw)
    nodes = _nodes(sizes, draw, offered=chosen, own_readings=own_readings)
    return Fleet(nodes=nodes, default_link=DEFAULT_LINK)


def large(nodes: int, seed: int, *, per_node: int = 5) -> Fleet:
    """Return many nodes of alike devices with one default link, and a measured link from each node to two others."""
    draw = Random(f"large {nodes} {seed}")
    made = _nodes([per_node] * nodes, draw)
    pairs = sorted({(a, b) for a in range(nodes) for b in draw.sample(range(nodes), 2) if a != b})
    links = tuple(link(made[a], made[b], draw.choice(WIRES), draw) for a, b in pairs)
    return Fleet(nodes=made, links=links, default_link=DEFAULT_LINK)


def _sizes(devices: int, sizes: tuple[int, ...], draw: Random) -> list[int]:
    found: list[int] = []
    while devices:
        found.append(min(devices, draw.choice(sizes)))
        devices -= found[-1]
    return found


def _nodes(
    sizes: Iterable[int], draw: Random, *, offered: Iterable[Kind] = KINDS, own_readings: bool = True
) -> tuple[FleetNode, ...]:
    choices = tuple(offered)
    nodes: list[FleetNode] = []
    for index, size in enumerate(sizes):
        kind = draw.choice(choices)
        names = [f"d{slot}" for slot in range(size)]
        held = tuple(device(kind, name, draw) if own_readings else idle(kind, name) for name in names)
        nodes.append(FleetNode(node_id=f"n{index:03d}", devices=held, device_link=PCIE_4))
    return tuple(nodes)


def _linked(nodes: tuple[FleetNode, ...], draw: Random) -> Fleet:
    links = tuple(link(a, b, draw.choice(WIRES), draw) for a in nodes for b in nodes if a is not b)
    return Fleet(nodes=nodes, links=links)
