"""A decision taken again: what is the same, what differs and how that is told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.fold import fold
from shardbus_eventstore.state import FleetState
from shardbus_placer import telling
from shardbus_placer.decider import decide
from shardbus_placer.finding import find_place
from shardbus_placer.hindsight import (
    PlacementAnswer,
    Reckoning,
    Rules,
    compare,
    redo,
    result_of,
    wanted_by,
    was_planned,
)
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planner import plan
from shardbus_placer.policy import BackendPolicy, Policy
from shardbus_placer.reconcile import reconcile
from shardbus_placer.wanted import Wanted
from shardbus_placer.watch import Watch
from shardbus_schemas import commands, events
from shardbus_schemas.access import Grant
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.ids import CommandId, InstanceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, Refusal, Refused
from shardbus_schemas.registry import Received
from support.placing import TINY

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PLAIN = Policy(backends={}, other_backend=BackendPolicy(headroom_fraction=0.0, runtime_overhead_bytes=0))


def received(message: FrozenModel, sequence: int, stream: str = "FLEET") -> Received[Any]:
    return Received(
        message, Envelope(f"{stream}-{sequence}", type(message).__name__, 1, NOW, "test"), stream, sequence, NOW
    )


def state(**memory: int) -> FleetState:
    """A node for each, with one device of so much memory; the later ones are faster."""
    told: list[FrozenModel] = []
    for number, (node, total) in enumerate(memory.items(), 1):
        facts = DeviceFacts(
            device_id="cuda:0",
            backend="cuda",
            memory_total_bytes=total,
            memory_bandwidth_bytes_per_second=1e6 * number,
        )
        told += [
            events.NodeJoined(node_id=node, boot_id="b", heartbeat_seconds=10),
            events.DeviceRegistered(node_id=node, device=facts),
        ]
    return fold(FleetState(), [received(message, sequence) for sequence, message in enumerate(told, 1)])


def decided(seen: FleetState, policy: Policy = PLAIN, now: datetime = NOW, **request: Any) -> PlacementAnswer:
    usual = {"model_id": "tiny", "command_id": "c1", "context_tokens": 0, "deadline_ms": 10_000.0}
    command = commands.Place(**{**usual, **request})
    (answer,) = decide(received(command, 7, "COMMANDS"), seen, now, knowing(policy))
    assert isinstance(answer, PlacementAnswer)
    return answer


def knowing(policy: Policy = PLAIN, **models: ModelProfile) -> Knowledge:
    return Knowledge({"tiny": TINY, **models}, policy, plan)


def model_of(answer: PlacementAnswer, seen: FleetState) -> ModelProfile:
    wanted = wanted_by(answer, seen, knowing())
    assert wanted is not None
    return wanted.model


def again(answer: PlacementAnswer, seen: FleetState, policy: Policy = PLAIN, **rules: Any) -> Placed | Refused:
    as_of = answer.position.as_of
    assert as_of is not None
    result = redo(answer, seen, as_of, Rules(knowing(policy), **rules))
    assert result is not None
    return result


def test_a_decision_says_when_it_judged_the_state() -> None:
    later = NOW + timedelta(seconds=3)
    seen = state(attic=10_000)
    assert decided(seen, now=later).position.as_of == later
    assert decided(seen, now=later, dry_run=True).position.as_of == later
    assert decided(state(attic=10), now=later).position.as_of == later


def test_the_same_rules_on_the_same_state_give_the_same_answer() -> None:
    for seen in (state(attic=10_000), state(attic=10), state(a=5000, b=5000)):
        answer = decided(seen)
        assert compare(result_of(answer), again(answer, seen)).kind == "identical"


def test_the_time_of_then_is_what_statuses_are_judged_at() -> None:
    seen = state(attic=10_000)
    answer = decided(seen)
    assert compare(result_of(answer), again(answer, seen)).kind == "identical"
    hours_later = redo(answer, seen, NOW + timedelta(hours=2), Rules(knowing()))
    assert isinstance(hours_later, Refused)
    assert hours_later.refusal.code == "no_devices"


def test_more_headroom_refuses_what_was_granted_and_less_grants_what_was_refused() -> None:
    tight = Policy(backends={}, other_backend=BackendPolicy(headroom_fraction=0.9, runtime_overhead_bytes=0))
    seen = state(attic=10_000)
    granted = decided(seen)
    difference = compare(result_of(granted), again(granted, seen, tight))
    assert (difference.kind, difference.after.refusal) == ("now_refused", "insufficient_memory")
    refused = decided(seen, tight)
    difference = compare(result_of(refused), again(refused, seen))
    assert (difference.kind, difference.before.refusal) == ("now_granted", "insufficient_memory")
    assert difference.after.stages[0].devices == ("attic/cuda:0",)
    assert difference.after.tokens_per_second


def test_a_policy_that_slows_a_kind_moves_the_layers_and_says_what_that_costs() -> None:
    slow_cuda = Policy(
        backends={"cuda": BackendPolicy(headroom_fraction=0.0, runtime_overhead_bytes=0, bandwidth_efficiency=0.07)},
        other_backend=PLAIN.other_backend,
    )
    seen = state(attic=10_000)
    answer = decided(seen)
    difference = compare(result_of(answer), again(answer, seen, slow_cuda))
    # The only device is a tenth as fast: the same plan, so the same decision, with another prediction.
    assert difference.kind == "identical"
    assert difference.before.tokens_per_second == pytest.approx(10 * (difference.after.tokens_per_second or 0))


def test_weights_of_the_score_choose_another_device() -> None:
    def weighing(**weights: float) -> Policy:
        nothing = dict.fromkeys(("compute", "memory", "network", "thermal", "bandwidth"), 0.0)
        return PLAIN.model_copy(update={"score_weights": PLAIN.score_weights.model_copy(update={**nothing, **weights})})

    seen = state(large=20_000, quick=8000)  # the second is the faster
    answer = decided(seen, weighing(memory=1.0), objective="score", max_devices=1)
    difference = compare(result_of(answer), again(answer, seen, weighing(bandwidth=1.0)), same_rules=False)
    assert difference.kind == "other_plan"
    assert not difference.equally_good
    assert difference.before.stages[0].devices == ("large/cuda:0",)
    assert difference.after.stages[0].devices == ("quick/cuda:0",)


def test_another_objective_is_tried_in_place_of_the_requests_own() -> None:
    seen = state(large=20_000, quick=8000)
    answer = decided(seen, objective="score", max_devices=1)
    by_latency = again(answer, seen, objective="latency")
    assert isinstance(by_latency, Placed)
    assert by_latency.objective.name == "latency"
    assert compare(result_of(answer), by_latency).kind == "other_plan"


def test_the_model_is_that_of_then() -> None:
    own = ModelProfile(model_id="mine", layers=3, layer_bytes=10)
    seen = state(attic=10_000)
    usual = {"context_tokens": 0, "model_id": None, "model": own}
    for answer in (decided(seen, **usual), decided(seen, dry_run=True, **usual), decided(state(attic=1), **usual)):
        assert model_of(answer, seen) == own


def test_what_an_older_placer_wrote_is_looked_up_as_it_was_registered_then_and_in_the_catalogue() -> None:
    seen = state(attic=10_000)
    preview = decided(seen, dry_run=True)
    assert isinstance(preview, events.PlacementPreviewed)
    old = preview.model_copy(update={"model": None, "position": preview.position.model_copy(update={"as_of": None})})
    assert model_of(old, seen) == TINY
    own = TINY.model_copy(update={"layers": 2})
    registered = fold(seen, [received(events.ModelRegistered(profile=own), 9)])
    assert model_of(old, registered) == own
    assert redo(old, seen, NOW, Rules(Knowledge({}, PLAIN, plan))) is None


def test_what_was_refused_before_planning_is_not_taken_again() -> None:
    unknown = decided(state(attic=10_000), model_id="unheard-of")
    assert not was_planned(unknown)
    assert was_planned(decided(state(attic=1)))


def test_nobody_waits_so_time_does_not_decide() -> None:
    asked: list[float] = []

    def noting(*arguments: Any, **more: Any) -> Placed | Refused:
        asked.append(arguments[2].deadline_ms)
        return plan(*arguments, **more)

    seen = state(attic=10_000)
    answer = decided(seen, deadline_ms=50.0)
    redo(answer, seen, NOW, Rules(replace(knowing(), plan=noting)))
    redo(answer, seen, NOW, Rules(replace(knowing(), plan=noting), deadline_ms=20.0))
    assert asked == [10_000, 50]


def test_a_better_plan_where_the_first_had_no_proof_is_told_apart() -> None:
    answer = result_of(decided(state(large=20_000, quick=8000), max_devices=1))
    other = result_of(decided(state(large=20_000), max_devices=1))
    assert isinstance(answer, Placed)
    assert isinstance(other, Placed)
    assert not compare(other, answer).unproved
    cut_off = other.model_copy(update={"objective": other.objective.model_copy(update={"gap": None, "bound": None})})
    assert compare(cut_off, answer).unproved
    assert not compare(cut_off, answer, same_rules=False).unproved
    late = Refused(
        model_id="tiny",
        strategy="ilp",
        strategy_reason="test",
        refusal=Refusal(code="deadline_without_answer", message="late", proved=False),
    )
    assert compare(late, answer).unproved
    assert not compare(late, late).unproved


def test_another_plan_of_the_same_value_is_called_equally_good() -> None:
    left = result_of(decided(state(a=5000)))
    right = result_of(decided(state(b=5000)))
    difference = compare(left, right)
    assert (difference.kind, difference.equally_good) == ("other_plan", True)


def test_the_summary_adds_up() -> None:
    fast = result_of(decided(state(quick=10_000)))
    assert isinstance(fast, Placed)
    half = fast.model_copy(
        update={
            "predicted": fast.predicted.model_copy(
                update={
                    "tokens_per_second": fast.predicted.tokens_per_second / 2,
                    "seconds_per_token": fast.predicted.seconds_per_token * 2,
                }
            )
        }
    )
    refused = result_of(decided(state(quick=10)))
    reckoning = Reckoning()
    assert reckoning.summary.tokens_per_second is None
    for before, after in (
        (fast, fast),
        (fast, half),
        (half, fast),
        (refused, fast),
        (fast, refused),
        (refused, refused),
    ):
        reckoning.add(compare(before, after))
    reckoning.left_out["telemetry_gone"] += 2
    summary = reckoning.summary
    assert summary.decisions == 6
    assert summary.kinds == {"identical": 4, "now_granted": 1, "now_refused": 1}
    assert summary.left_out == {"telemetry_gone": 2}
    rate, wait = summary.tokens_per_second, summary.seconds_per_token
    assert rate is not None
    assert wait is not None
    assert rate.total_before == pytest.approx(2.5 * fast.predicted.tokens_per_second)
    assert rate.total_after == pytest.approx(2.5 * fast.predicted.tokens_per_second)
    assert rate.median_change == 0
    assert wait.total_after == pytest.approx(4 * fast.predicted.seconds_per_token)


def with_a_place(seen: FleetState, **request: Any) -> FleetState:
    return fold(seen, [received(decided(seen, **request), seen.positions["FLEET"] + 1)])


def then(seen: FleetState, *told: FrozenModel) -> FleetState:
    first = seen.positions["FLEET"] + 1
    return fold(seen, [received(message, first + number) for number, message in enumerate(told)])


def by_itself(seen: FleetState) -> PlacementAnswer:
    step = reconcile(seen, fleet_of(seen, NOW), Watch(), {}, NOW, knowing())
    answer = step.changes[-1]
    assert isinstance(answer, PlacementAnswer)
    return answer


LOST = events.DeviceLost(node_id="b", device_id="cuda:0", reason="gone")


def test_what_a_placer_moved_by_itself_is_planned_again_with_what_it_had() -> None:
    seen = then(with_a_place(state(a=10_000, b=10_000)), LOST)
    answer = by_itself(seen)
    assert isinstance(answer, events.InstanceReplaced)
    wanted = wanted_by(answer, seen, knowing())
    assert wanted is not None
    assert (wanted.model, wanted.instance_id) == (TINY, answer.instance_id)
    difference = compare(result_of(answer), again(answer, seen))
    assert (difference.kind, difference.after.stages[0].devices) == ("identical", ("a/cuda:0",))
    assert was_planned(answer)


def test_what_was_barred_stays_barred_and_what_gave_way_is_gone() -> None:
    seen = with_a_place(state(a=10_000, b=10_000))
    (name,) = seen.instances
    away = commands.Move(instance_id=name, command_id="c2", away_from=("b",))
    (answer,) = decide(received(away, 9, "COMMANDS"), seen, NOW, knowing())
    assert isinstance(answer, events.InstanceReplaced)
    assert answer.barred == ("b",)
    assert compare(result_of(answer), again(answer, seen)).kind == "identical"

    full = with_a_place(state(a=5_000))
    vip = commands.Place(model_id="tiny", command_id="vip", priority=5, context_tokens=0, deadline_ms=10_000)
    gone, placed = decide(received(vip, 9, "COMMANDS"), full, NOW, knowing())
    assert isinstance(gone, events.InstancePending)
    assert isinstance(placed, events.InstancePlaced)
    assert compare(result_of(placed), again(placed, full)).kind == "identical"
    assert not was_planned(gone), "that it gave way was no planner's word"


def test_what_had_no_place_is_asked_again_and_another_policy_may_have_one() -> None:
    tight = Policy(backends={}, other_backend=BackendPolicy(headroom_fraction=0.9, runtime_overhead_bytes=0))
    seen = then(with_a_place(state(a=10, b=10_000)), LOST)
    answer = by_itself(seen)
    assert isinstance(answer, events.InstancePending)
    assert was_planned(answer)
    assert compare(result_of(answer), again(answer, seen)).kind == "identical"

    waits = decided(state(attic=10_000), tight, wait_for_capacity=True)
    assert isinstance(waits, events.InstancePending)
    difference = compare(result_of(waits), again(waits, state(attic=10_000)))
    assert (difference.kind, difference.after.stages[0].devices) == ("now_granted", ("attic/cuda:0",))


def test_an_instance_that_the_state_does_not_have_cannot_be_planned_again() -> None:
    seen = then(with_a_place(state(a=10_000, b=10_000)), LOST)
    answer = by_itself(seen)
    assert redo(answer, state(a=10_000), NOW, Rules(knowing())) is None


def test_what_a_grant_permits_holds_again_and_where_nobody_wrote_it_down_nothing_is_said() -> None:
    seen = state(attic=10_000)
    few = Grant(subject="anna", memory_bytes=1000)
    wanted = Wanted(InstanceId("tiny-1"), TINY, decided(seen).request, few)
    found = find_place(wanted, seen, NOW, knowing())
    assert isinstance(found.result, Refused)
    waits = telling.pending(wanted, found.result, seen, NOW, cause="no_room", reason="quota", command_id=CommandId("c"))
    assert waits.result.refusal.code == "quota_exceeded"
    assert was_planned(waits)
    assert compare(result_of(waits), again(waits, seen)).kind == "identical"
    refused = events.PlacementRejected(
        command_id=CommandId("c"),
        model_id=TINY.model_id,
        request=wanted.request,
        result=found.result,
        position=waits.position,
        model=TINY,
    )
    assert not was_planned(refused)
