"""What the NVML child's words come to mean: facts, samples and faults, without any driver."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.nvml.driver.main import Tiers
from shardbus_agents.backends.nvml.facts import device_facts, is_integrated, peer_paths
from shardbus_agents.backends.nvml.faults import EccWatch, event_faults
from shardbus_agents.backends.nvml.samples import Slowdown, device_sample, health_of, throttle_reasons
from shardbus_agents.backends.nvml.words import why
from shardbus_agents.backends.nvml.xid import explain
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId
from support.readings import NODE, START, facts

GIBIBYTE = 2**30
HOST = HostMemory(total_bytes=64 * GIBIBYTE, available_bytes=60 * GIBIBYTE)
CARD: dict[str, Any] = {
    "name": "NVIDIA H100 80GB HBM3",
    "capability": [9, 0],
    "cores": 16896,
    "bus_bits": 5120,
    "memory_clock_mhz": 2619,
    "sm_clock_mhz": 1980,
    "memory_total": 80 * GIBIBYTE,
    "pcie_generation": 5,
    "pcie_width": 16,
}


def said(device_id: str = "GPU-1", **values: Any) -> dict[str, Any]:
    return {
        "id": device_id,
        "index": 0,
        "driver": "580",
        "values": {**CARD, **values},
        "failures": {},
        "peers": [],
    }


def test_the_table_beats_the_formula_and_the_formula_beats_nothing() -> None:
    known, new = device_facts(said(), HOST), device_facts(said(name="NVIDIA Prototype 9"), HOST)
    assert known.sources["peak_flops"] == known.sources["memory_bandwidth_bytes_per_second"] == "table"
    assert new.sources["peak_flops"] == new.sources["memory_bandwidth_bytes_per_second"] == "formula"
    assert new.peak_flops["float16"] == pytest.approx(132 * 4096 * 1980e6)
    assert new.memory_bandwidth_bytes_per_second == pytest.approx(2 * 5120 / 8 * 2619e6)


def test_geforce_cards_accumulate_at_half_rate() -> None:
    values = {"capability": [8, 9], "cores": 16384, "sm_clock_mhz": 2520}
    full = device_facts(said(name="NVIDIA Prototype 9", **values), HOST).peak_flops["float16"]
    assert device_facts(said(name="NVIDIA GeForce Prototype 9", **values), HOST).peak_flops["float16"] == full / 2


@pytest.mark.parametrize(
    ("name", "integrated"),
    [
        ("NVIDIA GB10", True),
        ("Orin (nvgpu)", True),
        ("NVIDIA Thor", True),
        ("NVIDIA GB100", False),
        ("NVIDIA GH200 480GB", False),
        (None, False),
    ],
)
def test_integrated_parts_are_known_by_whole_words(name: str | None, integrated: bool) -> None:
    assert is_integrated(name) is integrated


def test_a_slice_without_a_profile_in_its_name_is_named_by_its_attributes() -> None:
    attributes = {"sms": 16, "gpu_slices": 1, "compute_slices": 1, "memory_mebibytes": 9856}
    values = {"name": "NVIDIA H100", "memory_total": 9856 * 2**20, "attributes": attributes}
    piece = {"id": "MIG-1", "index": 0, "slot": 3, "driver": "580", "values": values, "failures": {}, "peers": []}
    sliced = device_facts({**piece, "card": said()}, HOST)
    assert (sliced.partition, sliced.parent_device_id, sliced.label) == ("1g.10gb", "GPU-1", "cuda:0:3")
    assert sliced.uuid == "MIG-1"
    assert "peers" in sliced.unknown


def test_the_way_between_cards_is_as_fast_as_its_slower_end() -> None:
    peer = {"id": "GPU-2", "level": 30, "p2p": 0, "links": 0}
    one, other = said() | {"peers": [peer]}, said("GPU-2", pcie_generation=3)
    (path,) = peer_paths(one, {"GPU-1": one, "GPU-2": other})
    assert (path.kind, path.peer_to_peer) == ("host_bridge", True)
    assert path.bandwidth_bytes_per_second == pytest.approx(16 * 0.985e9)
    unknown = said("GPU-2", pcie_generation=None)
    (path,) = peer_paths(one, {"GPU-1": one, "GPU-2": unknown})
    assert path.bandwidth_bytes_per_second is None
    assert peer_paths(one, {"GPU-1": one}) == ()


def test_the_speed_of_an_nvlink_of_a_new_version_is_unknown() -> None:
    peer = {"id": "GPU-2", "level": 50, "p2p": None, "links": 2, "version": 99, "megabytes_per_second": None}
    one = said() | {"peers": [peer]}
    (path,) = peer_paths(one, {"GPU-1": one, "GPU-2": said("GPU-2")})
    assert (path.kind, path.links, path.peer_to_peer, path.bandwidth_bytes_per_second) == ("nvlink", 2, None, None)


def test_all_reasons_that_hold_a_gpu_back_are_told() -> None:
    assert throttle_reasons(0) == ()
    assert throttle_reasons(0x1 | 0x2 | 0x100) == ()
    assert throttle_reasons(0xFC) == (
        "power_cap",
        "hardware",
        "sync_boost",
        "software_thermal",
        "hardware_thermal",
        "power_brake",
    )


def test_nobody_is_healthy_of_whom_nothing_is_known() -> None:
    assert health_of({}) is None
    assert health_of({"ecc_uncorrected": 0, "remapped_rows": [5, 5, 0, 0], "recovery_action": 0}) == "ok"
    assert health_of({"remapped_rows": [0, 0, 1, 0]}) == "degraded"
    assert health_of({"ecc_uncorrected": 0, "recovery_action": 7}) == "failed"


def test_only_a_rise_of_the_count_is_a_fault() -> None:
    watch, device_id = EccWatch(), DeviceId("GPU-1")
    counts = [4, 4, 6, None, 6, 0, 1]
    told = [[fault.code for fault in watch.faults(device_id, count, START)] for count in counts]
    assert told == [[], [], [6], [], [], [], [1]]


def test_an_event_of_a_kind_that_nobody_knows_is_no_fault() -> None:
    assert list(event_faults({"event": "other", "ids": ["GPU-1"], "code": 1}, START)) == []


def test_an_xid_says_what_it_means_and_what_to_do() -> None:
    message, is_critical = explain(79)
    assert ("fallen off the bus" in message, "reboot" in message, is_critical) == (True, True, True)
    assert explain(31)[1] is False
    message, is_critical = explain(9999)
    assert ("9999" in message, "catalogue" in message, is_critical) == (True, True, False)


def test_a_tier_is_asked_in_time_though_ticks_come_a_little_early() -> None:
    tiers = Tiers(medium_seconds=10, slow_seconds=60)
    asked = [2 * tick for tick in range(31) if tiers.take("medium", 2 * tick - 0.01 * (tick % 3))]
    assert asked == [0, 10, 20, 30, 40, 50, 60]
    assert tiers.take("slow", 60)
    assert not tiers.take("slow", 62)
    tiers.hurry()
    assert tiers.take("slow", 64)


def test_speeds_that_nobody_knows_are_said_to_be_unknown() -> None:
    told = device_facts(said(name="NVIDIA Prototype 9", cores=None, bus_bits=None), HOST)
    assert told.peak_flops == {}
    assert told.unknown.keys() == {"peak_flops", "memory_bandwidth_bytes_per_second"}


def test_every_failure_has_words() -> None:
    assert why((3, "Not Supported")) == "this GPU does not offer it"
    assert why([13, "nvmlDeviceGetX"]).endswith("(it lacks nvmlDeviceGetX)")
    assert why((20, "Insufficient Memory")) == "the NVIDIA driver says: Insufficient Memory"


UNSIGNED = st.integers(0, 2**32 - 1)
LARGE = st.integers(0, 2**64 - 1)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "memory": st.tuples(LARGE, LARGE, st.none() | LARGE),
        "utilization": UNSIGNED,
        "temperature": UNSIGNED,
        "reasons": LARGE,
        "power": UNSIGNED,
        "energy": LARGE,
        "margin": st.integers(-(2**31), 2**31 - 1),
        "ecc_uncorrected": LARGE,
        "remapped_rows": st.tuples(UNSIGNED, UNSIGNED, UNSIGNED, UNSIGNED),
        "recovery_action": UNSIGNED | st.floats(),
    },
)


@given(VALUES, st.none() | UNSIGNED)
def test_whatever_a_driver_reads_there_is_a_sample(values: dict[str, Any], slowdown: int | None) -> None:
    reading = {"id": "GPU-1", "values": values, "failures": {}, "seconds": 0.0}
    sample = device_sample(reading, facts("GPU-1"), Slowdown(slowdown), HOST, NODE, START)
    assert sample.state.thermal_temperature_c is None or -100 <= sample.state.thermal_temperature_c <= 150
    if "temperature" in values:
        assert (sample.state.thermal_temperature_c is None) == ("thermal_temperature_c" in sample.unknown)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            "capability": st.tuples(st.integers(0, 99), st.integers(0, 99)),
            "cores": UNSIGNED,
            "bus_bits": UNSIGNED,
            "memory_clock_mhz": UNSIGNED,
            "sm_clock_mhz": UNSIGNED,
            "memory_total": LARGE,
            "pcie_generation": UNSIGNED,
            "pcie_width": UNSIGNED,
            "power_limit": UNSIGNED,
        },
    )
)
def test_whatever_a_driver_says_there_are_facts(values: dict[str, Any]) -> None:
    told = device_facts(
        {"id": "GPU-1", "index": 0, "driver": None, "values": values, "failures": {}, "peers": []}, HOST
    )
    assert DeviceFacts.model_validate(told.model_dump()) == told
