"""What a re-plan takes, moves and proves after a loss. Prints a markdown section; one process, nothing else at work."""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from random import Random

from shardbus_placer.movement import held_by
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import ObjectiveName, PlacementRequest
from support import speed_fleets as fleets
from support.quantiles import quantile

DEADLINE_MS = 100.0
PATIENT_MS = 2000.0
"""For the plan before the loss, which is not measured."""
HORIZON_TOKENS = 100_000.0
"""An hour at 28 tokens/s."""
OBJECTIVES: tuple[ObjectiveName, ...] = ("latency", "throughput")
POLICY = Policy()


@dataclass(frozen=True)
class Row:
    """Fleets of one shape, and what each loses."""

    name: str
    fleet: Callable[[int], Fleet]
    whole_node: bool = False
    fleets: int = 30


ROWS = (
    Row("8 devices, any links; a device", lambda seed: fleets.any_links(8, seed)),
    Row("16 nodes / 64 devices, unequal links; a device", lambda seed: fleets.unequal_links(16, seed)),
    Row("16 nodes / 64 devices, unequal links; a node", lambda seed: fleets.unequal_links(16, seed), whole_node=True),
    Row("128 devices of ≤ 6 kinds; a device", lambda seed: fleets.few_kinds(128, seed)),
)


@dataclass
class Measured:
    """What one row gave."""

    answer_ms: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    unproved: int = 0
    moved: list[float] = field(default_factory=list)
    """Bytes fetched, in multiples of what was lost."""
    moved_by_others: list[float] = field(default_factory=list)
    """The same of the plan that only prefers to stay among equally good ones."""
    down: list[float] = field(default_factory=list)
    """Seconds."""
    refused: int = 0


def without(fleet: Fleet, lost: Collection[DeviceKey]) -> Fleet:
    """Return the fleet after these devices are lost."""
    nodes = tuple(
        node.model_copy(
            update={
                "devices": tuple(
                    one.model_copy(update={"status": "lost"})
                    if DeviceKey.of(node.node_id, one.device_id) in lost
                    else one
                    for one in node.devices
                )
            }
        )
        for node in fleet.nodes
    )
    return fleet.model_copy(update={"nodes": nodes})


def measure(row: Row, objective: ObjectiveName) -> Measured:
    """Return times, claims and moves over the fleets of a row."""
    found = Measured()
    for seed in range(row.fleets):
        fleet = row.fleet(seed)
        model = fleets.model_of_80_layers(fleet, seed)
        request = PlacementRequest(
            model=model, objective=objective, sharding="pipeline", context_tokens=8192, deadline_ms=DEADLINE_MS
        )
        old = plan(fleet, model, request.model_copy(update={"deadline_ms": PATIENT_MS}), POLICY)
        if old.status == "refused":
            continue
        used = [key for stage in old.stages for key in stage.devices]
        gone = Random(f"loss {seed}").choice(used)
        lost = {key for key, node, _ in fleet.devices() if row.whole_node and node.node_id == gone.node_id} | {gone}
        after, held = without(fleet, lost), held_by(old.stages, lost)
        gc.collect()
        began = time.perf_counter()
        answer = plan(after, model, request, POLICY, held=held, horizon_tokens=HORIZON_TOKENS)
        found.answer_ms.append((time.perf_counter() - began) * 1e3)
        other = plan(after, model, request, POLICY, held=held)
        if answer.status == "refused" or other.status == "refused":
            found.refused += 1
            continue
        wrong = verify(after, model, request, POLICY, answer, held=held, horizon_tokens=HORIZON_TOKENS)
        assert wrong == (), (row.name, objective, seed, wrong)
        assert answer.movement is not None
        assert other.movement is not None
        gone_bytes = sum(
            sum(model.bytes_by_layer[stage.start_layer : stage.end_layer])
            for stage in old.stages
            if not lost.isdisjoint(stage.devices)
        )
        found.gaps += [] if answer.objective.gap is None else [answer.objective.gap]
        found.unproved += answer.objective.gap is None
        found.moved.append(answer.movement.moved_bytes / gone_bytes)
        found.moved_by_others.append(other.movement.moved_bytes / gone_bytes)
        found.down.append(answer.movement.downtime_seconds)
    return found


def line(row: Row, objective: ObjectiveName, found: Measured) -> str:
    """Return one line of the table."""
    plans = len(found.moved)
    cells = (
        row.name,
        objective,
        f"{statistics.median(found.answer_ms):.1f} / {quantile(found.answer_ms, 0.99):.1f}",
        f"{sum(gap == 0 for gap in found.gaps) / plans:.0%}",
        f"{statistics.median(found.gaps):.2%} / {max(found.gaps):.2%}"
        + (f", {found.unproved} without a bound" if found.unproved else ""),
        f"{statistics.median(found.moved):.2f} / {max(found.moved):.2f}",
        f"{statistics.median(found.moved_by_others):.2f} / {max(found.moved_by_others):.2f}",
        f"{statistics.median(found.down):.0f} / {max(found.down):.0f}",
        f"{plans}" + (f", {found.refused} refused" if found.refused else ""),
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--objective", choices=OBJECTIVES, help="this objective alone")
    options = parser.parse_args()
    print(
        "## Planner: re-plans\n\n"
        "The fleets and models of *Planner: speed*; the model is placed, then a device of its plan (or that device's "
        f"whole node) is lost, and it is planned again with a deadline of {DEADLINE_MS:g} ms, what is fetched spread "
        f"over {HORIZON_TOKENS:,.0f} tokens. *Answer*: milliseconds, p50 / p99. *Proved* and *gap* are about the whole "
        "objective, moves counted in. *Moved*: bytes fetched, in multiples of what the lost devices held, median / "
        "most; *unpriced*: the same of the plan that only prefers to stay among equally good ones. *Down*: seconds, "
        "median / most. Every plan is verified.\n"
    )
    print("| fleet; lost | objective | answer | proved | gap | moved | unpriced | down | plans |")
    print("|---|---|---|---|---|---|---|---|---|")
    first = fleets.any_links(4, 0)
    model = fleets.model_of_80_layers(first, 0)
    plan(first, model, PlacementRequest(model=model), POLICY)  # loads the solver
    for row in (row for row in ROWS if options.only in row.name):
        for objective in OBJECTIVES:
            if options.objective in (None, objective):
                sys.stderr.write(f"bench: re-plans, {row.name}, {objective}\n")
                print(line(row, objective, measure(row, objective)), flush=True)


if __name__ == "__main__":
    main()
