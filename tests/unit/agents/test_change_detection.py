import pytest
from shardbus_agents.change_detection import Thresholds, has_changed, heartbeat_is_due, significant
from support.readings import state

GIBIBYTE = 2**30
DEFAULTS = Thresholds()


def test_a_device_never_published_is_always_told() -> None:
    assert significant({}, [state()], DEFAULTS) == (state(),)


def test_only_devices_that_moved_are_told() -> None:
    published = {"a": state("a", compute_utilization_percent=10), "b": state("b", compute_utilization_percent=10)}
    current = [state("a", compute_utilization_percent=15), state("b", compute_utilization_percent=25)]
    assert [told.device_id for told in significant(published, current, DEFAULTS)] == ["b"]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"memory_used_bytes": 0}, {"memory_used_bytes": GIBIBYTE - 1}, False),
        ({"memory_used_bytes": 0}, {"memory_used_bytes": GIBIBYTE}, True),
        ({"memory_used_bytes": 2 * GIBIBYTE}, {"memory_used_bytes": GIBIBYTE}, True),
        ({"compute_utilization_percent": 20}, {"compute_utilization_percent": 29.9}, False),
        ({"compute_utilization_percent": 20}, {"compute_utilization_percent": 30}, True),
        ({"thermal_temperature_c": 60}, {"thermal_temperature_c": 64}, False),
        ({"thermal_temperature_c": 60}, {"thermal_temperature_c": 55}, True),
        ({"battery_percent": 60}, {"battery_percent": 55.1}, False),
        ({"battery_percent": 60}, {"battery_percent": 55}, True),
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


def test_without_a_total_every_byte_counts() -> None:
    assert has_changed(state(memory_used_bytes=1000), state(memory_used_bytes=1001), DEFAULTS)
    assert not has_changed(state(memory_used_bytes=1000), state(memory_used_bytes=1000), DEFAULTS)


def test_a_threshold_of_zero_tells_every_change_and_no_standstill() -> None:
    exact = Thresholds(memory_percent=0, utilization_points=0, temperature_c=0, battery_points=0)
    assert has_changed(state(thermal_temperature_c=60), state(thermal_temperature_c=60.5), exact)
    assert not has_changed(state(thermal_temperature_c=60), state(thermal_temperature_c=60), exact)


def test_thresholds_are_configurable() -> None:
    assert not has_changed(
        state(compute_utilization_percent=0),
        state(compute_utilization_percent=30),
        Thresholds(utilization_points=50),
    )


@pytest.mark.parametrize(
    ("silent", "due"), [(None, True), (0, False), (8.0, False), (8.99, False), (9.0, True), (10.0, True), (60, True)]
)
def test_a_heartbeat_is_due_at_the_tick_nearest_to_it(silent: float | None, due: bool) -> None:
    assert heartbeat_is_due(silent, heartbeat_seconds=10, sample_interval_seconds=2) is due
