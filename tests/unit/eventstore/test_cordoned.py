"""What a cordon means for each device: nothing new; likewise while it drains; drained."""

from shardbus_eventstore.cordoned import cordoned_devices
from shardbus_schemas.events import Cordoned, Uncordoned
from shardbus_schemas.model import FrozenModel
from support.histories import START, History
from support.wanted import moved, node, placed


def standings(*added: FrozenModel) -> dict[str, str]:
    history = History()
    history.add(*node("attic", "g0", "g1"), *node("desk", "g0"), *added)
    return {str(key): found.standing for key, found in cordoned_devices(history.state).items()}


def test_without_a_cordon_nothing_is_cordoned() -> None:
    assert standings(placed("one", "attic/g0")) == {}


def test_a_cordoned_node_takes_nothing_new_on_any_device_whatever_is_there() -> None:
    found = standings(placed("one", "attic/g0"), Cordoned(node_id="attic"))
    assert found == {"attic/g0": "cordoned", "attic/g1": "cordoned"}


def test_a_node_drains_until_what_was_there_has_left() -> None:
    draining = (placed("one", "attic/g0"), Cordoned(node_id="attic", drain=True))
    assert standings(*draining) == {"attic/g0": "draining", "attic/g1": "drained"}
    assert standings(*draining, moved("one", "desk/g0")) == {"attic/g0": "drained", "attic/g1": "drained"}


def test_of_a_devices_cordon_and_its_nodes_the_one_that_drains_is_told() -> None:
    history = History()
    history.add(*node("attic", "g0"), Cordoned(node_id="attic", reason="dust"), seconds=0)
    history.add(Cordoned(node_id="attic", device_id="g0", drain=True, reason="fan"), seconds=5)
    [found] = cordoned_devices(history.state).values()
    assert (found.standing, found.target, found.reason) == ("drained", "attic/g0", "fan")
    assert (found.since - START).total_seconds() == 5


def test_what_is_uncordoned_takes_instances_again() -> None:
    assert standings(Cordoned(node_id="attic", device_id="g0"), Uncordoned(node_id="attic")) == {}
