from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from shardbus_agents.backends.host import HostBackend
from shardbus_agents.backends.protocol import DeviceSample
from shardbus_schemas.telemetry import DeviceGPUState
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


def sample(machine: SimpleNamespace, *, seconds: float = 2.0) -> DeviceSample:
    backend = HostBackend(NODE, phone=("no-such-command",))
    machine.seconds += seconds
    (sample,) = backend.sample(START)
    return sample


def read(machine: SimpleNamespace, *, seconds: float = 2.0) -> DeviceGPUState:
    return sample(machine, seconds=seconds).state


def test_used_memory_is_what_a_new_process_could_not_take(machine: SimpleNamespace) -> None:
    state = read(machine)
    assert (state.device_id, state.node_id, state.last_update) == ("cpu", NODE, START)
    assert (state.memory_used_bytes, state.memory_total_bytes) == (60, 100)


def test_utilization_is_unknown_until_it_means_something(machine: SimpleNamespace) -> None:
    early = sample(machine, seconds=0.01)
    assert early.state.compute_utilization_percent is None
    assert "too short ago" in early.unknown["compute_utilization_percent"]
    assert read(machine, seconds=2).compute_utilization_percent == 12.5


def test_without_a_battery_or_a_sensor_nothing_is_made_up(machine: SimpleNamespace) -> None:
    said = sample(machine)
    state = said.state
    assert said.unknown["thermal_temperature_c"] == "no sensor of a processor that this kernel offers"
    assert said.unknown["battery_percent"] == "no battery that this system knows of"
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
    said = sample(machine)
    assert said.state.thermal_temperature_c is None
    assert "/sys/class/hwmon" in said.unknown["thermal_temperature_c"]


@pytest.mark.parametrize("nonsense", [4000.0, float("nan"), -273.0, 0.0])
def test_sensors_that_cannot_be_right_are_unknown_and_quoted(machine: SimpleNamespace, nonsense: float) -> None:
    machine.sensors = {"k10temp": [SimpleNamespace(current=nonsense)]}
    said = sample(machine)
    assert said.state.thermal_temperature_c is None
    assert f"{nonsense:g} °C" in said.unknown["thermal_temperature_c"]


def test_a_phone_keeps_the_load_of_its_processor_to_itself(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(interval: None) -> float:
        raise PermissionError(13, "Permission denied", "/proc/stat")

    monkeypatch.setattr(psutil, "cpu_percent", refuse)
    said = sample(machine)
    assert said.state.compute_utilization_percent is None
    assert "/proc/stat" in said.unknown["compute_utilization_percent"]


def test_a_battery_that_reads_nonsense_is_unknown(machine: SimpleNamespace) -> None:
    machine.battery = SimpleNamespace(percent=900.0, power_plugged=True)
    said = sample(machine)
    assert (said.state.battery_percent, said.state.is_plugged_in) == (None, True)
    assert "900" in said.unknown["battery_percent"]


def test_the_processor_is_a_device_that_shares_the_hosts_memory(machine: SimpleNamespace) -> None:
    (facts,) = HostBackend(NODE).devices()
    assert (facts.device_id, facts.backend, facts.unified_memory) == ("cpu", "cpu", True)
    assert facts.memory_total_bytes == 100
    assert facts.memory_bandwidth_bytes_per_second is None
    assert facts.reported_by == "psutil"
