from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.backends.simulated import SimulatedBackend
from shardbus_schemas.fleet import FleetDevice, FleetNode
from shardbus_schemas.telemetry import DeviceGPUState
from support.readings import NODE, START

GIBIBYTE = 2**30
percent = st.floats(0, 100)
maybe_flag = st.sampled_from([None, False, True])
devices = st.fixed_dictionaries(
    {"memory_total_bytes": st.just(24 * GIBIBYTE)},
    optional={
        "memory_used_bytes": st.none() | st.integers(0, 24 * GIBIBYTE),
        "compute_utilization_percent": st.none() | percent,
        "thermal_temperature_c": st.none() | st.floats(-100, 300),
        "thermal_throttle_threshold_c": st.none() | st.floats(-100, 300),
        "is_thermal_throttling": maybe_flag,
        "battery_percent": st.none() | percent,
        "is_plugged_in": maybe_flag,
        "power_watts": st.none() | st.floats(0, 1000),
        "health": st.sampled_from([None, "ok", "degraded", "failed"]),
        "throttle_reasons": st.sampled_from([None, (), ("power_cap",), ("hardware_thermal", "power_brake")]),
    },
)


@given(device=devices, seed=st.integers(), ticks=st.lists(st.integers(0, 10**7), max_size=4))
def test_every_tick_of_every_device_is_a_valid_reading_and_the_same_each_time(
    device: dict[str, Any], seed: int, ticks: list[int]
) -> None:
    node = FleetNode(node_id=NODE, devices=(FleetDevice(device_id="gpu", **device),))
    backend, again = SimulatedBackend(node, seed=seed), SimulatedBackend(node, seed=seed)
    for tick in (0, *ticks):
        (played,) = backend.sample_tick(tick, START)
        assert DeviceGPUState.model_validate(played.model_dump()) == played
        assert again.sample_tick(tick, START) == (played,)
    (first,) = again.sample(START)
    assert {name: getattr(first, name) for name in device} == device
