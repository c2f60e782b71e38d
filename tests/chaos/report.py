"""What many rounds come to: counts, as a table of markdown. Pure."""

import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from chaos.round import Outcome

BEGIN: Final = "<!-- what follows is written by `make chaos REPORT=docs/chaos.md` -->"


def report(outcomes: Sequence[Outcome], *, seed: int, seconds: float) -> str:
    """Return the section of a run."""
    verdicts = [outcome.verdict for outcome in outcomes]
    failed = [outcome for outcome in outcomes if not outcome.verdict.passed]
    killed = [outcome for outcome in outcomes if outcome.plan.kills_nats]
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    rows = [
        ("rounds", f"{len(outcomes)}, seeds {seed} to {seed + len(outcomes) - 1}, in {seconds / 60:.0f} min"),
        ("rounds that failed", len(failed)),
        ("faults", sum(faults.values())),
        ("events published", f"{sum(outcome.published for outcome in outcomes):,}"),
        ("sent again, for want of an answer", f"{sum(outcome.retries for outcome in outcomes):,}"),
        ("acknowledged", f"{sum(verdict.acknowledged for verdict in verdicts):,}"),
        ("lost", sum(len(verdict.lost) for verdict in verdicts)),
        ("doubled", sum(len(verdict.doubled) for verdict in verdicts)),
        (
            "telemetry forgotten by killed servers",
            f"{sum(verdict.forgotten for verdict in verdicts)}, in {len(killed)} rounds with such a kill",
        ),
        ("rows of `gaps`", sum(outcome.gaps for outcome in outcomes)),
        ("projectors fenced in the middle of their work", sum(outcome.fenced for outcome in outcomes)),
        (
            "longest from the heal until caught up",
            f"{max((outcome.catching_up_seconds for outcome in outcomes), default=0):.1f} s",
        ),
    ]
    lines = [
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {figure} |" for name, figure in rows),
        "",
        "| fault | times |",
        "|---|---:|",
        *(f"| {name} | {count} |" for name, count in sorted(faults.items())),
        "",
        *(line for outcome in failed for line in failure(outcome)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def failure(outcome: Outcome) -> Sequence[str]:
    """Return what a failed round showed, and how to play it again."""
    verdict = outcome.verdict
    said = [*(f"lost: {each}" for each in verdict.lost), *(f"doubled: {each}" for each in verdict.doubled)]
    return [
        f"Seed {outcome.plan.seed} failed; again by `make chaos ROUNDS=1 SEED={outcome.plan.seed}`:",
        "",
        *(f"- {each}" for each in (*said[:10], *verdict.problems[:10])),
        "",
    ]


def write(page: Path, section: str) -> None:
    """Put the section into the page, after what people wrote."""
    head = page.read_text(encoding="utf-8").partition(BEGIN)[0].rstrip() if page.exists() else "# Fault suite"
    page.write_text(f"{head}\n\n{BEGIN}\n\n{section}", encoding="utf-8")
