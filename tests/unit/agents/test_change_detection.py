import pytest
from shardbus_agents.change_detection import Thresholds, has_changed, report_is_due, significant
from shardbus_schemas.telemetry import DeviceGPUState
from support.readings import facts, state

GIBIBYTE = 2**30
DEFAULTS = Thresholds()
DEVICES = {name: facts(name) for name in ("a", "b", "cuda-1")}


def test_a_device_never_published_is_always_told() -> None:
    assert significant({}, [state()], DEFAULTS, DEVICES) == (state(),)


def test_memory_is_worth_telling_in_steps_of_a_share_of_the_total_and_never_below_the_floor() -> None:
    assert DEFAULTS.memory_step(80 * GIBIBYTE) == 0.8 * GIBIBYTE
    assert DEFAULTS.memory_step(8 * GIBIBYTE) == DEFAULTS.memory_step(None) == GIBIBYTE / 4


def test_only_devices_that_moved_are_told() -> None:
    published = {"a": state("a", compute_utilization_percent=10), "b": state("b", compute_utilization_percent=10)}
    current = [state("a", compute_utilization_percent=15), state("b", compute_utilization_percent=25)]
    assert [told.device_id for told in significant(published, current, DEFAULTS, DEVICES)] == ["b"]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"memory_used_bytes": 0}, {"memory_used_bytes": GIBIBYTE - 1}, False),
        ({"memory_used_bytes": 0}, {"memory_used_bytes": GIBIBYTE}, True),
        ({"memory_used_bytes": 2 * GIBIBYTE}, {"memory_used_bytes": GIBIBYTE}, True),
        ({"compute_utilization_percent": 20}, {"compute_utilization_percent": 29.9}, False),
        ({"compute_utilization_percent": 20}, {"compute_utilization_percent": 30}, True),
        ({"thermal_temperature_c": 60}, {"thermal_temperature_c": 62.9}, False),
        ({"thermal_temperature_c": 60}, {"thermal_temperature_c": 57}, True),
        ({"power_watts": 200}, {"power_watts": 209}, False),
        ({"power_watts": 200}, {"power_watts": 210}, True),
        ({"power_watts": None}, {"power_watts": 0}, True),
        ({"battery_percent": 60}, {"battery_percent": 55.1}, False),
        ({"battery_percent": 60}, {"battery_percent": 55}, True),
        ({"health": "ok"}, {"health": "degraded"}, True),
        ({"throttle_reasons": ()}, {"throttle_reasons": ("power_brake",)}, True),
        ({"throttle_reasons": ()}, {"throttle_reasons": None}, True),
        ({"throttle_reasons": ()}, {"throttle_reasons": ("power_cap",)}, False),
        ({"throttle_reasons": ("power_cap", "hardware")}, {"throttle_reasons": ("hardware",)}, False),
        ({"is_thermal_throttling": False}, {"is_thermal_throttling": True}, True),
        ({"is_plugged_in": True}, {"is_plugged_in": False}, True),
        ({"is_plugged_in": True}, {"is_plugged_in": None}, True),
        ({"thermal_throttle_threshold_c": 83}, {"thermal_throttle_threshold_c": 84}, True),
        ({"thermal_temperature_c": None}, {"thermal_temperature_c": 0}, True),
        ({"compute_utilization_percent": 0}, {"compute_utilization_percent": None}, True),
        ({}, {}, False),
    ],
)
def test_each_field_has_its_own_threshold(before: dict[str, object], now: dict[str, object], told: bool) -> None:
    total = {"memory_total_bytes": 100 * GIBIBYTE}
    assert has_changed(state(**total, **before), state(**total, **now), DEFAULTS) is told


def test_a_total_that_changes_is_told() -> None:
    assert has_changed(state(memory_total_bytes=10), state(memory_total_bytes=11), DEFAULTS)


@pytest.mark.parametrize("total", [None, 2**30, 8 * GIBIBYTE])
def test_memory_has_a_floor_below_which_nobody_plans(total: int | None) -> None:
    def used(count: int) -> DeviceGPUState:
        return state(memory_used_bytes=count, memory_total_bytes=total)

    assert not has_changed(used(0), used(2**28 - 1), DEFAULTS)
    assert has_changed(used(0), used(2**28), DEFAULTS)


def test_the_threshold_of_power_is_of_the_devices_limit() -> None:
    before, now = state(power_watts=100), state(power_watts=130)
    assert has_changed(before, now, DEFAULTS, power_limit_watts=300)
    assert not has_changed(before, now, DEFAULTS, power_limit_watts=301)
    devices = {"cuda-1": facts(power_limit_watts=301)}
    assert significant({"cuda-1": before}, [now], DEFAULTS, devices) == ()


def test_the_declared_bounds_are_the_thresholds() -> None:
    assert Thresholds(temperature_c=7).error_bounds == {
        "memory_used_percent": 1,
        "memory_used_bytes": 2**28,
        "compute_utilization_percent": 10,
        "thermal_temperature_c": 7,
        "power_limit_percent": 10,
        "power_watts": 10,
        "battery_percent": 5,
    }


def test_a_threshold_of_zero_tells_every_change_and_no_standstill() -> None:
    exact = Thresholds(temperature_c=0)
    assert has_changed(state(thermal_temperature_c=60), state(thermal_temperature_c=60.5), exact)
    assert not has_changed(state(thermal_temperature_c=60), state(thermal_temperature_c=60), exact)


def test_thresholds_are_configurable() -> None:
    assert not has_changed(
        state(compute_utilization_percent=0),
        state(compute_utilization_percent=30),
        Thresholds(utilization_points=50),
    )


@pytest.mark.parametrize(
    ("silent", "due"), [(None, True), (0, False), (58.0, False), (58.9, False), (59, True), (60, True), (600, True)]
)
def test_a_report_is_due_at_the_tick_nearest_to_it(silent: float | None, due: bool) -> None:
    assert report_is_due(silent, report_seconds=60, sample_interval_seconds=2) is due
