"""Thousands of decisions of simulated days, taken again from the streams alone."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import pytest
from shardbus_eventstore.past_decisions import past_decisions
from shardbus_placer.hindsight import Difference, Reckoning, Rules, compare, redo, result_of, was_planned
from shardbus_placer.policy import Policy
from shardbus_schemas.placement import Placed, Refused
from support.simulated_decisions import KNOWLEDGE, Day

Seen = Callable[[Placed | Refused, Placed | Refused, Difference], None]


def redone(day: Day, rules: Rules, seen: Seen | None = None, *, same_rules: bool = True) -> Reckoning:
    """Take every decision of ``day`` again."""

    async def run() -> Reckoning:
        reckoning = Reckoning()
        async with aclosing(past_decisions(day.bus, wanted=was_planned)) as decisions:
            async for one in decisions:
                assert one.state is not None
                before, after = result_of(one.event), redo(one.event, one.state, one.as_of, rules)
                assert after is not None
                difference = compare(before, after, same_rules=same_rules)
                reckoning.add(difference)
                if seen is not None:
                    seen(before, after, difference)
        return reckoning

    return asyncio.run(run())


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_same_planner_and_policy_decide_the_same_two_thousand_times(seed: int) -> None:
    day = Day(seed)
    day.run(250)
    assert min(day.answers[kind] for kind in ("InstancePlaced", "PlacementPreviewed", "PlacementRejected")) > 10

    def as_before(before: Placed | Refused, after: Placed | Refused, _: Difference) -> None:
        # Not only what is compared: all of the answer, but for how long it took.
        assert without_times(after) == without_times(before)

    summary = redone(day, Rules(KNOWLEDGE), as_before).summary
    assert summary.kinds == {"identical": day.decided}
    assert summary.decisions == 250


def without_times(result: Placed | Refused) -> Placed | Refused:
    return result.model_copy(update={"solver": None, "notes": ()})


def test_other_headroom_refuses_only_what_needs_it_and_grants_nothing_new() -> None:
    day = Day(11)
    day.run(60)
    wanted = {name: rules.model_copy(update={"headroom_fraction": 0.6}) for name, rules in Policy().backends.items()}
    strict = replace(KNOWLEDGE, policy=Policy(backends=wanted))

    def never_more(before: Placed | Refused, _: Placed | Refused, difference: Difference) -> None:
        assert difference.kind != "now_granted", before

    summary = redone(day, Rules(strict), never_more, same_rules=False).summary
    assert summary.kinds.get("now_refused", 0) > 0
    back = redone(day, Rules(KNOWLEDGE)).summary
    assert back.kinds == {"identical": 60}


def test_another_objective_is_never_worse_in_its_own_terms() -> None:
    day = Day(12, objective="score")
    day.run(60)

    def quicker(before: Placed | Refused, after: Placed | Refused, difference: Difference) -> None:
        if isinstance(before, Placed) and isinstance(after, Placed):
            assert after.predicted.seconds_per_token <= before.predicted.seconds_per_token * (1 + 1e-9)
        else:
            assert difference.kind == "identical"  # what fits does not depend on what is wished for

    summary = redone(day, Rules(KNOWLEDGE, objective="latency"), quicker, same_rules=False).summary
    assert summary.kinds.get("other_plan", 0) > 0
    assert summary.seconds_per_token is not None
    assert summary.seconds_per_token.total_after < summary.seconds_per_token.total_before
