"""The fault suite in its short form, and its teeth. ``make chaos`` plays hundreds of rounds."""

import asyncio
from pathlib import Path

import pytest
from chaos.plan import Plan, plan_of
from chaos.report import failure
from chaos.round import Outcome, play
from chaos.stage import stage
from chaos.targets import ALL_AT_ONCE, TARGETS
from chaos.variants import BROKEN

pytestmark = [pytest.mark.connected, pytest.mark.slow]

SEEDS = (19, 5, 9)
"""Kills of both servers, a black hole, retention, and a zombie that only the fence keeps from writing."""


async def played(folder: Path, *rounds: tuple[Plan, str]) -> list[Outcome]:
    async with stage(folder) as servers:
        return [
            await play(servers, plan, folder / f"round-{number}", variant=variant)
            for number, (plan, variant) in enumerate(rounds)
        ]


def test_nothing_is_lost_and_nothing_doubled_whatever_fails(folder_for_servers: Path) -> None:
    outcomes = asyncio.run(played(folder_for_servers, *((plan_of(seed), "") for seed in SEEDS)))
    assert not [line for outcome in outcomes if not outcome.verdict.passed for line in failure(outcome)]
    assert all(outcome.verdict.acknowledged == outcome.published > 300 for outcome in outcomes)
    kinds = {name for outcome in outcomes for name in outcome.faults}
    assert {"kill nats", "kill postgres", "zombie projector", "retention projector"} <= kinds
    assert sum(outcome.gaps for outcome in outcomes) >= 1, "retention dropped something unread"
    assert sum(outcome.fenced for outcome in outcomes) >= 1, "a zombie was fenced"


def test_what_is_broken_on_purpose_is_found_out_and_the_real_one_is_not(folder_for_servers: Path) -> None:
    *broken, real = asyncio.run(
        played(folder_for_servers, *((TARGETS[variant], variant) for variant in BROKEN), (ALL_AT_ONCE, "real"))
    )
    found = dict(zip(BROKEN, broken, strict=True))
    for variant in ("acknowledges-before-commit", "checkpoints-apart", "unfenced"):
        assert any("is not the fold" in problem for problem in found[variant].verdict.problems), variant
    assert found["nameless"].verdict.doubled
    assert not real.verdict.doubled
    assert real.verdict.passed, failure(real)
    assert real.retries > 0, "acknowledgements were lost"
