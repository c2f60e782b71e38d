"""Whether the planner's deadline holds while its solver hangs. Prints a markdown section.

``make bench`` makes a few thousand calls; the goal is worded for 100,000: ``bench_deadline.py --calls 100000``.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path

from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from support import speed_fleets as fleets
from support.broken_solver import WAYS, Hang, solver_is
from support.quantiles import quantile

CALLS = 5_000
DEADLINE_MS = 25.0
ALLOWED_MS = 5.0
FLEETS = 12
PILE = {"waiting": 25, "sleeping": 25}
"""How many hung solvers may stand about at once; of those that need a core, one."""
BARE_EVERY = 5
POLICY = Policy()
SAYS = {
    "waiting": "waits for ever",
    "sleeping": "comes back long after the deadline",
    "computing": "keeps a core busy outside Python",
    "looping": "keeps Python's own lock busy",
    "raising": "breaks at once",
}
RUN_QUEUE = Path("/proc/thread-self/schedstat")


@dataclass
class Measured:
    """Milliseconds past the deadline, call by call."""

    late: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    """The same, less what the calling thread stood in the machine's run queue."""
    bare: list[float] = field(default_factory=list)
    """How late a wait on an event of the same length came back, with nothing of ours in it."""
    bare_own: list[float] = field(default_factory=list)


def queued_ms() -> float:
    """Return how long this thread was ready to run but did not, since it began; 0 where the system does not say."""
    return int(RUN_QUEUE.read_text(encoding="ascii").split()[1]) / 1e6 if RUN_QUEUE.is_file() else 0.0


def cases(deadline_ms: float) -> Iterator[tuple[Fleet, ModelProfile, PlacementRequest]]:
    """Return small fleets on which the planner asks the solver: of others nothing is learnt here."""
    for seed in count():
        fleet = fleets.any_links(5 + seed % 4, seed)
        model = fleets.model_of_80_layers(fleet, seed)
        request = PlacementRequest(model=model, objective="throughput", sharding="pipeline", deadline_ms=deadline_ms)
        hang = Hang()
        with solver_is(hang.way("raising")):
            answer = plan(fleet, model, request, POLICY)
        if hang.began and answer.status == "placed":
            yield fleet, model, request


def measure(way: str, calls: int, deadline_ms: float) -> tuple[Measured, int]:
    """Return how late ``calls`` calls were with a solver that fails in this way, and how many reached it."""
    found, hang = Measured(), Hang()
    with solver_is(hang.way(way)):
        for index, (fleet, model, request) in enumerate(
            islice(cycle(tuple(islice(cases(deadline_ms), FLEETS))), calls)
        ):
            queued, began = queued_ms(), time.perf_counter()
            answer = plan(fleet, model, request, POLICY)
            late = (time.perf_counter() - began) * 1e3 - request.deadline_ms
            found.late.append(late)
            found.own.append(late - (queued_ms() - queued))
            assert answer.status == "placed", (way, index)
            assert verify(fleet, model, request, POLICY, answer) == (), (way, index)
            if index % BARE_EVERY == 0:
                queued, began = queued_ms(), time.perf_counter()
                threading.Event().wait(deadline_ms / 1e3)
                late = (time.perf_counter() - began) * 1e3 - deadline_ms
                found.bare.append(late)
                found.bare_own.append(late - (queued_ms() - queued))
            if index % PILE.get(way, 1) == 0:
                hang.settle()
        hang.settle()
    return found, hang.began


def over(values: list[float]) -> str:
    """Return how many are later than is allowed."""
    return f"{sum(value > ALLOWED_MS for value in values):,} of {len(values):,}"


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--deadline-ms", type=float, default=DEADLINE_MS)
    parser.add_argument("--way", choices=WAYS, help="this way to fail alone")
    options = parser.parse_args()
    ways = (options.way,) if options.way else WAYS
    print(
        "## Planner: the deadline, with solvers that hang\n\n"
        f"{options.calls:,} calls on fleets of 5 to 8 devices, deadline {options.deadline_ms:g} ms, up to "
        f"{max(PILE.values())} hung solvers at a time. *Late*: milliseconds past the deadline, p50 / p99 / worst; "
        "negative is early. *Own*: less the time that the calling thread was ready to run and the machine ran "
        f"something else. A bare wait on an event as long as the deadline, made every {BARE_EVERY} calls, shows what "
        "the machine does to anyone.\n"
    )
    print(
        f"| the solver | calls | reached it | late | late by > {ALLOWED_MS:g} ms | own: worst "
        f"| own > {ALLOWED_MS:g} ms | bare wait: worst | bare waits late by > {ALLOWED_MS:g} ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for way in ways:
        sys.stderr.write(f"bench: deadline, {way}\n")
        found, reached = measure(way, options.calls // len(ways), options.deadline_ms)
        late = found.late
        cells = (
            SAYS[way],
            f"{len(late):,}",
            f"{reached:,}",
            f"{statistics.median(late):.1f} / {quantile(late, 0.99):.1f} / {max(late):.1f}",
            over(late),
            f"{max(found.own):.1f}",
            over(found.own),
            f"{max(found.bare):.1f}",
            over(found.bare),
        )
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
