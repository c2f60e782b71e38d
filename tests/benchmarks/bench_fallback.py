"""How good the plan is that is in hand before the solver is asked. Prints a markdown section."""

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.placement import ObjectiveName, Placed, PlacementRequest
from support import speed_fleets as fleets
from support.broken_solver import Hang, solver_is
from support.quantiles import quantile

FLEETS = 15
DEADLINE_MS = 100.0
PATIENCE_MS = 3_000.0
POLICY = Policy()
GOAL = 0.005
OBJECTIVES: tuple[ObjectiveName, ...] = ("latency", "throughput", "score")
SHAPES: dict[str, Callable[[int], Fleet]] = {
    "8 devices, any links": lambda seed: fleets.any_links(8, seed),
    "16 devices, any links": lambda seed: fleets.any_links(16, seed),
    "32 devices, one link for all": lambda seed: fleets.one_link(32, seed),
    "8 nodes / 32 devices, unequal links": lambda seed: fleets.unequal_links(8, seed),
}


class Distance(NamedTuple):
    """How far a plan without a solver is from the best."""

    gap: float
    """Relative to its own value."""
    proved: bool
    """Whether that is to the proved optimum, or only to a bound on it: then it is less in truth."""


def placed(fleet: Fleet, seed: int, objective: ObjectiveName, deadline_ms: float) -> Placed | None:
    """Return a verified plan, or ``None`` for a refusal."""
    model = fleets.model_of_80_layers(fleet, seed)
    request = PlacementRequest(
        model=model, objective=objective, sharding="pipeline", context_tokens=8192, deadline_ms=deadline_ms
    )
    answer = plan(fleet, model, request, POLICY)
    if answer.status == "refused":
        return None
    assert verify(fleet, model, request, POLICY, answer) == (), (seed, objective)
    return answer


def distances(shape: str, objective: ObjectiveName) -> tuple[list[Distance], int]:
    """Return how far each fleet's plan in hand is from the best, and how often there was none though one exists."""
    found: list[Distance] = []
    missing = 0
    for seed in range(FLEETS):
        fleet = SHAPES[shape](seed)
        with solver_is(Hang().way("raising")):
            in_hand = placed(fleet, seed, objective, DEADLINE_MS)
        best = placed(fleet, seed, objective, PATIENCE_MS)
        if in_hand is None or best is None:
            missing += in_hand is None and best is not None
            continue
        reached, known = in_hand.objective, best.objective
        bound = known.bound if known.bound is not None else reached.bound
        if bound is not None:
            found.append(Distance(abs(reached.value - bound) / abs(reached.value), known.gap == 0))
    return found, missing


def line(shape: str, objective: ObjectiveName) -> str:
    """Return one line of the table."""
    found, missing = distances(shape, objective)
    optima = [gap for gap, proved in found if proved]
    bounds = [gap for gap, proved in found if not proved]
    cells = (
        shape,
        objective,
        f"{len(optima)} of {FLEETS}",
        f"{statistics.median(optima):.2%} / {quantile(optima, 0.95):.2%} / {max(optima):.2%}" if optima else "-",
        f"{statistics.median(bounds):.2%} / {max(bounds):.2%}" if bounds else "",
        str(missing),
        ("yes" if max(optima) <= GOAL and not missing else "no") if optima else "-",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the section."""
    print(
        "## Planner: the plan in hand before the solver\n\n"
        f"The solver breaks when it is asked; deadline {DEADLINE_MS:g} ms. Beside it a run of up to "
        f"{PATIENCE_MS / 1e3:g} s with the solver, which proves the optimum, or a bound where it does not: the true "
        "distance is then less. Median / p95 / worst of those with an optimum, median / worst of the others.\n"
    )
    print(
        "| fleet | objective | optimum proved | distance from it | from the bound, where none is proved "
        f"| no plan in hand | ≤ {GOAL:.1%} from the optimum |"
    )
    print("|---|---|---|---|---|---|---|")
    placed(fleets.any_links(4, 0), 0, "latency", DEADLINE_MS)  # loads the solver
    for shape in SHAPES:
        for objective in OBJECTIVES:
            sys.stderr.write(f"bench: fallback, {shape}, {objective}\n")
            print(line(shape, objective), flush=True)


if __name__ == "__main__":
    main()
