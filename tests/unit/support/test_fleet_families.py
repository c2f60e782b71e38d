import pytest
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_placer.policy import Policy
from shardbus_schemas.fleet import Fleet
from support import speed_fleets
from support.fleet_events import NOW, state_of
from support.fleet_families import FAMILIES, Case, case, usable

SEEDS = range(25)
DEVICES = {"home": (2, 8), "lab": (8, 128), "cloud": (8, 64), "edge": (3, 10), "geo": (2, 64)}
NODES = {"home": (1, 8), "lab": (4, 16), "cloud": (1, 16), "edge": (3, 10), "geo": (2, 16)}


def wanted_share(one: Case) -> float:
    cache = one.concurrency * sum(one.model.kv_bytes_by_layer(one.context_tokens))
    free = sum((d.memory_total_bytes or 0) - (d.memory_used_bytes or 0) for _, _, d in one.fleet.devices())
    return (one.model.weight_bytes + cache) / free


def without_time(fleet: Fleet) -> Fleet:
    nodes = tuple(
        node.model_copy(update={"devices": tuple(d.model_copy(update={"last_update": None}) for d in node.devices)})
        for node in fleet.nodes
    )
    return Fleet(nodes=nodes, links=tuple(sorted(fleet.links, key=lambda link: (link.from_node, link.to_node))))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_keeps_to_its_size(family: str) -> None:
    for seed in SEEDS:
        fleet = case(family, seed).fleet
        assert DEVICES[family][0] <= len(list(fleet.devices())) <= DEVICES[family][1], seed
        assert NODES[family][0] <= len(fleet.nodes) <= NODES[family][1], seed


@pytest.mark.parametrize("family", FAMILIES)
def test_every_device_is_known_and_has_room(family: str) -> None:
    for seed in SEEDS:
        for key, _, device in case(family, seed).fleet.devices():
            assert device.memory_bandwidth_bytes_per_second, key
            assert device.backend, key
            assert 0 < (device.memory_used_bytes or 0) < (device.memory_total_bytes or 0), key


@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_reaches_every_other(family: str) -> None:
    for seed in SEEDS:
        fleet = case(family, seed).fleet
        names = [node.node_id for node in fleet.nodes]
        assert {(link.from_node, link.to_node) for link in fleet.links} == {
            (a, b) for a in names for b in names if a != b
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_easy_and_tight_requests(family: str) -> None:
    shares = [wanted_share(case(family, seed)) for seed in range(40)]
    assert sum(share < 0.6 for share in shares) >= 8
    assert sum(share > 0.7 for share in shares) >= 4
    assert max(shares) < 1.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_is_one_fleet_and_another_seed_another(family: str) -> None:
    assert case(family, 3) == case(family, 3)
    assert case(family, 3).fleet != case(family, 4).fleet


def test_a_seed_means_the_same_in_every_process_and_on_every_machine() -> None:
    one = case("edge", 0)
    assert [device.name for _, _, device in one.fleet.devices()][:2] == [
        "Snapdragon 8 Elite (Adreno 830)",
        "Apple A18 Pro",
    ]
    assert (one.model.model_id, one.context_tokens, one.concurrency) == ("gemma-3-27b", 8192, 15)


def test_edge_has_batteries_and_throttling_and_the_others_do_not_need_them() -> None:
    devices = [device for seed in SEEDS for _, _, device in case("edge", seed).fleet.devices()]
    assert any(device.is_plugged_in is False and (device.battery_percent or 0) < 30 for device in devices)
    assert any(device.is_thermal_throttling for device in devices)
    assert all(device.battery_percent is None for _, _, device in case("cloud", 0).fleet.devices())


def test_devices_that_may_not_be_used_are_left_out_for_the_peers() -> None:
    policy = Policy()
    for seed in SEEDS:
        one = case("edge", seed)
        seen = {key for key, _, _ in usable(one.fleet, one.model, policy).devices()}
        empty = {
            key
            for key, _, device in one.fleet.devices()
            if device.is_plugged_in is False and (device.battery_percent or 0) < policy.minimum_battery_percent
        }
        wrong = {key for key, _, d in one.fleet.devices() if one.model.backends and d.backend not in one.model.backends}
        assert seen == {key for key, _, _ in one.fleet.devices()} - empty - wrong


@pytest.mark.parametrize(
    ("fleet", "devices", "nodes"),
    [
        (speed_fleets.any_links(8, 1), 8, None),
        (speed_fleets.one_link(32, 1), 32, None),
        (speed_fleets.unequal_links(16, 1), 64, 16),
        (speed_fleets.unequal_links(24, 1), 96, 24),
        (speed_fleets.few_kinds(128, 1), 128, None),
        (speed_fleets.large(200, 1), 1000, 200),
    ],
    ids=["any links", "one link", "unequal 16", "unequal 24", "few kinds", "large"],
)
def test_fleets_for_speed_have_the_size_they_are_named_for(fleet: Fleet, devices: int, nodes: int | None) -> None:
    assert len(list(fleet.devices())) == devices
    assert nodes in (None, len(fleet.nodes))


def test_idle_devices_of_a_kind_read_the_same_unless_each_has_its_own_readings() -> None:
    def readings(*, own: bool) -> set[tuple[object, ...]]:
        fleet = speed_fleets.few_kinds(128, 2, own_readings=own)
        return {(device.name, device.memory_used_bytes) for _, _, device in fleet.devices()}

    assert len(readings(own=False)) <= 6
    assert len(readings(own=True)) > 60


def test_the_events_of_a_fleet_fold_back_into_it() -> None:
    for fleet in (case("home", 1).fleet, case("edge", 2).fleet, speed_fleets.unequal_links(4, 0)):
        assert without_time(fleet_of(state_of(fleet), NOW)) == without_time(fleet)
