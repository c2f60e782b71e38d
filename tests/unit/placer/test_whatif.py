"""Two plans side by side: what moved, what it brings, and what a person may have overlooked."""

from collections.abc import Sequence
from typing import Any

import pytest
from shardbus_placer.changes import AddDevice, Change, RemoveDevice, RemoveLink, RemoveNode, SetLink, Throttle
from shardbus_placer.planner import plan
from shardbus_placer.whatif import Comparison, Move, percent_text, what_if
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.placement import Placed
from support.planning import LINK, PLAIN, asked, device, fleet, model, placed, refused

TEN = model(layers=10, size=10)
"""100 bytes: a tenth of a second each at 100 bytes per second."""
ATTIC, DESK, SHED = NodeId("attic"), NodeId("desk"), NodeId("shed")
PAIR = fleet(attic=device("a", 60), desk=device("a", 60))


def compare(where: Fleet, changes: Sequence[Change], **request: Any) -> Comparison:
    return what_if(where, changes, TEN, asked(TEN, **{"objective": "latency", **request}), PLAIN)


def test_nothing_changes_without_a_change() -> None:
    same = compare(PAIR, ())
    assert same.before == same.after
    assert (same.verdict, same.moves, same.tokens_per_second_change, same.notes) == ("nothing changes", (), 0.0, ())


def test_a_roomier_device_takes_all_layers_and_the_verdict_says_so() -> None:
    better = compare(PAIR, [AddDevice(ATTIC, device("big", 100, 200.0))])
    assert better.moves == (
        Move(layers=6, from_devices=(DeviceKey("attic/a"),), to_devices=(DeviceKey("attic/big"),)),
        Move(layers=4, from_devices=(DeviceKey("desk/a"),), to_devices=(DeviceKey("attic/big"),)),
    )
    assert better.tokens_per_second_change == pytest.approx(1.02)
    assert better.verdict.startswith("+102 % tokens/s (0.99 before, 2.0 after); ")
    assert "layers move from" in better.verdict
    (big,) = [one for one in better.devices if one.device == "attic/big"]
    assert big.before is None
    assert big.after is not None
    assert (big.after.start_layer, big.after.end_layer, big.after.memory_bytes) == (0, 10, 100)


def test_a_device_that_does_not_help_is_said_to_hold_nothing_and_why() -> None:
    idle = compare(PAIR, [AddDevice(SHED, device("slow", 60, 1.0))])
    assert idle.verdict == "nothing changes; shed/slow would hold nothing"
    (slow,) = [one for one in idle.devices if one.device == "shed/slow"]
    assert slow.why.startswith("not needed")


def test_a_model_that_fits_no_more_or_only_now_is_said_with_what_is_missing() -> None:
    gone = compare(PAIR, [RemoveNode(DESK)])
    assert gone.verdict == "it does not fit any more: insufficient memory (40 B missing); before, 0.99 tokens/s"
    assert (gone.tokens_per_second_change, gone.moves) == (None, ())
    assert [str(one.device) for one in gone.devices if one.removed] == ["desk/a"]
    come = compare(fleet(attic=device("a", 60)), [AddDevice(ATTIC, device("b", 60))])
    assert come.verdict.startswith("it fits now: ")
    assert come.verdict.endswith(" on 2 devices; before, insufficient memory (40 B missing)")


def test_less_missing_is_said_where_both_are_refused() -> None:
    still = compare(fleet(attic=device("a", 10)), [AddDevice(ATTIC, device("b", 60))])
    assert still.verdict == (
        "still refused: insufficient memory (30 B missing), before insufficient memory (90 B missing)"
    )
    refused(still.after)


def test_a_throttled_device_slows_the_plan() -> None:
    hot = compare(fleet(attic=device("a", 100)), [Throttle(DeviceKey("attic/a"))])
    assert hot.verdict == "-50 % tokens/s (1.0 before, 0.5 after)"


def test_layers_that_become_shared_or_are_shared_no_more_do_not_move() -> None:
    heads = {"supports_tensor": True, "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2}
    shared = model(layers=10, size=10, **heads)
    one = fleet(attic=device("a", 200, name="twin"))
    request = asked(shared, objective="latency")
    more = what_if(one, [AddDevice(ATTIC, device("b", 200, name="twin"))], shared, request, PLAIN)
    assert more.moves == (Move(layers=10, to_devices=(DeviceKey("attic/b"),)),)
    assert more.verdict.endswith("; 10 layers shared with attic/b too")
    both = fleet(attic=(device("a", 200, name="twin"), device("b", 200, name="twin")))
    fewer = what_if(both, [RemoveDevice(DeviceKey("attic/b"))], shared, request, PLAIN)
    assert fewer.moves == (Move(layers=10, from_devices=(DeviceKey("attic/b"),)),)
    assert fewer.verdict.endswith("; 10 layers no longer shared with attic/b")


def test_a_cut_link_can_make_a_plan_impossible() -> None:
    cut = compare(PAIR, [RemoveLink(ATTIC, DESK), RemoveLink(DESK, ATTIC)])
    assert cut.verdict.startswith("it does not fit any more: no links")


def test_a_new_node_without_a_link_is_noted_and_one_with_a_link_is_not() -> None:
    alone = fleet(default_link=None, attic=device("a", 60))
    add = AddDevice(SHED, device("x", 60))
    (note,) = compare(alone, [add]).notes
    assert note.startswith("shed is a new node without any link")
    assert "--link 'attic<>shed=" in note
    both = [SetLink(ATTIC, SHED, LINK), SetLink(SHED, ATTIC, LINK)]
    linked = compare(alone, [add, *both])
    assert (linked.notes, linked.after.status) == ((), "placed")
    (note,) = compare(alone, [add, both[0]]).notes
    assert note == "shed is a new node: it has the links that were given and no others"
    (note,) = compare(PAIR, [add]).notes
    assert "the fleet's default link joins it" in note


def test_a_difference_within_the_gap_is_not_sold_as_a_gain() -> None:
    mixed = fleet(attic=device("a", 60), desk=device("b", 60, 200.0))
    faster = [RemoveDevice(DeviceKey("attic/a")), AddDevice(ATTIC, device("a", 60, 120.0))]
    request = asked(TEN, objective="latency")

    def unproved(*arguments: Any) -> Placed:
        found = placed(plan(*arguments))
        return found.model_copy(update={"objective": found.objective.model_copy(update={"gap": 0.2})})

    assert what_if(mixed, faster, TEN, request, PLAIN).notes == ()
    (note,) = what_if(mixed, faster, TEN, request, PLAIN, plan=unproved).notes
    assert "may be the search's" in note


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.38, "+38 %"), (0.5, "-50 %"), (1.004, "+0.4 %"), (1.00001, "±0 %"), (2.13, "+113 %"), (3.4, "3.4 times the")],
)
def test_a_ratio_reads_as_a_percentage_or_a_factor(ratio: float, text: str) -> None:
    assert percent_text(ratio) == text
