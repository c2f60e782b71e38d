"""Fleets as people own them, by family and seed, each with a request that is often tight and sometimes too much.

In all of them every node reaches every other, so a rule that is blind to links is never refused for one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from shardbus_placer.models.catalogue import catalogue
from shardbus_placer.policy import Policy
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName, PlacementRequest
from support import device_kinds as kinds
from support.device_kinds import Kind, device

Wire = tuple[float, float]
"""Bytes per second, seconds."""

WIFI: Wire = (45e6, 3e-3)
GIGABIT: Wire = (118e6, 250e-6)
TWO_AND_A_HALF: Wire = (295e6, 200e-6)
TEN_GIGABIT: Wire = (1.18e9, 80e-6)
TWENTY_FIVE: Wire = (2.95e9, 40e-6)
HUNDRED: Wire = (11.8e9, 20e-6)
PCIE_3 = LinkFigures(bandwidth_bytes_per_second=8e9, latency_seconds=20e-6)
PCIE_4 = LinkFigures(bandwidth_bytes_per_second=22e9, latency_seconds=12e-6)
NVLINK = LinkFigures(bandwidth_bytes_per_second=250e9, latency_seconds=6e-6)

MODELS = (
    "llama-3.2-3b-4bit",
    "llama-3.1-8b-4bit",
    "llama-3.1-8b",
    "gemma-3-12b-8bit",
    "gemma-3-27b-4bit",
    "gemma-3-27b",
    "qwen3-30b-a3b-4bit",
    "qwen2.5-32b-8bit",
    "mixtral-8x7b-4bit",
    "llama-3.3-70b-4bit",
    "llama-3.3-70b-8bit",
    "llama-3.3-70b",
    "qwen3-235b-a22b-4bit",
    "glm-4.5-air-8bit",
    "llama-3.1-405b-4bit",
    "llama-3.1-405b-8bit",
    "llama-3.1-405b",
    "deepseek-v3-4bit",
    "deepseek-v3",
)
"""Ids of the catalogue: dense and mixture, equal and unequal layers, from phones' to racks'."""

MOST_SEQUENCES = 64


@dataclass(frozen=True)
class Case:
    """A fleet, and what is asked of it."""

    family: str
    seed: int
    fleet: Fleet
    model: ModelProfile
    context_tokens: int
    concurrency: int

    def request(self, objective: ObjectiveName, deadline_ms: float) -> PlacementRequest:
        """Return the request. No headroom: what is physically free counts, the same for everyone."""
        return PlacementRequest(
            model=self.model,
            objective=objective,
            sharding="pipeline",
            context_tokens=self.context_tokens,
            concurrency=self.concurrency,
            headroom_fraction=0.0,
            headroom_bytes=0,
            deadline_ms=deadline_ms,
        )


def case(family: str, seed: int) -> Case:
    """Return the fleet number ``seed`` of ``family``, and its request."""
    draw = Random(f"{family} {seed}")
    fleet = FAMILIES[family](draw)
    free = sum((d.memory_total_bytes or 0) - (d.memory_used_bytes or 0) for _, _, d in fleet.devices())
    # Half of the requests leave room; the others want nearly all there is, and some a little more.
    share = draw.uniform(0.08, 0.6) if draw.random() < 0.5 else draw.uniform(0.6, 1.02)
    profiles = [catalogue()[name] for name in MODELS]
    fitting = [model for model in profiles if model.weight_bytes <= share * free] or profiles[:1]
    model = draw.choice(sorted(fitting, key=lambda profile: profile.weight_bytes)[-4:])
    context = draw.choice((2048, 8192, 32768))
    for_cache = share * free - model.weight_bytes
    sequences = int(for_cache / max(1, sum(model.kv_bytes_by_layer(context))))
    return Case(family, seed, fleet, model, context, max(1, min(MOST_SEQUENCES, sequences)))


def usable(fleet: Fleet, model: ModelProfile, policy: Policy) -> Fleet:
    """Return the fleet without devices that may not be used at all, for rules that do not look at that."""
    nodes = tuple(
        node.model_copy(update={"devices": tuple(d for d in node.devices if _may_be_used(d, model, policy))})
        for node in fleet.nodes
    )
    return fleet.model_copy(update={"nodes": nodes})


def _may_be_used(one: FleetDevice, model: ModelProfile, policy: Policy) -> bool:
    empty = one.is_plugged_in is False and (one.battery_percent or 0.0) < policy.minimum_battery_percent
    return not empty and (model.backends is None or one.backend is None or one.backend in model.backends)


def home(draw: Random) -> Fleet:
    """Return 2 to 8 mixed consumer devices: cards in PCs, Macs, a processor, on Wi-Fi to 10 gigabit Ethernet."""
    cards = (
        kinds.RTX_3060, kinds.RTX_3070, kinds.RTX_3090, kinds.RTX_4060_TI, kinds.RTX_4080, kinds.RTX_4090,
        kinds.RTX_5090, kinds.RX_7900_XTX,
    )  # fmt: skip
    singles = (kinds.MAC_MINI, kinds.MAC_STUDIO, kinds.MAC_STUDIO_MAX, kinds.MACBOOK, kinds.SPARK, kinds.DESKTOP_CPU)
    left = draw.randint(2, 8)
    parts: list[tuple[Kind, ...]] = []
    while left:
        inside = tuple(draw.choice(cards) for _ in range(min(left, draw.choice((1, 1, 2)))))
        parts.append(inside if draw.random() < 0.6 else (draw.choice(singles),))
        left -= len(parts[-1])
    wires = [draw.choice((WIFI, GIGABIT, GIGABIT, TWO_AND_A_HALF, TEN_GIGABIT)) for _ in parts]
    return _meshed(_nodes(parts, draw, PCIE_3), wires, draw)


def lab(draw: Random) -> Fleet:
    """Return 4 to 16 nodes of 2 to 8 alike cards each, bought over ten years, on 1 to 100 Gb/s."""
    cards = (kinds.V100, kinds.RTX_3090, kinds.A4000, kinds.A6000, kinds.RTX_4090, kinds.A100_40, kinds.L40S, kinds.T4)
    parts = [(draw.choice(cards),) * draw.choice((2, 2, 4, 4, 8)) for _ in range(draw.randint(4, 16))]
    wires = [draw.choice((GIGABIT, TEN_GIGABIT, TEN_GIGABIT, TWENTY_FIVE, HUNDRED)) for _ in parts]
    return _meshed(_nodes(parts, draw, PCIE_4), wires, draw)


def cloud(draw: Random) -> Fleet:
    """Return 8 to 64 devices of one to four kinds in two zones: quick inside, slower between."""
    offered = ((kinds.A10, 4), (kinds.L4, 4), (kinds.L40S, 4), (kinds.A100, 8), (kinds.H100, 8), (kinds.MI300X, 8))
    chosen = draw.sample(offered, draw.randint(1, 4))
    left = draw.randrange(8, 65, 4)
    parts: list[tuple[Kind, ...]] = []
    while left > 0:
        kind, size = draw.choice(chosen)
        parts.append((kind,) * min(left, size))
        left -= size
    zones = [draw.randrange(2) for _ in parts]
    return _grouped(_nodes(parts, draw, NVLINK, busy=0.05), zones, HUNDRED, ((2.95e9, 600e-6),), draw)


def edge(draw: Random) -> Fleet:
    """Return 3 to 10 phones and laptops on Wi-Fi: warm, often on battery, most of their memory taken."""
    offered = (
        kinds.IPHONE, kinds.ANDROID, kinds.OLD_ANDROID, kinds.MACBOOK_AIR, kinds.MACBOOK, kinds.COPILOT_LAPTOP,
    )  # fmt: skip
    parts = [(draw.choice(offered),) for _ in range(draw.randint(3, 10))]
    wires = [(draw.uniform(8e6, 90e6), draw.uniform(1.5e-3, 8e-3)) for _ in parts]
    return _meshed(_nodes(parts, draw, PCIE_3, busy=0.35), wires, draw)


def geo(draw: Random) -> Fleet:
    """Return two to four sites of one to four nodes each, joined over the internet."""
    cards = (kinds.RTX_3090, kinds.RTX_4090, kinds.A6000, kinds.L4, kinds.A100, kinds.RTX_3060)
    sites = [site for site in range(draw.randint(2, 4)) for _ in range(draw.randint(1, 4))]
    parts = [(draw.choice(cards),) * draw.choice((1, 1, 2, 4)) for _ in sites]
    between = ((6e6, 90e-3), (12e6, 35e-3), (60e6, 20e-3), (118e6, 8e-3))
    return _grouped(_nodes(parts, draw, PCIE_4), sites, TEN_GIGABIT, between, draw)


FAMILIES: dict[str, Callable[[Random], Fleet]] = {"home": home, "lab": lab, "cloud": cloud, "edge": edge, "geo": geo}


def _nodes(
    parts: Sequence[Sequence[Kind]], draw: Random, inside: LinkFigures, *, busy: float = 0.15
) -> list[FleetNode]:
    return [
        FleetNode(
            node_id=f"n{index:02d}",
            devices=tuple(device(kind, f"d{slot}", draw, busy=busy) for slot, kind in enumerate(held)),
            device_link=inside if len(held) > 1 else None,
        )
        for index, held in enumerate(parts)
    ]


def _meshed(nodes: Sequence[FleetNode], wires: Sequence[Wire], draw: Random) -> Fleet:
    """Return nodes on one switch: a path is as quick as the slower of its two ends, and waits for both."""
    links = [
        link(nodes[a], nodes[b], (min(wires[a][0], wires[b][0]), (wires[a][1] + wires[b][1]) / 2), draw)
        for a in range(len(nodes))
        for b in range(len(nodes))
        if a != b
    ]
    return Fleet(nodes=tuple(nodes), links=tuple(links))


def _grouped(
    nodes: Sequence[FleetNode], groups: Sequence[int], inside: Wire, between: Sequence[Wire], draw: Random
) -> Fleet:
    """Return nodes in groups: one wire inside each, one of ``between`` for each pair of groups."""
    over = {(a, b): draw.choice(between) for a in range(max(groups) + 1) for b in range(a)}
    links = [
        link(nodes[a], nodes[b], inside if ga == gb else over[max(ga, gb), min(ga, gb)], draw)
        for a, ga in enumerate(groups)
        for b, gb in enumerate(groups)
        if a != b
    ]
    return Fleet(nodes=tuple(nodes), links=tuple(links))


def link(a: FleetNode, b: FleetNode, wire: Wire, draw: Random) -> FleetLink:
    """Return a measured path: a wire's figures, a little less than on paper, and not the same both ways."""
    return FleetLink.model_validate(
        {
            "from": a.node_id,
            "to": b.node_id,
            "bandwidth_bytes_per_second": wire[0] * draw.uniform(0.85, 1.0),
            "latency_seconds": wire[1] * draw.uniform(1.0, 1.2),
        }
    )
