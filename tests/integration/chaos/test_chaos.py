"""The fault suite in its short form, and its teeth. ``make chaos`` plays hundreds of rounds."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.plan import Plan, plan_of
from chaos.report import failure
from chaos.round import Outcome, play
from chaos.stage import Stage, stage
from chaos.targets import ALL_AT_ONCE, TARGETS
from chaos.variants import BROKEN
from support.server_folders import server_folder

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(300)]

SEEDS = (19, 5, 9)
"""Kills of both servers, a black hole, retention, and a zombie that only the fence keeps from writing."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Stage]:
    with server_folder() as folder, stage(folder) as made:
        yield made


def played(servers: Stage, plan: Plan, folder: Path, variant: str = "") -> Outcome:
    return asyncio.run(play(servers, plan, folder / (variant or "round"), variant=variant))


def test_nothing_is_lost_and_nothing_doubled_whatever_fails(servers: Stage, tmp_path: Path) -> None:
    outcomes = [played(servers, plan_of(seed), tmp_path / str(seed)) for seed in SEEDS]
    assert not [line for outcome in outcomes if not outcome.verdict.passed for line in failure(outcome)]
    assert all(outcome.verdict.acknowledged == outcome.published > 300 for outcome in outcomes)
    kinds = {name for outcome in outcomes for name in outcome.faults}
    assert {"kill nats", "kill postgres", "zombie projector", "retention projector"} <= kinds
    assert sum(outcome.gaps for outcome in outcomes) >= 1, "retention dropped something unread"
    assert sum(outcome.fenced for outcome in outcomes) >= 1, "a zombie was fenced"


@pytest.mark.parametrize("variant", BROKEN)
def test_what_is_broken_on_purpose_is_found_out(servers: Stage, tmp_path: Path, variant: str) -> None:
    verdict = played(servers, TARGETS[variant], tmp_path, variant).verdict
    if variant == "nameless":
        assert verdict.doubled
    else:
        assert [problem for problem in verdict.problems if "is not the fold" in problem]


def test_the_real_one_stands_all_that_the_broken_ones_fell_over(servers: Stage, tmp_path: Path) -> None:
    outcome = played(servers, ALL_AT_ONCE, tmp_path, "real")
    assert outcome.verdict.passed, failure(outcome)
    assert outcome.retries > 0, "acknowledgements were lost"
