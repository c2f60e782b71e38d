"""How long the planner takes, and how much it proves. Prints a markdown section; one process, nothing else at work."""

import random
import statistics
import sys
import time

from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName, PlacementRequest

ROUNDS = 20
DEADLINE_MS = 100.0
GIB = 1 << 30
KINDS = (
    ("NVIDIA GeForce RTX 3090", "cuda", 24, 936e9),
    ("NVIDIA GeForce RTX 4090", "cuda", 24, 1008e9),
    ("NVIDIA GeForce RTX 3060", "cuda", 12, 360e9),
    ("Apple M2 Ultra", "metal", 128, 800e9),
    ("NVIDIA A100 80GB", "cuda", 80, 2039e9),
)
WIRES = ((125e6, 500e-6), (1.25e9, 100e-6), (12.5e9, 20e-6))
MODEL = ModelProfile(
    model_id="70b-4bit",
    layers=80,
    layer_bytes=480_000_000,
    embedding_bytes=600_000_000,
    head_bytes=600_000_000,
    kv_bytes_per_token_per_layer=4096,
    activation_bytes_per_token=16384,
)
WINDOWED = ModelProfile(
    model_id="27b-windowed",
    layers=62,
    layer_bytes=435_000_000,
    embedding_bytes=1_400_000_000,
    head_bytes=1_400_000_000,
    tied_embedding=True,
    kv_bytes_per_token_per_layer=8192,
    attention_window_tokens=tuple(None if layer % 6 == 5 else 1024 for layer in range(62)),
    activation_bytes_per_token=10752,
)


def mixed_fleet(devices: int, seed: int) -> Fleet:
    """Return nodes of one to three alike devices each, with a link of one of three kinds each way between all."""
    draw = random.Random(seed)
    nodes: list[FleetNode] = []
    while devices:
        count = min(devices, draw.choice((1, 1, 2, 3)))
        devices -= count
        name, backend, memory, bandwidth = draw.choice(KINDS)
        nodes.append(
            FleetNode(
                node_id=f"n{len(nodes):02d}",
                devices=tuple(
                    FleetDevice(
                        device_id=f"d{index}",
                        name=name,
                        backend=backend,
                        memory_total_bytes=memory * GIB,
                        memory_used_bytes=draw.randint(0, 2 * GIB),
                        memory_bandwidth_bytes_per_second=bandwidth,
                    )
                    for index in range(count)
                ),
                device_link=LinkFigures(bandwidth_bytes_per_second=16e9, latency_seconds=10e-6),
            )
        )
    links: list[FleetLink] = []
    for here in nodes:
        for there in nodes:
            if here is not there:
                bandwidth, latency = draw.choice(WIRES)
                figures = {"bandwidth_bytes_per_second": bandwidth, "latency_seconds": latency}
                links.append(FleetLink.model_validate({"from": here.node_id, "to": there.node_id, **figures}))
    return Fleet(nodes=tuple(nodes), links=tuple(links))


def row(devices: int, model: ModelProfile, objective: ObjectiveName) -> str:
    """Return one line of the table: times and claims over many fleets of this size."""
    times: list[float] = []
    gaps: list[float] = []
    optimal = answered = 0
    policy = Policy()
    for seed in range(ROUNDS):
        fleet = mixed_fleet(devices, seed)
        request = PlacementRequest(model=model, objective=objective, context_tokens=8192, deadline_ms=DEADLINE_MS)
        began = time.perf_counter()
        answer = plan(fleet, model, request, policy)
        times.append((time.perf_counter() - began) * 1e3)
        if answer.status == "refused":
            continue
        assert verify(fleet, model, request, policy, answer) == ()
        answered += 1
        optimal += answer.objective.gap == 0
        if answer.objective.gap is not None:
            gaps.append(answer.objective.gap)
    times.sort()
    p50, p99 = statistics.median(times), times[min(len(times) - 1, round(0.99 * len(times)))]
    worst = f"{max(gaps):.2%}" if gaps else "-"
    middle = f"{statistics.median(gaps):.2%}" if gaps else "-"
    return (
        f"| {devices} | {model.model_id} | {objective} | {p50:.1f} | {p99:.1f} | {answered} of {ROUNDS} "
        f"| {optimal} | {middle} | {worst} |"
    )


def main() -> None:
    """Print the section."""
    print(
        "## Planner\n\n"
        f"Heterogeneous fleets with a link of its own each way between all nodes; {ROUNDS} fleets per row, "
        f"deadline {DEADLINE_MS:g} ms. `27b-windowed` has unequal layers. Gap: how far the plan is from the proved "
        "bound at most; every plan is verified.\n"
    )
    print("| devices | model | objective | p50 ms | p99 ms | placed | proved optimal | median gap | worst gap |")
    print("|---|---|---|---|---|---|---|---|---|")
    plan(mixed_fleet(4, 0), MODEL, PlacementRequest(model=MODEL), Policy())  # loads the solver
    objectives: tuple[ObjectiveName, ...] = ("throughput", "latency", "score")
    for model, sizes in ((MODEL, (4, 8, 16, 32)), (WINDOWED, (4, 8))):
        for devices in sizes:
            for objective in objectives:
                sys.stderr.write(f"bench: planner, {devices} devices, {objective}\n")
                print(row(devices, model, objective), flush=True)


if __name__ == "__main__":
    main()
