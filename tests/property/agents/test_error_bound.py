"""Whatever a device does, who reads the bus believes nothing that is further off than the thresholds."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.agent import Agent, Identity, Pace
from shardbus_agents.backends.protocol import DeviceProblem
from shardbus_agents.change_detection import Thresholds, has_changed, significant
from shardbus_agents.collector import Sampled, merge
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceLost, DeviceRegistered
from shardbus_schemas.ids import BootId, DeviceId
from shardbus_schemas.telemetry import DeviceGPUState
from support.readings import NODE, after, facts, state

TOTAL = 1000
percent = st.none() | st.floats(0, 100) | st.integers(0, 100).map(float)
flag = st.sampled_from([None, False, True])
readings = st.fixed_dictionaries(
    {
        "memory_used_bytes": st.none() | st.integers(0, TOTAL),
        "memory_total_bytes": st.sampled_from([None, TOTAL, TOTAL + 1]),
        "compute_utilization_percent": percent,
        "thermal_temperature_c": st.none() | st.floats(-20, 120),
        "thermal_throttle_threshold_c": st.sampled_from([None, 83.0]),
        "is_thermal_throttling": flag,
        "battery_percent": percent,
        "is_plugged_in": flag,
    }
)
thresholds = st.builds(
    Thresholds,
    memory_percent=st.floats(0, 20),
    utilization_points=st.floats(0, 50),
    temperature_c=st.floats(0, 20),
    battery_points=st.floats(0, 20),
)


def assert_close(believed: DeviceGPUState, true: DeviceGPUState, bounds: Thresholds) -> None:
    for name, bound in (
        ("memory_used_bytes", (true.memory_total_bytes or 0) * bounds.memory_percent / 100),
        ("compute_utilization_percent", bounds.utilization_points),
        ("thermal_temperature_c", bounds.temperature_c),
        ("battery_percent", bounds.battery_points),
    ):
        told, real = getattr(believed, name), getattr(true, name)
        assert (told is None) == (real is None)
        assert told is None or abs(told - real) <= bound
    for name in (
        "memory_total_bytes",
        "thermal_throttle_threshold_c",
        "is_thermal_throttling",
        "is_plugged_in",
    ):
        assert getattr(believed, name) == getattr(true, name)


@given(traces=st.lists(st.lists(readings, min_size=2, max_size=2), min_size=1, max_size=25), bounds=thresholds)
def test_belief_is_within_the_thresholds_of_the_last_sample(
    traces: list[list[dict[str, Any]]], bounds: Thresholds
) -> None:
    published: dict[DeviceId, DeviceGPUState] = {}
    for tick in traces:
        samples = [state(f"gpu-{index}", **each) for index, each in enumerate(tick)]
        told = significant(published, samples, bounds)
        published |= {each.device_id: each for each in told}
        for sample in samples:
            assert_close(published[sample.device_id], sample, bounds)


@given(before=readings, now=readings, bounds=thresholds)
def test_a_reading_within_every_threshold_is_not_told(
    before: dict[str, Any], now: dict[str, Any], bounds: Thresholds
) -> None:
    last, current = state(**before), state(**now)
    if not has_changed(last, current, bounds):
        assert_close(last, current, bounds)
    assert not has_changed(current, current, bounds)


devices_at_a_tick = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(st.none(), readings), max_size=3)
"""Each device's readings, ``None`` for one with a problem; one that is left out is not there."""


@given(ticks=st.lists(devices_at_a_tick, min_size=1, max_size=25), bounds=thresholds)
def test_who_hears_an_agent_knows_its_devices_and_their_readings(
    ticks: list[dict[str, dict[str, Any] | None]], bounds: Thresholds
) -> None:
    agent = Agent(Identity(node_id=NODE, boot_id=BootId("boot")), Pace(thresholds=bounds))
    known: set[str] = set()
    believed: dict[str, DeviceGPUState] = {}
    heard_at = 0.0
    for tick, devices in enumerate(ticks):
        seconds = 2.0 * tick
        well = {name: state(name, **each) for name, each in devices.items() if each is not None}
        broken = [DeviceProblem(DeviceId(name), "hangs") for name, each in devices.items() if each is None]
        sampled = Sampled(tuple(facts(name) for name in devices), (*well.values(), *broken))
        for announcement in agent.observe(merge([sampled]), after(seconds), seconds):
            match announcement.message:
                case DeviceRegistered(device=device):
                    known.add(device.device_id)
                case DeviceLost(device_id=device_id):
                    known.discard(device_id)
                    believed.pop(device_id, None)
                case DeviceGPUStateUpdated() as update:
                    heard_at = seconds if update.heartbeat else heard_at
                    believed |= {told.device_id: told for told in update.states}
                case _:
                    raise AssertionError(announcement)
        assert known == set(well)
        assert set(believed) == set(well)
        # The battery is the host's: one device's is every device's, as the merged snapshot says.
        for name, true in merge([sampled]).states.items():
            assert_close(believed[name], true, bounds)
        assert seconds - heard_at < 10
