"""``python -m chaos``: the fault suite in full; ``make chaos`` runs it."""

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import time
from pathlib import Path

from chaos.plan import plan_of
from chaos.report import failure, report, write
from chaos.round import Outcome, play
from chaos.stage import stage
from support.server_folders import server_folder


def run(rounds: int, seed: int, keep: Path | None, *, cold: bool) -> list[Outcome]:
    """Play the rounds, or those that fit in before an interrupt; the folders of those that failed go to ``keep``."""
    outcomes: list[Outcome] = []
    with contextlib.suppress(KeyboardInterrupt), server_folder() as folder, stage(folder, cold=cold) as servers:
        for number in range(seed, seed + rounds):
            place = folder / f"round-{number}"
            outcome = asyncio.run(play(servers, plan_of(number), place))
            outcomes.append(outcome)
            _say_how_it_went(outcome)
            if keep is not None and not outcome.verdict.passed:
                shutil.copytree(place, keep / place.name, dirs_exist_ok=True)
            shutil.rmtree(place)
    return outcomes


def _say_how_it_went(outcome: Outcome) -> None:
    word = "ok" if outcome.verdict.passed else "FAILED"
    faults = ", ".join(outcome.faults) or "nothing"
    sys.stderr.write(f"chaos: seed {outcome.plan.seed} {word} in {outcome.seconds:.1f} s: {faults}\n")
    if not outcome.verdict.passed:
        sys.stderr.write("\n".join(failure(outcome)) + "\n")


def main() -> int:
    """Return 0 if every promise was kept in every round."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the others follow")
    parser.add_argument("--report", type=Path, help="a markdown page whose last part is replaced by this run's")
    parser.add_argument("--keep", type=Path, help="where the logs of failed rounds are kept")
    parser.add_argument("--cold", action="store_true", help="start every process by its command line: slower")
    options = parser.parse_args()
    # Also where a shell in the background took the interrupt away: servers and mounts are not left behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    outcomes = run(options.rounds, options.seed, options.keep, cold=options.cold)
    section = report(outcomes, seed=options.seed, seconds=time.monotonic() - began)
    sys.stdout.write(section)
    if options.report:
        write(options.report, section)
    return 0 if all(outcome.verdict.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
