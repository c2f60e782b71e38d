from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from shardbus_agents.backends.host import HostBackend
from support.readings import NODE, START


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A host whose every reading a test may set."""
    machine = SimpleNamespace(total=100, available=40, battery=None, sensors={}, utilization=12.5, seconds=0.0)

    def memory() -> Any:
        return SimpleNamespace(total=machine.total, available=machine.available)

    def sensors() -> Any:
        if isinstance(machine.sensors, Exception):
            raise machine.sensors
        return machine.sensors

    monkeypatch.setattr(psutil, "virtual_memory", memory)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: machine.battery, raising=False)
    monkeypatch.setattr(psutil, "sensors_temperatures", sensors, raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: machine.utilization)
    monkeypatch.setattr("time.monotonic", lambda: machine.seconds)
    return machine


def read(machine: SimpleNamespace, *, seconds: float = 2.0) -> Any:
    backend = HostBackend(NODE)
    machine.seconds += seconds
    (state,) = backend.sample(START)
    return state


def test_used_memory_is_what_a_new_process_could_not_take(machine: SimpleNamespace) -> None:
    state = read(machine)
    assert (state.device_id, state.node_id, state.last_update) == ("cpu", NODE, START)
    assert (state.memory_used_bytes, state.memory_total_bytes) == (60, 100)


def test_utilization_is_unknown_until_it_means_something(machine: SimpleNamespace) -> None:
    assert read(machine, seconds=0.01).compute_utilization_percent is None
    assert read(machine, seconds=2).compute_utilization_percent == 12.5


def test_without_a_battery_or_a_sensor_nothing_is_made_up(machine: SimpleNamespace) -> None:
    state = read(machine)
    assert (state.battery_percent, state.is_plugged_in) == (None, None)
    assert (state.thermal_temperature_c, state.is_thermal_throttling) == (None, None)
    assert state.thermal_throttle_threshold_c is None


def test_a_battery_is_read(machine: SimpleNamespace) -> None:
    machine.battery = SimpleNamespace(percent=61.5, power_plugged=False)
    state = read(machine)
    assert (state.battery_percent, state.is_plugged_in) == (61.5, False)


def test_a_battery_may_not_say_whether_it_is_plugged_in(machine: SimpleNamespace) -> None:
    machine.battery = SimpleNamespace(percent=100.4, power_plugged=None)
    state = read(machine)
    assert (state.battery_percent, state.is_plugged_in) == (100, None)


def test_the_hottest_of_the_processors_sensors_counts(machine: SimpleNamespace) -> None:
    machine.sensors = {
        "nvme": [SimpleNamespace(current=90.0)],
        "coretemp": [SimpleNamespace(current=51.0), SimpleNamespace(current=64.0), SimpleNamespace(current=-273.0)],
    }
    assert read(machine).thermal_temperature_c == 64


def test_a_sensor_that_cannot_be_read_is_unknown(machine: SimpleNamespace) -> None:
    machine.sensors = PermissionError("/sys/class/hwmon")
    assert read(machine).thermal_temperature_c is None


def test_the_processor_is_a_device_that_shares_the_hosts_memory(machine: SimpleNamespace) -> None:
    (facts,) = HostBackend(NODE).devices()
    assert (facts.device_id, facts.backend, facts.unified_memory) == ("cpu", "cpu", True)
    assert facts.memory_total_bytes == 100
    assert facts.memory_bandwidth_bytes_per_second is None
    assert facts.reported_by == "psutil"
