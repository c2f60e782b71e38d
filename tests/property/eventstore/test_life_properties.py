"""Any stream tells a life, and it is the life that the fold has."""

from datetime import timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_console.life_view import moment_lines, now_lines, total_lines
from shardbus_eventstore.wording import layout, named_summary
from shardbus_schemas import events
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import MESSAGE_TYPES
from support.answers import placed_event
from support.histories import START
from support.lives import FIRST, LLAMA, NAME, NOWHERE, REQUEST, SECOND, THIRD, Telling, refused
from support.message_strategies import messages

REFUSED = refused("1 byte is missing")
CAUSES = st.sampled_from(get_args(events.ChangeCause))
PLANS = st.sampled_from((FIRST, SECOND, THIRD))
WORDS = st.text(max_size=5)
SHARDS = st.sampled_from((("rig", "cuda:0"), ("rig", "cuda:1"), ("desk", "mlx:0")))
STATES = st.sampled_from(get_args(events.ShardState))


@st.composite
def reports(draw: st.DrawFn) -> events.ShardReported:
    node, device = draw(SHARDS)
    return events.ShardReported(
        instance_id=NAME,
        node_id=node,
        device_id=device,
        state=draw(STATES),
        occurred_at=START + timedelta(seconds=draw(st.integers(0, 100))),
        message=draw(st.none() | WORDS),
    )


@st.composite
def waits(draw: st.DrawFn) -> events.InstancePending:
    new = {"command_id": "c1", "model": LLAMA, "request": REQUEST} if draw(st.booleans()) else {}
    return events.InstancePending.model_validate(
        {"instance_id": NAME, "cause": draw(CAUSES), "reason": draw(WORDS), "result": REFUSED, "position": NOWHERE}
        | new
    )


MESSAGES = st.one_of(
    PLANS.map(lambda where: placed_event(NAME).model_copy(update={"plan": where})),
    st.builds(
        lambda where, reason, cause: events.InstanceReplaced(
            instance_id=NAME, plan=where, reason=reason, cause=cause, position=NOWHERE
        ),
        PLANS,
        WORDS,
        CAUSES | st.none(),
    ),
    waits(),
    st.builds(lambda reason: events.InstanceDeleted(instance_id=NAME, reason=reason), WORDS | st.none()),
    st.builds(lambda reason: events.InstanceLost(instance_id=NAME, devices=(), reason=reason), WORDS),
    reports(),
    st.just(events.NodeLeft(node_id="rig", boot_id="b1")),
    st.just(placed_event("another")),
)


@st.composite
def told(draw: st.DrawFn) -> Telling:
    """Return a stream about one instance and what is around it, where anything may have led to anything."""
    telling, at = Telling(), 0.0
    for number, message in enumerate(draw(st.lists(MESSAGES, max_size=20))):
        at += draw(st.sampled_from((0.0, 0.01, 7.0, 86_400.0, -3.0)))
        cause = f"event-{draw(st.integers(1, number + 2))}" if draw(st.booleans()) else None
        telling.say(message, at, because=cause)
    return telling


@given(told(), st.floats(0, 1e6))
@settings(deadline=None, max_examples=60)
def test_any_history_tells_the_life_that_the_fold_has(telling: Telling, later: float) -> None:
    record = telling.state.instances.get(NAME)
    last = telling.stored[-1].recorded_at if telling.stored else START
    life = telling.life(now=last + timedelta(seconds=later))
    assert (life is None) == (record is None)
    if life is None or record is None:
        return
    assert life.status == record.status
    assert (None if life.plan is None else life.plan.layout) == (
        layout(record.plan) if record.status == "placed" and record.plan is not None else None
    )
    assert life.refusal == (None if record.refusal is None else record.refusal.refusal)
    sequences = [moment.sequence for moment in life.moments]
    assert sequences == sorted(set(sequences))
    totals = life.totals
    parts = (totals.placed_seconds, totals.without_place_seconds, totals.gone_seconds)
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(totals.seconds, abs=1e-3)
    assert 0 <= (totals.ready_seconds or 0) <= totals.placed_seconds + 1e-3
    assert totals.longest_without_place_seconds <= totals.without_place_seconds + 1e-3
    for line in (*moment_lines(life.moments), *now_lines(life), *total_lines(life)):
        assert line.strip()
        assert "\n" not in line


@given(st.sampled_from(sorted(MESSAGE_TYPES)).flatmap(lambda name: messages(MESSAGE_TYPES[name])))
@settings(deadline=None, max_examples=60)
def test_every_message_is_told_in_one_line(message: FrozenModel) -> None:
    said = named_summary(message)
    assert said.strip()
    assert "\n" not in said
