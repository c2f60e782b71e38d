"""Fleets of the shape that whole-fleet throughput is measured on elsewhere: many small nodes of a few kinds.

Twenty-four nodes of three kinds in one region or in three joined by slow links, and forty-two nodes of seven kinds,
some of them hosts whose cards work as one. Figures are those of the cards' data sheets; what is in use is drawn.
"""

import random

from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.model_profile import ModelProfile

GIB = 1 << 30
CARDS = {
    "A100": (40, 1555e9),
    "V100": (16, 900e9),
    "L4": (24, 300e9),
    "T4": (16, 320e9),
    "L4x2": (48, 540e9),
    "T4x2": (32, 576e9),
    "T4x4": (64, 1024e9),
}
"""Memory in GiB and bandwidth; cards in one host reach nine or eight tenths of their sum."""
THREE_KINDS = {"A100": 4, "L4": 8, "T4": 12}
SEVEN_KINDS = {"A100": 4, "V100": 6, "L4": 8, "T4": 10, "L4x2": 4, "T4x2": 6, "T4x4": 4}
REGIONS = ({"A100": 4}, {"L4": 2, "T4": 8}, {"L4": 6, "T4": 4})
INSIDE = LinkFigures(bandwidth_bytes_per_second=1.25e9, latency_seconds=1e-3)
BETWEEN = LinkFigures(bandwidth_bytes_per_second=12.5e6, latency_seconds=50e-3)

MODEL = ModelProfile(
    model_id="llama-70b-fp16",
    layers=80,
    layer_bytes=1_711_300_000,
    embedding_bytes=524_288_000,
    head_bytes=524_288_000,
    kv_bytes_per_token_per_layer=4096,
    activation_bytes_per_token=16384,
)
SMALLER = ModelProfile(
    model_id="llama-30b-fp16",
    layers=60,
    layer_bytes=1_061_000_000,
    embedding_bytes=425_984_000,
    head_bytes=425_984_000,
    kv_bytes_per_token_per_layer=26_624,
    activation_bytes_per_token=13312,
)


def one_region(kinds: dict[str, int], seed: int) -> Fleet:
    """Return nodes of these kinds, all joined by fast links."""
    return Fleet(nodes=tuple(_nodes(kinds, "r1", random.Random(seed))), default_link=INSIDE)


def three_regions(seed: int, between: LinkFigures = BETWEEN) -> Fleet:
    """Return twenty-four nodes of three kinds in three regions with slow links between them."""
    draw = random.Random(seed)
    regions = [_nodes(kinds, f"r{number}", draw) for number, kinds in enumerate(REGIONS, 1)]
    links: list[FleetLink] = [
        FleetLink.model_validate({"from": a.node_id, "to": b.node_id, **INSIDE.model_dump()})
        for nodes in regions
        for a in nodes
        for b in nodes
        if a is not b
    ]
    return Fleet(nodes=tuple(node for nodes in regions for node in nodes), links=tuple(links), default_link=between)


def _nodes(kinds: dict[str, int], region: str, draw: random.Random) -> list[FleetNode]:
    nodes: list[FleetNode] = []
    for name, count in kinds.items():
        memory, bandwidth = CARDS[name]
        for number in range(count):
            device = FleetDevice(
                device_id="gpu",
                name=name,
                backend="cuda",
                memory_total_bytes=memory * GIB,
                memory_used_bytes=draw.randrange(0, GIB),
                memory_bandwidth_bytes_per_second=bandwidth,
            )
            nodes.append(FleetNode(node_id=f"{region}-{name.lower()}-{number}", devices=(device,)))
    return nodes
