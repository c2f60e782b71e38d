"""How long the planner takes, and how much it proves. Prints a markdown section; one process, nothing else at work."""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_placer.models.catalogue import catalogue
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.placement import ObjectiveName, PlacementRequest, Sharding
from support import speed_fleets as fleets
from support.fleet_events import NOW, state_of
from support.quantiles import quantile

DEADLINE_MS = 100.0
OBJECTIVES: tuple[ObjectiveName, ...] = ("latency", "throughput", "score")
POLICY = Policy()
WINDOWED = "gemma-3-27b"
"""62 layers; every sixth sees the whole context, the others a window of 1024 tokens."""


@dataclass(frozen=True)
class Goal:
    """What a row is to reach."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    answer_p99_ms: float | None = None
    proved: float = 0.0
    """Share of fleets whose plan is to be proved optimal."""
    close: float = 0.0
    """Share of fleets whose gap is to be at most 1 %."""

    def __str__(self) -> str:
        if self.p99_ms is None:
            return ""
        solver = f"{self.p50_ms:g} / {self.p99_ms:g}" if self.p50_ms is not None else f"- / {self.p99_ms:g}"
        claims = f", proved {self.proved:.0%}" if self.proved else ""
        claims += f", gap ≤ 1 % in {self.close:.0%}" if self.close else ""
        return f"{solver}; {self.answer_p99_ms:g}{claims}"


@dataclass(frozen=True)
class Row:
    """Fleets of one shape."""

    name: str
    fleet: Callable[[int], Fleet]
    goal: Goal = Goal()
    fleets: int = 40
    model: str | None = None
    """An id of the catalogue; without it, one of 80 layers that leaves room."""
    sharding: Sharding = "pipeline"
    deadline_ms: float = DEADLINE_MS


ROWS = (
    Row("8 devices, any links", lambda seed: fleets.any_links(8, seed), Goal(5, 20, 30, proved=1), fleets=60),
    Row("32 devices, one link for all", lambda seed: fleets.one_link(32, seed), Goal(10, 40, 50, proved=1)),
    Row(
        "16 nodes / 64 devices, unequal links",
        lambda seed: fleets.unequal_links(16, seed),
        Goal(30, 80, 100, proved=0.95, close=1),
    ),
    Row(
        "24 nodes / 96 devices, unequal links",
        lambda seed: fleets.unequal_links(24, seed),
        Goal(60, 100, 120, close=0.95),
    ),
    Row("128 devices of ≤ 6 kinds", lambda seed: fleets.few_kinds(128, seed), Goal(20, 60, 80, proved=1)),
    Row(
        "128 devices of ≤ 6 kinds, each with its own readings",
        lambda seed: fleets.few_kinds(128, seed, own_readings=True),
        fleets=30,
    ),
    Row(
        "1,000 devices in 200 nodes",
        lambda seed: fleets.large(200, seed),
        Goal(None, 100, 1000, close=1),
        fleets=10,
        deadline_ms=1000,
    ),
    *(
        Row(
            f"{count} devices, any links; 62 unequal layers",
            lambda seed, n=count: fleets.any_links(n, seed),
            model=WINDOWED,
            fleets=30,
        )
        for count in (4, 8, 16)
    ),
    Row("8 devices, any links; tensor groups too", lambda seed: fleets.any_links(8, seed), sharding="auto", fleets=30),
    Row(
        "16 nodes / 64 devices, unequal links; tensor groups too",
        lambda seed: fleets.unequal_links(16, seed),
        sharding="auto",
        fleets=20,
    ),
)


@dataclass
class Measured:
    """What one row gave."""

    solver_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)
    gaps: list[float | None] = field(default_factory=list)
    """One per plan; ``None`` where nothing was proved."""
    refused: int = 0
    """With a proof that there is no plan."""
    unanswered: int = 0
    """Refused because time ran out."""

    @property
    def proved(self) -> float:
        """Share of answers that are proved: optimal, or that there is none."""
        return (sum(gap == 0 for gap in self.gaps) + self.refused) / len(self.solver_ms)

    def missed(self, goal: Goal) -> list[str]:
        """Return what of the goal was not reached."""
        if goal.p99_ms is None or goal.answer_p99_ms is None:
            return []
        close = (sum(gap is not None and gap <= 0.01 for gap in self.gaps) + self.refused) / len(self.solver_ms)
        found = (
            ("solver p50", goal.p50_ms is None or statistics.median(self.solver_ms) <= goal.p50_ms),
            ("solver p99", quantile(self.solver_ms, 0.99) <= goal.p99_ms),
            ("answer p99", quantile(self.answer_ms, 0.99) <= goal.answer_p99_ms),
            ("proofs", self.proved >= goal.proved),
            ("gap", close >= goal.close),
        )
        return [name for name, good in found if not good]


def measure(row: Row, objective: ObjectiveName, policy: Policy = POLICY) -> Measured:
    """Return times and claims over the fleets of a row."""
    found = Measured()
    for seed in range(row.fleets):
        told = row.fleet(seed)
        model = catalogue()[row.model] if row.model else fleets.model_of_80_layers(told, seed)
        request = PlacementRequest(
            model=model, objective=objective, sharding=row.sharding, context_tokens=8192, deadline_ms=row.deadline_ms
        )
        state = state_of(told)
        gc.collect()  # what building the state left behind is not the planner's
        began = time.perf_counter()
        # No state holds a default link: that is a fleet file's.
        fleet = fleet_of(state, NOW).model_copy(update={"default_link": told.default_link})
        answer = plan(fleet, model, request, policy)
        found.answer_ms.append((time.perf_counter() - began) * 1e3)
        report = answer.solver
        if report is not None:
            seconds = report.seconds if report.solve_seconds is None else report.solve_seconds
            found.solver_ms.append(seconds * 1e3)
        if answer.status == "refused":
            found.solver_ms.extend([0.0] * (report is None))
            found.refused += answer.refusal.proved
            found.unanswered += not answer.refusal.proved
            continue
        assert verify(fleet, model, request, policy, answer) == (), (row.name, objective, seed)
        found.gaps.append(answer.objective.gap)
    return found


def line(row: Row, objective: ObjectiveName, found: Measured) -> str:
    """Return one line of the table."""
    gaps = [gap for gap in found.gaps if gap is not None]
    unknown = len(found.gaps) - len(gaps)
    gap = f"{statistics.median(gaps):.2%} / {max(gaps):.2%}" if gaps else "-"
    missed = found.missed(row.goal)
    cells = (
        row.name,
        objective,
        f"{statistics.median(found.solver_ms):.1f} / {quantile(found.solver_ms, 0.99):.1f}",
        f"{statistics.median(found.answer_ms):.1f} / {quantile(found.answer_ms, 0.99):.1f}",
        f"{found.proved:.0%}",
        gap
        + (f", {unknown} without a bound" if unknown else "")
        + (f", {found.unanswered} refused for lack of time" if found.unanswered else ""),
        str(row.goal),
        ("missed: " + ", ".join(missed) if missed else "yes") if str(row.goal) else "",
    )
    return "| " + " | ".join(cells) + " |"


def chosen(only: str) -> Iterable[Row]:
    """Return the rows whose name contains ``only``."""
    return (row for row in ROWS if only in row.name)


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--objective", choices=OBJECTIVES, help="this objective alone")
    options = parser.parse_args()
    print(
        "## Planner: speed\n\n"
        "Models of 80 layers (70B and 180B, 4 to 16 bits) at 8,192 tokens of context; every device with readings of "
        f"its own unless a row says otherwise; deadline {DEADLINE_MS:g} ms; a warm process. Milliseconds, p50 / p99; "
        "with fewer than a hundred fleets a p99 is the worst of them. *Solver* is all of searching and solving; "
        "*answer* is reading the state, building, solving, verifying and explaining. *Proved*: optimal, or that "
        "there is no plan. *Gap*: how far the plan may be from the best at most, median / worst. Every plan is "
        "verified.\n"
    )
    print("| fleet | objective | solver | answer | proved | gap | goal: solver; answer p99 | met |")
    print("|---|---|---|---|---|---|---|---|")
    first = fleets.any_links(4, 0)
    model = fleets.model_of_80_layers(first, 0)
    plan(first, model, PlacementRequest(model=model), POLICY)  # loads the solver
    for row in chosen(options.only):
        for objective in OBJECTIVES:
            if options.objective in (None, objective):
                sys.stderr.write(f"bench: planner, {row.name}, {objective}\n")
                print(line(row, objective, measure(row, objective)), flush=True)


if __name__ == "__main__":
    main()
