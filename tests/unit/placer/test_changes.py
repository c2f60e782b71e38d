"""A fleet after devices and links were added, removed or slowed."""

import pytest
from shardbus_placer.changes import (
    AddDevice,
    ImpossibleChangeError,
    RemoveDevice,
    RemoveLink,
    RemoveNode,
    SetLink,
    Throttle,
    changed,
    new_nodes,
)
from shardbus_placer.links import links_of
from shardbus_placer.policy import Policy
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey, NodeId
from support.planning import LINK, device, fleet, link

ATTIC, DESK, SHED = NodeId("attic"), NodeId("desk"), NodeId("shed")
BASE = fleet(attic=(device("a", 100), device("b", 100)), desk=device("a", 50), links=(link("attic", "desk"),))
FAST = LinkFigures(bandwidth_bytes_per_second=5000.0, latency_seconds=0.001)


def keys(where: Fleet) -> list[str]:
    return [str(key) for key, _, _ in where.devices()]


def pairs(where: Fleet) -> dict[tuple[str, str], LinkFigures]:
    """Every link the planner would see."""
    return {(str(a), str(b)): figures for (a, b), figures in links_of(where, Policy()).between.items()}


def test_no_change_leaves_the_fleet_as_it_is() -> None:
    assert changed(BASE, ()) == BASE


def test_a_device_is_added_to_its_node_or_to_a_new_one() -> None:
    grown = changed(BASE, [AddDevice(DESK, device("b", 10)), AddDevice(SHED, device("x", 10))])
    assert keys(grown) == ["attic/a", "attic/b", "desk/a", "desk/b", "shed/x"]
    assert new_nodes(BASE, grown) == (SHED,)
    assert pairs(grown)["shed", "attic"] == LINK


def test_a_device_and_a_node_are_removed_with_what_hangs_on_them() -> None:
    assert keys(changed(BASE, [RemoveDevice(DeviceKey("attic/a"))])) == ["attic/b", "desk/a"]
    without = changed(BASE, [RemoveNode(DESK)])
    assert (keys(without), without.links) == (["attic/a", "attic/b"], ())
    Fleet.model_validate(without.model_dump())


def test_only_the_device_that_is_named_runs_hot() -> None:
    hot = changed(BASE, [Throttle(DeviceKey("attic/b"))])
    assert {str(key): d.is_thermal_throttling for key, _, d in hot.devices()} == {
        "attic/a": None,
        "attic/b": True,
        "desk/a": None,
    }


def test_a_link_is_set_in_one_direction_whatever_was_there() -> None:
    linked = changed(BASE, [SetLink(ATTIC, DESK, FAST)])
    assert (pairs(linked)["attic", "desk"].latency_seconds, pairs(linked)["desk", "attic"]) == (0.001, LINK)
    assert len(linked.links) == 1


def test_a_cut_link_is_not_replaced_by_the_default_while_all_others_still_are() -> None:
    cut = changed(BASE, [RemoveLink(DESK, ATTIC), AddDevice(SHED, device("x", 10))])
    assert ("desk", "attic") not in pairs(cut)
    assert set(pairs(cut)) == {
        *(("attic", "desk"), ("attic", "shed"), ("shed", "attic"), ("desk", "shed"), ("shed", "desk"))
    }
    assert pairs(cut)["attic", "desk"] == pairs(BASE)["attic", "desk"]
    Fleet.model_validate(cut.model_dump())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (RemoveNode(NodeId("attik")), "cannot remove 'attik': no node has this name (did you mean 'attic'?)"),
        (RemoveNode(NodeId("zzz")), "cannot remove 'zzz': no node has this name; there are attic, desk"),
        (RemoveDevice(DeviceKey("attic/c")), "cannot remove 'attic/c': no device has this name (did you mean 'attic/"),
        (Throttle(DeviceKey("desk/b")), "cannot throttle 'desk/b': no device has this name (did you mean 'desk/a'?)"),
        (AddDevice(DESK, device("a", 1)), "cannot add desk/a: it is there already"),
        (SetLink(ATTIC, NodeId("dsk"), FAST), "cannot link attic > dsk, for 'dsk': no node has this name (did you"),
        (SetLink(ATTIC, ATTIC, FAST), "cannot link attic > attic: a link joins two nodes"),
        (RemoveLink(ATTIC, NodeId("dsk")), "for 'dsk': no node has this name (did you mean 'desk'?)"),
    ],
)
def test_what_cannot_be_changed_is_said_with_what_was_probably_meant(change: object, said: str) -> None:
    with pytest.raises(ImpossibleChangeError) as raised:
        changed(BASE, [change])  # pyright: ignore[reportArgumentType] - parametrised
    assert said in str(raised.value)


def test_a_link_that_is_not_there_cannot_be_cut() -> None:
    without_default = BASE.model_copy(update={"default_link": None})
    with pytest.raises(ImpossibleChangeError, match="there is no such link"):
        changed(without_default, [RemoveLink(DESK, ATTIC)])
    assert changed(without_default, [RemoveLink(ATTIC, DESK)]).links == ()
