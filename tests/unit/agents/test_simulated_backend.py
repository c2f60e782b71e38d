import re
from itertools import pairwise
from typing import Any

import pytest
from shardbus_agents.backends.simulated import SimulatedBackend
from shardbus_schemas.fleet import FleetDevice, FleetNode
from support.readings import NODE, START, after

GIBIBYTE = 2**30


def node(**device: Any) -> FleetNode:
    described: dict[str, Any] = {"device_id": "cuda:0", "name": "NVIDIA GeForce RTX 3090"} | device
    return FleetNode(node_id=NODE, devices=(FleetDevice(**described),))


def play(seed: int = 1, ticks: int = 600, **device: Any) -> list[Any]:
    backend = SimulatedBackend(node(**device), seed=seed)
    return [backend.sample(after(2 * tick))[0] for tick in range(ticks)]


def test_the_same_seed_plays_the_same_readings() -> None:
    assert play(seed=7) == play(seed=7)


def test_another_seed_or_another_device_plays_others() -> None:
    assert play(seed=7) != play(seed=8)
    other = [state.model_copy(update={"device_id": "cuda:0"}) for state in play(seed=7, device_id="cuda:1")]
    assert play(seed=7) != other


def test_any_tick_can_be_asked_without_those_before() -> None:
    backend = SimulatedBackend(node(), seed=7)
    assert backend.sample_tick(417, after(834))[0] == play(seed=7)[417]


def test_it_begins_with_the_readings_of_the_file() -> None:
    given: dict[str, Any] = {
        "memory_used_bytes": 3 * GIBIBYTE + 1,
        "compute_utilization_percent": 41.23,
        "thermal_temperature_c": 88.7,
        "thermal_throttle_threshold_c": 83,
        "is_thermal_throttling": False,
        "battery_percent": 33.3,
        "is_plugged_in": False,
    }
    first = play(ticks=1, **given)[0]
    assert {name: getattr(first, name) for name in given} == given


def test_what_the_file_leaves_out_is_played_and_what_it_calls_unknown_stays_unknown() -> None:
    played = play(ticks=50)
    assert all(state.memory_used_bytes is not None for state in played)
    assert all(state.compute_utilization_percent is not None for state in played)
    assert all(state.thermal_temperature_c is not None for state in played)
    unknown = play(ticks=50, memory_used_bytes=None, compute_utilization_percent=None, thermal_temperature_c=None)
    for state in unknown:
        assert state.memory_used_bytes is None
        assert state.compute_utilization_percent is None
        assert state.thermal_temperature_c is None
        assert state.is_thermal_throttling is None


def test_a_card_offers_what_its_driver_would() -> None:
    for state in play(ticks=50):
        assert state.thermal_throttle_threshold_c is not None
        assert state.power_watts > 0
        assert state.health == "ok"
        assert state.throttle_reasons is not None
        assert bool(state.is_thermal_throttling) == ("software_thermal" in state.throttle_reasons)


def test_what_no_driver_would_offer_is_not_invented() -> None:
    for state in play(ticks=50, device_id="gpu", name="Apple M2 Ultra", memory_total_bytes=206158430208):
        assert (state.thermal_throttle_threshold_c, state.power_watts) == (None, None)
        assert (state.health, state.throttle_reasons) == (None, None)
        assert (state.battery_percent, state.is_plugged_in) == (None, None)


def test_power_follows_the_load_and_stays_below_the_limit() -> None:
    states = play(compute_utilization_percent=50, power_limit_watts=350.0)
    assert all(state.power_watts <= 350 for state in states)
    by_load = sorted(states, key=lambda state: state.compute_utilization_percent)
    assert by_load[0].power_watts + 50 < by_load[-1].power_watts


