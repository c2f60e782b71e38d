"""What a scenario's steps do to a device that is played."""

from typing import Any

from shardbus_agents.backends.nvml.xid import explain
from shardbus_agents.backends.player import Player
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem
from shardbus_agents.backends.simulated import Script, SimulatedBackend
from shardbus_schemas.fleet import FleetDevice, FleetNode
from shardbus_schemas.telemetry import DeviceGPUState
from support.readings import NODE, START, after
from support.scenarios import step

QUIET: dict[str, Any] = {"compute_utilization_percent": 0.0, "memory_used_bytes": 0, "thermal_temperature_c": 40}


def player(*steps: Any, began: float = 0, **device: Any) -> Player:
    described = FleetDevice.model_validate({"device_id": "cuda:0", "name": "NVIDIA GeForce RTX 3090"} | QUIET | device)
    return Player(1, FleetNode(node_id=NODE, devices=(described,)), described, steps, began=began)


def at(t: float, *steps: Any, **device: Any) -> DeviceGPUState:
    return player(*steps, **device).state(t, START)


def readings(playing: Player, since: float, t: float, **how: Any) -> tuple[Any, ...]:
    return playing.readings(since, t, after(t), **({"scale": 1.0, "patience": 4.0} | how))


def test_a_load_ramps_up_holds_and_goes_back() -> None:
    load = step(100, "load", utilization_percent=90, memory_percent=50, lasts=100, over=20)
    idle, half, full = at(99, load), at(110, load), at(150, load)
    assert idle == at(99)
    assert 30 < half.compute_utilization_percent < 65
    assert 86 <= full.compute_utilization_percent <= 94
    assert full.memory_used_bytes == full.memory_total_bytes // 2
    assert at(221, load).compute_utilization_percent == at(221).compute_utilization_percent


def test_a_load_from_one_value_to_another_begins_at_the_first() -> None:
    load = step(100, "load", utilization_percent=(20, 80), lasts=100, over=60)
    assert [round(at(t, load).compute_utilization_percent / 10) for t in (100, 130, 160)] == [2, 5, 8]


def test_a_load_at_the_very_beginning_acts_there() -> None:
    assert at(0, step(0, "load", utilization_percent=90)).compute_utilization_percent == 90
    assert at(0, step(1, "load", utilization_percent=90)) == at(0)


def test_sustained_load_makes_a_device_hot_and_draws_power() -> None:
    load = step(100, "load", utilization_percent=95)
    assert at(200, load).thermal_temperature_c > at(200).thermal_temperature_c + 25
    assert at(200, load).power_watts > at(200).power_watts + 150
    # The heat sink takes its time, the power does not.
    assert at(101, load).thermal_temperature_c < at(200, load).thermal_temperature_c - 15
    assert at(101, load).power_watts > at(101).power_watts + 150


def test_a_throttled_device_gets_hot_is_held_back_and_cools_down() -> None:
    throttle = step(100, "throttle", lasts=60, over=20)
    before, climbing, held, cool = (at(t, throttle) for t in (99, 105, 130, 200))
    assert (before.is_thermal_throttling, before.throttle_reasons) == (False, ())
    assert before.thermal_temperature_c < climbing.thermal_temperature_c < held.thermal_temperature_c
    assert climbing.is_thermal_throttling is False
    assert (held.is_thermal_throttling, held.throttle_reasons) == (True, ("software_thermal",))
    assert held.thermal_temperature_c >= held.thermal_throttle_threshold_c
    assert (cool.is_thermal_throttling, cool.throttle_reasons) == (False, ())


def test_a_brake_has_nothing_to_do_with_heat() -> None:
    braked = at(130, step(100, "throttle", reasons=("power_brake",)))
    assert (braked.is_thermal_throttling, braked.throttle_reasons) == (False, ("power_brake",))
    assert braked.thermal_temperature_c == at(130).thermal_temperature_c


def test_at_full_load_the_power_is_capped() -> None:
    assert at(130, step(100, "load", utilization_percent=100, memory_percent=1)).throttle_reasons in {
        (),
        ("power_cap",),
    }
    states = [at(130 + n, step(100, "load", utilization_percent=100)) for n in range(60)]
    assert any(state.throttle_reasons == ("power_cap",) for state in states)
    assert not any(state.is_thermal_throttling for state in states[:3])


