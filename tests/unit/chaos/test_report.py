"""What is told about a run."""

from collections import Counter
from pathlib import Path

from chaos.plan import plan_of
from chaos.report import BEGIN, report, write
from chaos.round import Outcome
from chaos.verdict import Verdict


def outcome(seed: int, verdict: Verdict) -> Outcome:
    return Outcome(
        plan=plan_of(seed),
        verdict=verdict,
        faults=Counter({"kill nats": 1, "cut agent": 2}),
        published=1000,
        retries=3,
        fenced=1,
        gaps=1,
        catching_up_seconds=float(seed),
        seconds=5,
    )


GOOD = outcome(1, Verdict(900, [], [], 4))
BAD = outcome(2, Verdict(800, ["event a"], ["event b, 2 times"], 0, ["the read model is not the fold: links"]))


def test_the_figures_of_all_rounds_are_told() -> None:
    told = report([GOOD, BAD], seed=1, seconds=600)
    for row in (
        "| rounds | 2, seeds 1 to 2, in 10 min |",
        "| rounds that failed | 1 |",
        "| faults | 6 |",
        "| events published | 2,000 |",
        "| acknowledged | 1,700 |",
        "| lost | 1 |",
        "| doubled | 1 |",
        "| longest from the heal until caught up | 2.0 s |",
        "| kill nats | 2 |",
    ):
        assert row in told.splitlines()


def test_a_failed_round_is_told_with_the_way_to_play_it_again() -> None:
    told = report([GOOD, BAD], seed=1, seconds=600)
    assert "Seed 2 failed; again by `make chaos ROUNDS=1 SEED=2`:" in told
    assert "- lost: event a" in told
    assert "- doubled: event b, 2 times" in told
    assert "failed; again" not in report([GOOD], seed=1, seconds=600)


def test_what_people_wrote_on_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "chaos.md"
    page.write_text(f"# Ours\n\nWords.\n\n{BEGIN}\n\nold figures\n")
    for _ in range(2):
        write(page, "new figures\n")
        assert page.read_text() == f"# Ours\n\nWords.\n\n{BEGIN}\n\nnew figures\n"
