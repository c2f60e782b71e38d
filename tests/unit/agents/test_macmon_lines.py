import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.backends.macmon import MacmonReading, parse_line

# As its readme shows them, with other figures: https://github.com/vladkens/macmon
SEVEN: dict[str, Any] = {
    "timestamp": "2026-04-10T20:38:15.427569+00:00",
    "temp": {"cpu_temp_avg": 43.7, "gpu_temp_avg": 36.9},
    "memory": {"ram_total": 25769803776, "ram_usage": 20985479168, "swap_total": 4294967296, "swap_usage": 2602434560},
    "ecpu_usage": [1181, 0.082],
    "pcpu_usage": [1974, 0.015],
    "cpu_usage_pct": 0.036,
    "gpu_usage": [461, 0.25],
    "cpu_power": 0.5,
    "gpu_power": 1.75,
    "ane_power": 0.0,
    "all_power": 2.25,
    "sys_power": 5.75,
    "ram_power": 0.125,
    "gpu_ram_power": 0.0009,
}
"""Version 0.7."""

EIGHT: dict[str, Any] = {
    "timestamp": "2026-07-25T20:38:15.427569+00:00",
    "temp": {"cpu_temp_avg": 43.7, "gpu_temp_avg": 36.9},
    "memory": SEVEN["memory"],
    "fans": [{"name": "fan0", "rpm": 999, "max_rpm": 4900}],
    "cpu_scaled_ratio": 0.036,
    "cpu_active_ratio": 0.092,
    "ecpu_freq_mhz": 1100,
    "ecpu_scaled_ratio": 0.08,
    "gpu_freq_mhz": 461,
    "gpu_scaled_ratio": 0.25,
    "gpu_active_ratio": 0.5,
    "cpu_power": 0.5,
    "gpu_power": 1.75,
    "all_power": 2.25,
    "sys_power": 5.75,
}
"""Version 0.8.0, which renamed; 0.8.1 has the names of 0.7 beside these."""

NESTED: dict[str, Any] = {
    "timestamp": "2026-03-15T10:00:00Z",
    "usage": {
        "PCPU": {"units": 10, "freq_mhz": 3200, "usage": 0.5, "cores": [[3100, 0.4]]},
        "gpu": {"GPU": {"units": 10, "freq_mhz": 461, "usage": 0.25}},
    },
    "power": {"package": 2.25, "cpu": 0.5, "gpu": 1.75, "board": 5.75},
    "temp": {"cpu_avg": 43.7, "gpu_avg": 36.9},
    "memory": SEVEN["memory"],
}
"""Its main branch in the spring of 2026."""

READ = MacmonReading(
    gpu_busy_percent=25,
    gpu_watts=1.75,
    gpu_temperature_c=36.9,
    gpu_clock_hertz=461e6,
    cpu_watts=0.5,
    cpu_temperature_c=43.7,
    system_watts=5.75,
)


def read(document: object) -> MacmonReading | None:
    return parse_line(json.dumps(document))


def test_every_generation_of_its_names_says_the_same() -> None:
    assert read(SEVEN) == READ
    assert read(NESTED) == READ
    assert read({**EIGHT, "gpu_active_ratio": None}) == READ


@pytest.mark.parametrize("document", [EIGHT, {**SEVEN, **EIGHT}])
def test_the_share_of_time_at_work_counts_where_it_is_told(document: dict[str, Any]) -> None:
    reading = read(document)
    assert reading is not None
    assert reading.gpu_busy_percent == 50


def test_power_counters_that_stand_still_at_zero_are_unknown() -> None:
    reading = read({**SEVEN, "cpu_power": 0, "gpu_power": 0.0, "sys_power": 0})
    assert reading is not None
    assert (reading.gpu_watts, reading.cpu_watts, reading.system_watts) == (None, None, None)
    idle = read({**SEVEN, "gpu_power": 0.0})
    assert idle is not None
    assert idle.gpu_watts == 0


def test_a_temperature_of_zero_is_a_sensor_that_is_not_there() -> None:
    reading = read({**SEVEN, "temp": {"cpu_temp_avg": 0.0, "gpu_temp_avg": 0.0}})
    assert reading is not None
    assert (reading.gpu_temperature_c, reading.cpu_temperature_c) == (None, None)


@pytest.mark.parametrize("line", ["", "{", "null", "[1]", "macmon: not supported", "3"])
def test_what_is_no_reading_is_none(line: str) -> None:
    assert parse_line(line) is None


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted({*SEVEN, *NESTED})), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted({*SEVEN, *EIGHT, *NESTED})), anything))
def test_no_document_is_too_strange(document: dict[str, Any]) -> None:
    assert isinstance(read(document), MacmonReading)