def test_a_lost_device_is_a_problem_until_it_returns() -> None:
    playing = player(step(100, "lose", lasts=20, reason="fell off the bus"))
    assert isinstance(readings(playing, 98, 99)[0], DeviceGPUState)
    assert readings(playing, 99, 100) == (DeviceProblem("cuda:0", "fell off the bus"),)
    assert isinstance(readings(playing, 119, 120)[0], DeviceGPUState)


def test_a_fault_is_told_once_with_its_own_time() -> None:
    playing = player(step(100.5, "fault", code=31))
    assert not any(isinstance(each, DeviceFault) for each in readings(playing, 98, 100))
    (fault, _) = readings(playing, 100, 102)
    assert (fault.kind, fault.code, fault.message, fault.occurred_at) == (
        "xid",
        31,
        explain(31)[0],
        after(100.5),
    )
    assert len(readings(playing, 102, 104)) == 1


def test_a_faults_time_counts_in_seconds_of_the_world() -> None:
    (fault, _) = player(step(100, "fault", code=31)).readings(60, 120, after(12), scale=10, patience=4)
    assert fault.occurred_at == after(10)


def test_a_critical_fault_degrades_a_device_until_it_was_away_or_its_node_restarted() -> None:
    fault, loss = step(100, "fault", code=79, is_critical=True), step(200, "lose", lasts=10)
    assert [at(t, fault, loss).health for t in (99, 100, 199, 210)] == ["ok", "degraded", "degraded", "ok"]
    assert player(fault, began=150).state(160, START).health == "ok"


def test_a_hanging_driver_says_nothing_new_and_then_is_a_problem() -> None:
    playing = player(step(100, "hang", lasts=60), compute_utilization_percent=50)
    (first,), (later,) = readings(playing, 99, 100), readings(playing, 100, 103)
    assert (first, first.last_update) == (later, after(100))
    (problem,) = readings(playing, 103, 104)
    assert problem == DeviceProblem("cuda:0", "the driver hangs: no answer within 4 s")
    assert isinstance(readings(playing, 159, 160)[0], DeviceGPUState)


def test_a_battery_drains_while_it_is_unplugged_and_charges_again() -> None:
    away = step(60, "unplug", lasts=600, percent_per_minute=3)
    device: dict[str, Any] = {"battery_percent": 90.0, "is_plugged_in": True}
    states = [at(t, away, **device) for t in (0, 59, 60, 360, 660, 760)]
    assert [state.is_plugged_in for state in states] == [True, True, False, False, True, True]
    levels = [state.battery_percent for state in states]
    assert levels[0] == 90
    assert levels[1] > 91
    assert levels[3] == levels[2] - 15
    assert levels[4] == levels[2] - 30
    assert levels[5] == levels[4] + 2.5


def test_a_battery_goes_on_from_where_the_last_step_left_it() -> None:
    device: dict[str, Any] = {"battery_percent": 50.0, "is_plugged_in": False}
    days = step(0, "plug", lasts=60, percent_per_minute=30, repeat_every=120)
    playing = player(days, **device)
    # Half a battery a minute up, 0.6 points down, up again until it is full: whichever moment is asked first.
    late = playing.state(1000, START).battery_percent
    assert playing.state(60, START).battery_percent == 80
    assert playing.state(120, START).battery_percent == 79.4
    assert playing.state(180, START).battery_percent == 100
    assert player(days, **device).state(1000, START).battery_percent == late


def test_a_device_that_was_never_there_is_not_lost_but_left_out() -> None:
    now = 0.0
    seen: set[Any] = set()
    device = FleetDevice(device_id="cuda:0", name="NVIDIA GeForce RTX 3090")
    steps = [step(0, "lose", lasts=10), step(5, "fault", code=31), step(20, "lose")]
    node = FleetNode(node_id=NODE, devices=(device,))
    backend = SimulatedBackend(node, seed=1, script=Script({"cuda:0": steps}, lambda: now, seen=seen))
    assert (backend.sample(START), backend.devices()) == ((), ())
    now = 6
    assert (backend.sample(START), backend.devices()) == ((), ())
    now = 12
    assert len(backend.sample(START)) == len(backend.devices()) == 1
    now = 22
    assert isinstance(backend.sample(START)[0], DeviceProblem)
    again = SimulatedBackend(node, seed=1, script=Script({"cuda:0": steps}, lambda: now, began=21, seen=seen))
    assert isinstance(again.sample(START)[0], DeviceProblem)
