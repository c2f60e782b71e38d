"""Small placement problems of every shape, made from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from shardbus_schemas.devices import LinkFigures, MeasuredSpeed
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName, PlacementRequest, Sharding

PATIENT_MS = 20_000.0
"""Long enough that the deadline never decides."""

Links = Literal["uniform", "unequal", "sparse", "star"]
"""Of one kind; each its own; each its own and many missing; all by way of one node."""
Conditions = Literal["none", "pins", "bounds", "names"]


@dataclass(frozen=True)
class Shape:
    """What a case is like; the rest is left to the seed."""

    devices: tuple[int, ...]
    """How many each node has."""
    layers: int
    objective: ObjectiveName
    equal_layers: bool
    links: Links
    ends: bool
    """Whether the model has an embedding and a head."""
    measured: bool
    sharding: Sharding
    conditions: Conditions


@dataclass(frozen=True)
class Case:
    fleet: Fleet
    model: ModelProfile
    request: PlacementRequest


def small_case(shape: Shape, seed: int) -> Case:
    """The case of this shape that the seed stands for."""
    random = Random(seed)
    model = _model(shape, random)
    load = {"context_tokens": random.choice([0, 1, 3]), "concurrency": random.choice([1, 1, 3])}
    rooms = _rooms(random, model, sum(shape.devices), **load)
    everywhere = _kind(random, rooms) if shape.sharding != "pipeline" and random.random() < 0.4 else None
    nodes = tuple(
        FleetNode(
            node_id=f"n{number}",
            devices=_devices(shape, random, count, rooms, everywhere),
            device_link=random.choice([None, _link(random)]),
        )
        for number, count in enumerate(shape.devices)
    )
    links, default = _links(shape, random, [node.node_id for node in nodes])
    fleet = Fleet(nodes=nodes, links=tuple(links), default_link=default)
    return Case(fleet, model, _request(shape, random, model, fleet, load))


def _rooms(random: Random, model: ModelProfile, devices: int, *, context_tokens: int, concurrency: int) -> range:
    """How much memory devices have: the least holds hardly a layer, and all of them together hold about the model."""
    kv = model.kv_bytes_by_layer(context_tokens)
    layers = [held + cache * concurrency for held, cache in zip(model.bytes_by_layer, kv, strict=True)]
    buffers = 2 * context_tokens * concurrency * model.activation_bytes_per_token
    share = round(
        (sum(layers) + model.embedding_bytes + model.head_bytes) / devices * random.choice([0.9, 1.6, 1.6, 3.0])
    )
    return range(buffers + max(layers), buffers + max(layers) + 2 * share + 2)


def _model(shape: Shape, random: Random) -> ModelProfile:
    layers = shape.layers
    kinds = random.choice([[1, 12], [3, 4, 5], list(range(12))])
    sizes = [random.randint(1, 9)] * layers if shape.equal_layers else [random.choice(kinds) for _ in range(layers)]
    experts = not random.randrange(4)
    return ModelProfile(
        model_id="small",
        layers=layers,
        layer_bytes=tuple(sizes),
        active_layer_bytes=tuple(size // 2 for size in sizes) if experts else None,
        embedding_bytes=random.choice([0, 5, 12]) if shape.ends else 0,
        head_bytes=random.choice([0, 5, 12]) if shape.ends else 0,
        tied_embedding=shape.ends and random.random() < 0.5,
        kv_bytes_per_token_per_layer=random.choice([0, 1]),
        attention_window_tokens=tuple(1 if layer % 2 else None for layer in range(layers))
        if not shape.equal_layers and random.random() < 0.3
        else None,
        activation_bytes_per_token=random.choice([0, 1, 10]),
        supports_tensor=shape.sharding != "pipeline",
        hidden_size=24,
        num_attention_heads=random.choice([12, 8]),
        num_key_value_heads=random.choice([2, 4]),
        supports_uneven_tensor=shape.sharding != "pipeline" and random.random() < 0.3,
        dtype=random.choice([None, None, "bfloat16"]),
        backends=random.choice([None, None, None, ("cuda",)]),
    )


def _devices(
    shape: Shape, random: Random, count: int, rooms: range, kind: dict[str, object] | None
) -> tuple[FleetDevice, ...]:
    """The devices of one node: of the fleet's one kind, if it has one; else of a kind of their own, or of several."""
    alike = kind is not None or random.random() < (0.7 if shape.sharding != "pipeline" else 0.3)
    kind = kind or _kind(random, rooms)
    found: list[FleetDevice] = []
    for index in range(count):
        facts = {
            **kind,
            "device_id": f"d{index}",
            "memory_used_bytes": random.choice([0, 0, 0, 1, 3]),
        }
        if not alike:
            facts |= {
                "backend": random.choice(["cuda", "cuda", "cuda", "metal"]),
                "memory_total_bytes": random.choice(rooms),
                "memory_used_bytes": random.choice([0, 0, 3, None]),
                "memory_reserved_bytes": random.choice([0, 0, 0, 2]),
                "memory_bandwidth_bytes_per_second": random.choice([None, 50.0, 100.0, 123.0, 333.0]),
                "compute_utilization_percent": random.choice([None, 0.0, 50.0]),
                "is_thermal_throttling": random.choice([None, None, False, True]),
                "is_plugged_in": random.choice([None, None, None, False]),
                "battery_percent": random.choice([10.0, 80.0, 80.0]),
                "thermal_temperature_c": random.choice([None, 40.0, 95.0]),
                "thermal_throttle_threshold_c": random.choice([None, 90.0]),
                "dtypes": random.choice([None, None, None, ("bf16", "float32"), ("fp16",)]),
                "status": random.choice(["ok"] * 12 + ["lost", "stale", "cordoned"]),
            }
            if shape.measured and random.random() < 0.5:
                facts["measured"] = (_measured(random, shape.layers),)
        found.append(FleetDevice.model_validate(facts))
    return tuple(found)


