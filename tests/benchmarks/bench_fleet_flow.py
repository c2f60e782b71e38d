"""Whole-fleet throughput: time, flow and proof, beside the rules of others. Prints a markdown section; one process.

``--milp`` adds the textbook program, big-M rows over start layers, solved by HiGHS for a minute per fleet.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest
from support.flow_baselines import BASELINES, flow_and_depth, ground
from support.flow_big_m import big_m
from support.flow_fleets import MODEL, SEVEN_KINDS, SMALLER, THREE_KINDS, one_region, three_regions
from support.quantiles import quantile

SEEDS = 8
MILP_SECONDS = 60.0
CONCURRENCY, CONTEXT = 16, 1024
SLOW = LinkFigures(bandwidth_bytes_per_second=1.25e6, latency_seconds=50e-3)


@dataclass(frozen=True)
class Shape:
    name: str
    fleet: Callable[[int], Fleet]
    deadline_ms: float


SHAPES = (
    Shape("24 nodes, 3 kinds, one region", lambda seed: one_region(THREE_KINDS, seed), 100.0),
    Shape("42 nodes, 7 kinds, one region", lambda seed: one_region(SEVEN_KINDS, seed), 100.0),
    Shape("24 nodes, 3 kinds, three regions, 100 Mbit/s", three_regions, 1000.0),
    Shape("24 nodes, 3 kinds, three regions, 10 Mbit/s", lambda seed: three_regions(seed, SLOW), 1000.0),
)


@dataclass
class Seen:
    """What all seeds of one row came to."""

    milliseconds: list[float] = field(default_factory=list)
    plans: list[Placed] = field(default_factory=list)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    depths: dict[str, list[int]] = field(default_factory=dict)


def request_of(model: ModelProfile, deadline_ms: float, max_stages: int | None = None) -> PlacementRequest:
    """Return the request that all rows make."""
    return PlacementRequest(
        model=model,
        objective="fleet_throughput",
        context_tokens=CONTEXT,
        concurrency=CONCURRENCY,
        max_stages=max_stages,
        deadline_ms=deadline_ms,
    )


def planned(seen: Seen, fleet: Fleet, request: PlacementRequest, policy: Policy) -> Placed:
    """Return the verified plan, its time noted."""
    assert request.model is not None
    began = time.perf_counter()
    answer = plan(fleet, request.model, request, policy)
    seen.milliseconds.append((time.perf_counter() - began) * 1e3)
    assert answer.status == "placed", answer
    assert verify(fleet, request.model, request, policy, answer) == ()
    return answer


def row(shape: Shape, model: ModelProfile, *, milp: bool) -> str:
    """Return one line of the table."""
    seen, policy = Seen(), Policy()
    for seed in range(SEEDS):
        fleet = shape.fleet(seed)
        request = request_of(model, shape.deadline_ms)
        free = planned(seen, fleet, request, policy)
        seen.plans.append(free)
        on = ground(fleet, model, request, policy)
        at_depth: dict[int, float] = {free.depth: free.objective.value}
        others = {name: choose(on) for name, choose in BASELINES.items()}
        if milp and seed == 0:
            others["big-M"] = big_m(on, MILP_SECONDS)
        for name, choice in others.items():
            value, depth = flow_and_depth(on, choice)
            seen.depths.setdefault(name, []).append(depth)
            if not value:
                continue
            if depth not in at_depth:
                at_depth[depth] = planned(
                    seen, fleet, request_of(model, shape.deadline_ms, depth), policy
                ).objective.value
            ours = max(flow for deep, flow in at_depth.items() if deep <= depth)
            seen.ratios.setdefault(name, []).append(ours / value)
    return text(shape, model, seen)


def text(shape: Shape, model: ModelProfile, seen: Seen) -> str:
    """Return the line for what was seen."""
    times = sorted(seen.milliseconds)
    values = [placed.objective.value for placed in seen.plans]
    bounds = [placed.objective.bound or math.inf for placed in seen.plans]
    gaps = [placed.objective.gap or 0.0 for placed in seen.plans]
    cells = [
        shape.name,
        model.model_id,
        f"{statistics.median(times):.0f} / {quantile(times, 0.99):.0f}",
        f"{statistics.median(values):.0f}",
        f"{statistics.median(bounds):.0f}",
        f"{statistics.median(gaps):.2%} / {max(gaps):.2%}",
        f"{statistics.median(placed.depth for placed in seen.plans):.0f}",
    ]
    for name in (*BASELINES, "big-M"):
        ratios, depths = seen.ratios.get(name, []), seen.depths.get(name, [])
        if not depths:
            cells.append("not run")
        elif not ratios:
            cells.append("no flow")
        else:
            none = f", {len(depths) - len(ratios)} without flow" if len(ratios) < len(depths) else ""
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}) at {max(depths)}{none}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--milp", action="store_true", help="run the big-M program too, a minute per row")
    options = parser.parse_args()
    print(
        "## Whole-fleet throughput\n\n"
        f"Fleets of the shape that Helix is published on, {SEEDS} seeds per row; {CONCURRENCY} sequences a step, "
        f"{CONTEXT} tokens of context; deadline 100 ms in one region, 1 s across regions. Times are of whole answers, "
        "with any limit of depth that is compared. Flow, bound, gap (median / worst) and depth are of the plan without "
        "a limit of depth. Then, for each rule, how many times its flow ours is at the same depth or less: median "
        "(least) at the rule's depth. The rules choose layers; rates and the maximal flow are the same for all. "
        f"`big-M` is the program over start layers in HiGHS, {MILP_SECONDS:.0f} s, on the first seed.\n"
    )
    print(f"| fleet | model | p50 / p99 ms | tokens/s | bound | gap | depth | {' | '.join(BASELINES)} | big-M |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    plan(one_region(THREE_KINDS, 0), MODEL, request_of(MODEL, 100.0), Policy())  # loads the solver
    for shape in SHAPES:
        for model in (MODEL, SMALLER):
            sys.stderr.write(f"bench: fleet flow, {shape.name}, {model.model_id}\n")
            print(row(shape, model, milp=options.milp), flush=True)


if __name__ == "__main__":
    main()