def test_a_card_has_the_names_that_a_driver_gives_the_same_in_every_play() -> None:
    (facts,), (again,) = (SimulatedBackend(node(), seed=seed).devices() for seed in (1, 2))
    assert (facts.uuid, facts.label, facts.pci_address) == (again.uuid, "cuda:0", "0000:01:00.0")
    assert facts.uuid is not None
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", facts.uuid)
    (given,) = SimulatedBackend(node(uuid="GPU-mine"), seed=1).devices()
    assert given.uuid == "GPU-mine"


def test_the_load_moves_and_stays_within_bounds() -> None:
    loads = [state.compute_utilization_percent for state in play(compute_utilization_percent=50)]
    assert max(loads) - min(loads) > 20
    assert max(abs(now - before) for before, now in pairwise(loads)) < 10


def test_a_device_under_more_load_gets_hotter() -> None:
    states = play(compute_utilization_percent=50, thermal_temperature_c=60)
    # The heat sink remembers, so the load of the last half minute is what the temperature follows.
    pairs = [
        (sum(s.compute_utilization_percent for s in states[tick - 15 : tick + 1]), states[tick].thermal_temperature_c)
        for tick in range(15, len(states))
    ]
    pairs.sort()
    third = len(pairs) // 3
    cool, hot = pairs[:third], pairs[-third:]
    assert sum(heat for _, heat in hot) / third > sum(heat for _, heat in cool) / third + 3


def test_the_throttle_flag_follows_the_temperature() -> None:
    states = play(thermal_temperature_c=82, thermal_throttle_threshold_c=83, compute_utilization_percent=50)
    assert {state.is_thermal_throttling for state in states} == {True, False}
    hottest_calm = max(s.thermal_temperature_c for s in states[1:] if not s.is_thermal_throttling)
    coolest_throttled = min(s.thermal_temperature_c for s in states[1:] if s.is_thermal_throttling)
    assert hottest_calm < coolest_throttled


def test_a_device_that_begins_throttled_stays_so_while_it_is_as_hot() -> None:
    states = play(ticks=5, thermal_temperature_c=60, is_thermal_throttling=True, compute_utilization_percent=90)
    assert states[0].is_thermal_throttling
    assert states[1].is_thermal_throttling


def test_a_battery_drains_is_plugged_in_when_low_and_charges() -> None:
    backend = SimulatedBackend(node(battery_percent=20, is_plugged_in=False), seed=1)
    states = [backend.sample_tick(tick, START)[0] for tick in range(0, 8000, 20)]
    levels = [state.battery_percent for state in states]
    assert levels[10] < levels[0]
    low = levels.index(min(levels))
    assert 9 < levels[low] <= 11
    assert states[low + 5].is_plugged_in is True
    assert max(levels) > 99
    # And round again: it is taken off the plug when it is full.
    full = levels.index(max(levels))
    assert any(state.is_plugged_in is False for state in states[full:])
    assert min(levels) >= 0


def test_a_plugged_battery_fills_up_and_stays_full() -> None:
    backend = SimulatedBackend(node(battery_percent=80, is_plugged_in=True), seed=1)
    states = [backend.sample_tick(tick, START)[0] for tick in (0, 100, 500, 5000)]
    assert [state.battery_percent for state in states] == [80, 85, 100, 100]
    assert all(state.is_plugged_in for state in states)


def test_a_battery_at_nought_is_plugged_in_at_once() -> None:
    states = play(ticks=100, battery_percent=0, is_plugged_in=False)
    assert states[-1].is_plugged_in is True
    assert states[-1].battery_percent > 0


def test_facts_come_from_the_file_and_the_device_table() -> None:
    (facts,) = SimulatedBackend(node(), seed=1).devices()
    assert facts.memory_bandwidth_bytes_per_second == pytest.approx(936e9)
    assert facts.reported_by == "simulated"
    assert facts.backend == "cuda"


def test_readings_carry_the_time_that_is_given() -> None:
    backend = SimulatedBackend(node(), seed=1)
    assert backend.sample(START)[0].last_update == START