def _kind(random: Random, rooms: range) -> dict[str, object]:
    return {
        "backend": random.choice(["cuda", "cuda", "cuda", "metal"]),
        "memory_total_bytes": random.choice(rooms),
        "memory_bandwidth_bytes_per_second": random.choice([None, 50.0, 100.0, 333.0]),
    }


def _measured(random: Random, layers: int) -> MeasuredSpeed:
    if random.random() < 0.4:
        return MeasuredSpeed(model_id="small", seconds_per_layer=random.choice([0.0, 0.02, 0.3]))
    rates = [random.choice([1.0, 3.0, 7.0, 20.0]) for _ in range(random.randint(1, layers + 1))]
    return MeasuredSpeed(model_id="small", tokens_per_second_by_layers=tuple(rates))


def _link(random: Random) -> LinkFigures:
    return LinkFigures(
        bandwidth_bytes_per_second=random.choice([10.0, 100.0, 1000.0]),
        latency_seconds=random.choice([0.0, 0.01, 0.03, 0.2]),
    )


def _links(shape: Shape, random: Random, names: Sequence[str]) -> tuple[list[FleetLink], LinkFigures | None]:
    pairs = [(a, b) for a in names for b in names if a != b]
    if shape.links == "uniform":
        return [], _link(random)
    if shape.links == "star":
        hub = random.choice(names)
        pairs = [pair for pair in pairs if hub in pair]
    kept = {"unequal": 1.0, "sparse": 0.5, "star": 0.9}[shape.links]
    declared = [
        FleetLink.model_validate({"from": a, "to": b, **_link(random).model_dump()})
        for a, b in pairs
        if random.random() < kept
    ]
    return declared, None


def _request(shape: Shape, random: Random, model: ModelProfile, fleet: Fleet, load: dict[str, int]) -> PlacementRequest:
    keys = [str(key) for key, _, _ in fleet.devices()]
    names = [*keys, *(node.node_id for node in fleet.nodes)]
    asked: dict[str, object] = {}
    if shape.conditions == "pins":
        pinned = random.sample(keys, random.randint(1, min(2, len(keys))))
        asked["pin"] = {key: random.randint(1, max(1, shape.layers // 3)) for key in pinned}
    elif shape.conditions == "bounds":
        most = random.randint(1, len(fleet.nodes))
        asked |= {
            "min_nodes": random.randint(1, most),
            "max_nodes": random.choice([None, most]),
            "max_devices": random.choice([None, None, random.randint(1, len(keys))]),
            "max_stages": random.choice([None, None, random.randint(1, len(keys))]),
        }
    elif shape.conditions == "names":
        asked["include"] = tuple(random.sample(names, min(len(names), random.randint(0, 4))))
        asked["exclude"] = tuple(random.sample(names, random.randint(0, 1)))
    return PlacementRequest.model_validate(
        {
            "model": model,
            "objective": shape.objective,
            "sharding": shape.sharding,
            **load,
            "headroom_fraction": random.choice([0.0, 0.0, 0.1]),
            "headroom_bytes": 0,
            "runtime_overhead_bytes": random.choice([0, 0, 1]),
            "deadline_ms": PATIENT_MS,
            **asked,
        }
    )
