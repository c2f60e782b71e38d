"""Finding the message that does harm, and what is remembered of it."""

from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_eventstore import fold as folding
from shardbus_eventstore import intake
from shardbus_eventstore.fold import fold_with_changes
from shardbus_eventstore.intake import examine, fold_failures, take
from shardbus_eventstore.poison import (
    ATTEMPTS,
    CAREFUL_START,
    CRASHED,
    DATABASE_REFUSED,
    FOLD_FAILED,
    HOPELESS_START,
    Caution,
    Verdict,
    is_fault_of_data,
)
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import TELEMETRY
from shardbus_schemas.events import DeviceGPUStateUpdated
from support.histories import histories, reading, stored


class _Broken:
    """A fold that fails on some sequences, and counts how many messages it looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: Collection[int]) -> None:
        self.looks = 0
        original = folding._Draft.take

        def take_or_fail(draft: Any, received: Any) -> None:
            self.looks += 1
            if received.sequence in failing:
                raise ZeroDivisionError(f"message {received.sequence}")
            original(draft, received)

        monkeypatch.setattr(folding._Draft, "take", take_or_fail)


@st.composite
def broken_histories(draw: st.DrawFn) -> tuple[Sequence[Stored], set[int]]:
    batch = draw(st.sampled_from(list(draw(histories()).values())))
    return batch, draw(st.sets(st.integers(1, max(1, len(batch)))))


@given(case=broken_histories())
@settings(deadline=None, max_examples=20)
def test_what_the_fold_fails_on_folds_to_nothing_and_the_rest_as_if_it_were_not_there(
    case: tuple[Sequence[Stored], set[int]],
) -> None:
    batch, failing = case
    readable = examine(batch)
    expected, changes = fold_with_changes(
        FleetState(), [each for each in readable.received if each.sequence not in failing]
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        _Broken(monkeypatch, failing)
        taken = take(FleetState(), batch)
    assert set(fold_failures(taken)) == failing & {each.sequence for each in readable.received}
    assert (taken.changes, taken.state.ignored) == (changes, expected.ignored)
    assert taken.state.node_heard == expected.node_heard
    assert taken.state.instances == expected.instances
    assert len(taken.examined.received) + len(taken.examined.rejected) == len(batch)
    for refused in taken.examined.rejected:
        if refused.code == FOLD_FAILED:
            reason = f"the fold fails on it: ZeroDivisionError: message {refused.stored.sequence}"
            assert refused.reason == reason
    if batch:
        assert taken.state.positions == {batch[0].stream: batch[-1].sequence}


def test_one_in_two_thousand_is_found_in_a_few_folds(monkeypatch: pytest.MonkeyPatch) -> None:

    batch = [
        stored(DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=number, states=(reading(),)), number)
        for number in range(1, 2001)
    ]
    broken = _Broken(monkeypatch, {1333})
    assert fold_failures(take(FleetState(), batch)) == [1333]
    assert broken.looks < 12 * len(batch)


def test_running_out_of_memory_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(_: object, __: object) -> None:
        raise MemoryError

    monkeypatch.setattr(folding._Draft, "take", out_of_memory)
    with pytest.raises(MemoryError):
        take(FleetState(), [stored(DeviceGPUStateUpdated(node_id="n1"), 1)])


def test_what_is_parked_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:

    batch = [stored(DeviceGPUStateUpdated(node_id=f"n{number}"), number) for number in (1, 2, 3)]
    seen: list[int] = []

    original = intake.receive
    monkeypatch.setattr(intake, "receive", lambda each: (seen.append(each.sequence), original(each))[1])
    taken = take(FleetState(), batch, {2: Verdict(CRASHED, "why")})
    assert seen == [1, 3]
    (refused,) = taken.examined.rejected
    assert (refused.stored, refused.code, refused.reason) == (batch[1], CRASHED, "why")
    assert list(taken.state.node_heard) == ["n1", "n3"]
    assert taken.state.positions == {TELEMETRY: 3}


@pytest.mark.parametrize("sqlstate", ["22P05", "23514", "21000", "54000", "P0001"])
def test_a_row_that_cannot_be_is_the_datas_fault(sqlstate: str) -> None:
    assert is_fault_of_data(sqlstate)


@pytest.mark.parametrize("sqlstate", [None, "53100", "57P01", "08006", "40P01", "42P01", "55P03", "58030", "XX000"])
def test_an_outage_a_full_disk_a_lock_or_a_missing_table_is_not(sqlstate: str | None) -> None:
    assert not is_fault_of_data(sqlstate)


@given(size=st.integers(1, 5000), culprit=st.data())
@settings(max_examples=60, deadline=None)
def test_a_refused_batch_is_cut_until_the_message_is_alone_and_then_parked(size: int, culprit: st.DataObject) -> None:
    bad = culprit.draw(st.integers(1, size))
    caution, position, refusals = Caution(), 0, 0
    while position < size:
        batch = range(position + 1, min(size, position + caution.at_most(2000)) + 1)
        if bad in batch and bad not in caution.parked:
            caution, refusals = caution.after_refusal(batch, "no"), refusals + 1
        else:
            position = batch[-1]
            caution = Caution() if caution.is_past(position) else caution
    assert refusals <= 11 + ATTEMPTS
    assert caution.parked in ({}, {bad: Verdict(DATABASE_REFUSED, "no")})


def test_a_failing_fold_is_tried_a_bounded_number_of_times() -> None:
    caution, tries = Caution(), 0
    while not caution.has_tried([7, 9]):
        caution, tries = caution.after_fold_failures([7, 9]), tries + 1
    assert tries == ATTEMPTS
    assert not caution.is_past(8)
    assert caution.is_past(9)


def test_care_begins_after_starts_that_came_nowhere_and_ends_with_progress() -> None:
    usual = Caution().after_start(CAREFUL_START - 1, None, 10, 50, 2000)
    assert usual == Caution()
    careful = Caution().after_start(CAREFUL_START, None, 10, 50, 2000)
    assert (careful.at_most(2000), careful.announces, careful.until, careful.parked) == (1, True, 50, {})
    assert Caution().after_start(CAREFUL_START, None, 10, 10_000, 2000).until == 4010
    assert careful.after_start(0, None, 20, 50, 2000) == Caution()
    assert Caution().after_start(CAREFUL_START, None, 50, 50, 2000) == Caution(), "nothing is there to be afraid of"


def test_only_who_killed_twice_by_itself_is_parked_unseen() -> None:
    assert Caution().after_start(HOPELESS_START - 1, 11, 10, 50, 2000).parked == {}
    (verdict,) = Caution().after_start(HOPELESS_START, 11, 10, 50, 2000).parked.values()
    assert verdict.code == CRASHED
    assert "4 times in a row" in verdict.reason
