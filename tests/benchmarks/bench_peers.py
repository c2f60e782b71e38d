"""Plans of shardbus beside those that the rules of others give, on the same fleets. Prints a markdown section."""

import argparse
import statistics
import sys
from dataclasses import dataclass, field
from math import isclose

from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.placement import ObjectiveName, Placed, Refused
from support.fleet_families import FAMILIES, Case, case, usable
from support.judging import Judgement, judge
from support.peers import PEERS, Shards
from support.quantiles import quantile

CASES = 20
DEADLINE_MS = 100.0
PATIENCE_MS = 5_000.0
POLICY = Policy()
OBJECTIVES: dict[ObjectiveName, str] = {"latency": "time per token", "throughput": "throughput"}


@dataclass
class Tally:
    """What one planner's answers came to."""

    feasible: int = 0
    refused: int = 0
    plans: int = 0
    overcommitted: int = 0
    ratios: list[float] = field(default_factory=list)
    """To the proved optimum, of plans that hold."""
    gaps: list[float] = field(default_factory=list)
    """To the best bound, of plans that hold where no optimum was proved."""

    def take(self, value: float | None, best: Placed | Refused, *, full: bool = False) -> None:
        """Count one answer to a feasible request, of which ``best`` is the best known; no value is a refusal."""
        self.feasible += 1
        if value is None:
            self.refused += 1
            return
        self.plans += 1
        if full:
            self.overcommitted += 1
            return
        if best.status == "refused":
            return
        bound = best.objective.bound
        if best.objective.gap == 0:
            self.ratios.append(value / best.objective.value)
        elif bound is not None:
            self.gaps.append(1 - bound / value)

    def cells(self) -> tuple[str, ...]:
        """Return the columns of the table."""
        held = self.plans - self.overcommitted
        return (
            f"{self.refused / self.feasible:.0%}" if self.feasible else "-",
            f"{self.overcommitted / self.plans:.0%}" if self.plans else "-",
            f"{held / self.feasible:.0%}" if self.feasible else "-",
            f"{statistics.median(self.ratios):.3f}" if self.ratios else "-",
            f"{quantile(self.ratios, 0.95):.3f}" if self.ratios else "-",
            f"{statistics.median(self.gaps):.1%} / {max(self.gaps):.1%}" if self.gaps else "",
        )

    def add(self, other: "Tally") -> None:
        """Count all that ``other`` counted, too."""
        self.feasible += other.feasible
        self.refused += other.refused
        self.plans += other.plans
        self.overcommitted += other.overcommitted
        self.ratios += other.ratios
        self.gaps += other.gaps


@dataclass
class Table:
    """All tallies of one family and objective."""

    ours: Tally = field(default_factory=Tally)
    peers: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in PEERS})
    impossible: int = 0
    """Requests of which it was proved that no plan exists."""
    open: int = 0
    """Requests for which patience found neither a plan nor a proof."""


def shards_of(placed: Placed) -> Shards:
    """Return a plan of single devices as the peers write theirs."""
    return tuple((stage.devices[0], stage.start_layer, stage.end_layer) for stage in placed.stages)


def asked(one: Case, objective: ObjectiveName, deadline_ms: float) -> Placed | Refused:
    """Return shardbus' answer, after the verifier and the judge agreed with it."""
    request = one.request(objective, deadline_ms)
    answer = plan(one.fleet, one.model, request, POLICY)
    if answer.status == "placed":
        where = (one.family, one.seed, objective)
        assert verify(one.fleet, one.model, request, POLICY, answer) == (), where
        judged = judge(one.fleet, one.model, request, POLICY, shards_of(answer))
        assert isclose(judged.value, answer.objective.value, rel_tol=1e-6), (where, judged.value)
        assert not judged.overcommitted, where
    return answer


def compare(family: str, objective: ObjectiveName, cases: int) -> Table:
    """Return everybody's answers to the requests of one family."""
    table = Table()
    for seed in range(cases):
        one = case(family, seed)
        quick = asked(one, objective, DEADLINE_MS)
        patient = quick
        if quick.status == "refused" or quick.objective.gap != 0:
            patient = asked(one, objective, PATIENCE_MS)
        request = one.request(objective, DEADLINE_MS)
        seen = usable(one.fleet, one.model, POLICY)
        judged: dict[str, Judgement | None] = {}
        for name, rule in PEERS.items():
            shards = rule(seen, one.model, request)
            judged[name] = None if shards is None else judge(one.fleet, one.model, request, POLICY, shards)
        if patient.status == "refused":
            held = [name for name, plan_of in judged.items() if plan_of is not None and not plan_of.overcommitted]
            proved = patient.refusal.proved
            assert not proved or (quick.status == "refused" and not held), (family, seed, "a plan and a proof of none")
            table.impossible += proved
            table.open += not proved and not held
            if not held:
                continue
        table.ours.take(quick.objective.value if quick.status == "placed" else None, patient)
        for name, found in judged.items():
            value, full = (None, False) if found is None else (found.value, bool(found.overcommitted))
            if value is not None and not full and patient.status == "placed" and patient.objective.bound is not None:
                assert value >= patient.objective.bound * (1 - 1e-6), (family, seed, name, "beats what was proved")
            table.peers[name].take(value, patient, full=full)
    return table


def row(objective: str, family: str, who: str, requests: str, tally: Tally) -> str:
    """Return one line of the table."""
    return "| " + " | ".join((objective, family, requests, who, *tally.cells())) + " |"


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="requests per family and objective")
    parser.add_argument("--family", choices=FAMILIES, help="this family alone")
    options = parser.parse_args()
    print(_INTRODUCTION.format(cases=options.cases, deadline=DEADLINE_MS, patience=PATIENCE_MS / 1e3))
    print(
        "| objective | family | feasible | who | refused | overcommit a device | usable | ratio median | p95 "
        "| not proved: gap median / worst |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    asked(case("home", 0), "latency", DEADLINE_MS)  # loads the solver
    families = [options.family] if options.family else list(FAMILIES)
    for objective, label in OBJECTIVES.items():
        whole: dict[str, Tally] = {name: Tally() for name in ("shardbus", *PEERS)}
        for family in families:
            sys.stderr.write(f"bench: peers, {label}, {family}\n")
            table = compare(family, objective, options.cases)
            requests = f"{table.ours.feasible} of {options.cases}"
            requests += f", {table.open} not settled" if table.open else ""
            for name, tally in {"shardbus": table.ours, **table.peers}.items():
                print(row(label, family, name, requests, tally), flush=True)
                whole[name].add(tally)
        for name, tally in whole.items():
            print(row(label, "all", name, str(tally.feasible), tally), flush=True)


_INTRODUCTION = """## Planner: quality beside peers' rules

{cases} fleets of each family, with a model of the catalogue that half of the time wants 60 to 102 % of the free
memory. The peers' rules are restated from their sources (`tests/support/peers.py`); each sees what it looks at, and
only devices that may be used. One judge prices all plans: physical memory (no headroom) against weights, KV cache at
the whole context, buffers and the runtime's own; time by the cost model of `docs/placement.md`. shardbus has
{deadline:g} ms. *Feasible*: somebody's plan holds, shardbus given up to {patience:g} s; the other
requests are proved to have no plan.
*Usable*: share of feasible requests that got a plan which holds. *Ratio*: to the proved optimum, of plans that hold;
1 is best. *Not proved*: where {patience:g} s prove no optimum, how far plans that hold may be from the best at most.
Pipelines of single devices only, so that all choose among the same plans.
"""


if __name__ == "__main__":
    main()
