from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem, DeviceSample
from shardbus_agents.collector import Sampled, merge
from shardbus_schemas.ids import DeviceId
from support.readings import START, facts, state


def test_a_device_found_by_two_backends_is_one_device_with_both_their_facts() -> None:
    nvml = facts("GPU-1", name="NVIDIA H100", memory_total_bytes=80, reported_by="nvml", sources={"name": "driver"})
    mlx = facts("GPU-1", name="H100", architecture="sm_90", memory_total_bytes=79, reported_by="mlx")
    merged = merge([Sampled((nvml,)), Sampled((mlx,))])
    assert list(merged.devices) == ["GPU-1"]
    assert merged.devices["GPU-1"] == facts(
        "GPU-1",
        name="NVIDIA H100",
        architecture="sm_90",
        memory_total_bytes=80,
        reported_by="nvml+mlx",
        sources={"name": "driver"},
    )


def test_rates_of_other_types_are_added_and_the_trusted_ones_stay() -> None:
    trusted = facts(peak_flops={"float16": 1e12})
    other = facts(peak_flops={"float16": 9e12, "int8": 2e12})
    assert merge([Sampled((trusted,)), Sampled((other,))]).devices["cuda-1"].peak_flops == {
        "float16": 1e12,
        "int8": 2e12,
    }


def test_the_first_backend_wins_for_load_and_a_later_one_fills_what_it_does_not_know() -> None:
    first = state(compute_utilization_percent=70, memory_used_bytes=5, memory_total_bytes=10)
    second = state(compute_utilization_percent=1, thermal_temperature_c=50, memory_used_bytes=2, memory_total_bytes=3)
    merged = merge([Sampled((facts(),), (first,)), Sampled((facts(),), (second,))])
    assert merged.states["cuda-1"] == first.model_copy(update={"thermal_temperature_c": 50.0})


def test_used_and_total_memory_are_never_of_two_sources() -> None:
    first, second = state(memory_total_bytes=10), state(memory_used_bytes=20, memory_total_bytes=30)
    merged = merge([Sampled((facts(),), (first,)), Sampled((facts(),), (second,))])
    assert merged.states["cuda-1"].memory_used_bytes is None
    unknown = merge([Sampled((facts(),), (state(),)), Sampled((facts(),), (second,))])
    assert unknown.states["cuda-1"].memory_used_bytes == 20


def test_every_device_of_a_node_carries_the_hosts_battery() -> None:
    host = Sampled((facts("cpu"),), (state("cpu", battery_percent=61, is_plugged_in=False),))
    card = Sampled((facts("GPU-1"),), (state("GPU-1", compute_utilization_percent=3),))
    merged = merge([card, host])
    assert merged.states["GPU-1"].battery_percent == 61
    assert merged.states["GPU-1"].is_plugged_in is False
    assert merged.states["GPU-1"].compute_utilization_percent == 3


def test_a_host_without_a_battery_has_none_on_any_device() -> None:
    merged = merge([Sampled((facts("cpu"),), (state("cpu"),)), Sampled((facts("GPU-1"),), (state("GPU-1"),))])
    assert {each.battery_percent for each in merged.states.values()} == {None}


def test_a_problem_wins_over_another_backends_good_word() -> None:
    hanging = Sampled((facts("GPU-1"),), (DeviceProblem("GPU-1", "it hangs"), state("GPU-2")))
    content = Sampled((facts("GPU-1"), facts("GPU-2")), (state("GPU-1"),))
    merged = merge([hanging, content])
    assert merged.problems == {"GPU-1": "it hangs"}
    assert list(merged.devices) == ["GPU-2"]
    assert list(merged.states) == ["GPU-2"]


def test_what_one_backend_cannot_say_and_another_can_is_not_unknown() -> None:
    first = DeviceSample(state(), {"power_watts": "not supported", "health": "not asked"}, {"clock_hertz": 1.0})
    second = DeviceSample(state(power_watts=30.0), {"health": "no idea"}, {"clock_hertz": 2.0, "fan_percent": 50.0})
    merged = merge([Sampled((facts(),), (first,)), Sampled((facts(),), (second,))])
    assert merged.states["cuda-1"].power_watts == 30
    assert merged.unknown == {"cuda-1": {"health": "not asked"}}
    assert merged.gauges == {"cuda-1": {"clock_hertz": 1.0, "fan_percent": 50.0}}


def test_a_fault_is_no_problem_of_its_device() -> None:
    fault = DeviceFault(DeviceId("cuda-1"), "xid", "XID 31", START, code=31)
    merged = merge([Sampled((facts(),), (state(), fault))])
    assert merged.faults == (fault,)
    assert list(merged.states) == ["cuda-1"]
