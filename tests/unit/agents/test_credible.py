from typing import Any

import pytest
from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.protocol import DeviceSample
from shardbus_schemas.ids import DeviceId
from support.readings import NODE, START


def sample(**readings: Any) -> DeviceSample:
    return credible_sample(DeviceId("g1"), NODE, START, readings)


@pytest.mark.parametrize(
    ("name", "nonsense"),
    [
        ("thermal_temperature_c", 4000),
        ("thermal_temperature_c", float("nan")),
        ("thermal_throttle_threshold_c", -300),
        ("compute_utilization_percent", 101),
        ("compute_utilization_percent", float("-inf")),
        ("memory_used_bytes", -1),
        ("memory_total_bytes", 0),
        ("power_watts", 4_294_967.295),
        ("battery_percent", 255),
    ],
)
def test_nonsense_is_unknown_with_the_drivers_words_and_the_rest_stays(name: str, nonsense: float) -> None:
    found = sample(**{"is_plugged_in": True, name: nonsense})
    assert getattr(found.state, name) is None
    assert str(nonsense) in found.unknown[name]
    assert found.state.is_plugged_in is True


def test_more_memory_used_than_there_is_leaves_the_use_unknown_and_the_total_known() -> None:
    found = sample(memory_used_bytes=11, memory_total_bytes=10)
    assert (found.state.memory_used_bytes, found.state.memory_total_bytes) == (None, 10)
    assert found.unknown == {"memory_used_bytes": "the driver says 11 bytes, which is more than the total of 10"}


def test_a_reason_is_kept_only_for_what_stays_unknown() -> None:
    why = {"power_watts": "not supported", "health": "not asked"}
    found = credible_sample(
        DeviceId("g1"), NODE, START, {"power_watts": 30.0}, unknown=why, gauges={"clock_hertz": 1e9, "x": float("nan")}
    )
    assert found.state.power_watts == 30
    assert found.unknown == {"health": "not asked"}
    assert found.gauges == {"clock_hertz": 1e9}
