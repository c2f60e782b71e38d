"""NVIDIA GPUs through the whole path: a compiled driver library, pynvml, the child process and its watchdog."""

import asyncio
import ctypes
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from shardbus_agents.backends.nvml.child import Child, driver_command
from shardbus_schemas.telemetry import DeviceGPUState
from support.nvml_fixtures import GIBIBYTE, PATIENT, UseDriver, Watched, children, is_there, with_sampler
from support.nvml_stub import SYSTEM_NAME, StubState
from support.readings import NODE, START
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub takes the place of Linux' driver library")

MUTE = 0.15
"""Patience with a driver that hangs: it is never answered, so the load of the machine does not matter."""


def test_a_healthy_gpu_tells_what_it_is_and_does(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_reserved=2**29)
        await gpu.tick()
        assert gpu.one.state == DeviceGPUState(
            device_id="GPU-00000000",
            node_id=NODE,
            memory_used_bytes=GIBIBYTE + 2**29,
            memory_total_bytes=24 * GIBIBYTE,
            compute_utilization_percent=7,
            thermal_temperature_c=45,
            thermal_throttle_threshold_c=95,
            is_thermal_throttling=False,
            throttle_reasons=("power_cap",),
            power_watts=25.5,
            last_update=START,
        )
        assert set(gpu.one.unknown) == {"health"}
        gauges = dict(gpu.one.gauges)
        assert 0 < gauges.pop("driver_seconds") < 1
        assert gauges == {
            "clock_sm_hertz": 210e6,
            "clock_memory_hertz": 405e6,
            "energy_joules": 5,
            "memory_reserved_bytes": 2**29,
            "pcie_generation": 1,
            "pcie_width": 8,
            "performance_state": 8,
            "thermal_margin_celsius": 40,
        }
        (facts,) = gpu.last.devices
        assert (facts.uuid, facts.label, facts.name) == ("GPU-00000000", "cuda:0", "NVIDIA GeForce RTX 3090")
        assert (facts.backend, facts.vendor, facts.architecture) == ("cuda", "nvidia", "Ampere")
        assert (facts.memory_total_bytes, facts.unified_memory) == (24 * GIBIBYTE, False)
        assert (facts.driver, facts.reported_by) == ("580.65.06", "nvml")
        assert (facts.pci_address, facts.pcie_generation, facts.pcie_width) == ("0000:60:00.0", 4, 16)
        assert (facts.power_limit_watts, facts.peers, facts.unknown) == (350, (), {})
        assert facts.memory_bandwidth_bytes_per_second == pytest.approx(936e9)
        assert facts.sources["memory_bandwidth_bytes_per_second"] == "table"
        assert facts.sources["architecture"] == "driver"

    with_sampler(scenario)


def test_a_card_that_no_table_knows_has_the_formulas_speeds(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_name="NVIDIA Prototype 9")
        (facts,) = (await gpu.tick()).last.devices
        assert facts.memory_bandwidth_bytes_per_second == pytest.approx(2 * 384 / 8 * 9751e6)
        assert facts.peak_flops == {"float16": pytest.approx(82 * 1024 * 2100e6)}
        assert facts.sources["memory_bandwidth_bytes_per_second"] == facts.sources["peak_flops"] == "formula"

    with_sampler(scenario)


@pytest.mark.parametrize(
    ("bits", "throttling", "reasons"),
    [
        (0x1, False, ()),
        (0x4, False, ("power_cap",)),
        (0x8, False, ("hardware",)),
        (0x20, True, ("software_thermal",)),
        (0x44, True, ("power_cap", "hardware_thermal")),
        (0x80, False, ("power_brake",)),
    ],
)
def test_only_heat_is_thermal_throttling(driver: StubState, bits: int, throttling: bool, reasons: object) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        driver.set(gpu0_reasons=bits)
        state = (await gpu.tick()).one.state
        assert (state.is_thermal_throttling, state.throttle_reasons) == (throttling, reasons)

    with_sampler(scenario)


def test_where_the_threshold_is_not_told_it_follows_from_the_margin_and_is_held(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_no_threshold=1, gpu0_temp=50, gpu0_margin=33, gpu0_slowdown_tlimit=str(2**64 - 2))
        assert (await gpu.tick()).one.state.thermal_throttle_threshold_c == 50 + 33 + 2
        driver.set(gpu0_temp=60, gpu0_margin=24)
        sample = (await gpu.tick()).one
        assert sample.state.thermal_throttle_threshold_c == 85
        assert sample.gauges["thermal_margin_celsius"] == 24

    with_sampler(scenario)


def test_what_the_hardware_does_not_offer_is_unknown_and_why(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_no_util=1, gpu0_no_temp=1, gpu0_no_power=1, gpu0_no_threshold=1, gpu0_no_limit=1)
        sample = (await gpu.tick()).one
        state = sample.state
        assert (state.compute_utilization_percent, state.thermal_temperature_c) == (None, None)
        assert (state.power_watts, state.thermal_throttle_threshold_c) == (None, None)
        assert state.memory_used_bytes == GIBIBYTE
        for name in ("compute_utilization_percent", "thermal_temperature_c", "power_watts"):
            assert sample.unknown[name] == "this GPU does not offer it"
        (facts,) = gpu.last.devices
        assert facts.unknown == {"power_limit_watts": "this GPU does not offer it"}

    with_sampler(scenario)


def test_nonsense_is_unknown_and_takes_nothing_with_it(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_temp=4000, gpu0_util=900, gpu0_used=30 * GIBIBYTE, gpu0_power=4_000_000_000)
        sample = (await gpu.tick()).one
        assert sample.state.thermal_temperature_c is None
        assert "4000" in sample.unknown["thermal_temperature_c"]
        assert sample.state.compute_utilization_percent is None
        assert sample.state.memory_used_bytes is None
        assert "more than the total" in sample.unknown["memory_used_bytes"]
        assert sample.state.power_watts is None
        assert sample.state.memory_total_bytes == 24 * GIBIBYTE
        assert sample.state.is_thermal_throttling is False

    with_sampler(scenario)


def test_a_name_that_is_no_text_is_unknown(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.path.write_bytes(b"0.name \xff\xfe\n0.total 0\n")
        sample = (await gpu.tick()).one
        (facts,) = gpu.last.devices
        assert facts.name is None
        assert "no text" in facts.unknown["name"]
        assert facts.memory_total_bytes is None
        assert sample.state.memory_total_bytes is None

    with_sampler(scenario)


def test_a_lost_gpu_is_a_problem_and_its_neighbour_goes_on(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=2)
        assert set((await gpu.tick()).samples) == {"GPU-00000000", "GPU-00000001"}
        driver.set(gpu0_lost=1)
        for _ in range(2):
            await gpu.tick()
            assert set(gpu.samples) == set(gpu.facts) == {"GPU-00000001"}
            assert "GPU is lost" in gpu.problems["GPU-00000000"]
        driver.set(gpu0_lost=0)
        assert set((await gpu.tick()).samples) == set(gpu.facts) == {"GPU-00000000", "GPU-00000001"}
        assert gpu.problems == {}

    with_sampler(scenario)


def test_a_gpu_lost_before_it_said_its_uuid_is_reported_by_its_place(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=2, gpu1_lost=1)
        await gpu.tick()
        assert set(gpu.samples) == {"GPU-00000000"}
        assert set(gpu.problems) == {"cuda:1"}

    with_sampler(scenario)


def test_gpus_come_and_go(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=0)
        assert (await gpu.tick()).last.readings == gpu.last.devices == ()
        pid = gpu.pid
        driver.set(count=2)
        assert len((await gpu.tick()).samples) == len(gpu.facts) == 2
        driver.set(count=1)
        assert set((await gpu.tick()).samples) == set(gpu.facts) == {"GPU-00000000"}
        assert gpu.problems == {}
        assert gpu.pid == pid

    with_sampler(scenario)


def test_a_gpu_that_the_kernel_finds_later_makes_the_library_load_anew(driver: StubState, tmp_path: Path) -> None:
    listed = tmp_path / "gpus"
    (listed / "0000:60:00.0").mkdir(parents=True)

    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        pid = gpu.pid
        (listed / "0000:61:00.0").mkdir()
        await gpu.tick()
        await until(lambda: not is_there(pid))
        assert set((await gpu.tick()).samples) == {"GPU-00000000"}
        assert gpu.pid != pid

    with_sampler(scenario, gpus_folder=str(listed))


@pytest.mark.parametrize("name", ["NVIDIA GB10", "NVIDIA Jetson AGX Orin", "NVIDIA Thor"])
def test_an_integrated_gpu_has_the_hosts_memory(driver: StubState, name: str) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_name=name, gpu0_no_memory=1)
        state = (await gpu.tick()).one.state
        assert (state.memory_used_bytes, state.memory_total_bytes) == (28 * GIBIBYTE, 128 * GIBIBYTE)
        (facts,) = gpu.last.devices
        assert (facts.unified_memory, facts.memory_total_bytes) == (True, 128 * GIBIBYTE)

    with_sampler(scenario)


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 3090", "NVIDIA GB100", "NVIDIA GH200 480GB"])
def test_a_card_that_cannot_say_its_memory_is_not_taken_for_an_integrated_one(driver: StubState, name: str) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_name=name, gpu0_no_memory=1)
        sample = (await gpu.tick()).one
        assert (sample.state.memory_used_bytes, sample.state.memory_total_bytes) == (None, None)
        assert sample.unknown["memory_total_bytes"] == "this GPU does not offer it"
        assert sample.state.compute_utilization_percent == 7
        assert gpu.last.devices[0].unified_memory is not True

    with_sampler(scenario)


def test_an_integrated_gpu_that_fails_is_not_given_the_hosts_memory(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_name="NVIDIA GB10", gpu0_no_memory=1)
        await gpu.tick()
        driver.set(gpu0_no_memory=0, gpu0_error=999)
        await gpu.tick()
        assert "restart the container" in gpu.problems["GPU-00000000"]

    with_sampler(scenario)


def test_an_older_driver_is_asked_by_the_older_names(use_driver: UseDriver) -> None:
    driver = use_driver("OLD_DRIVER", "NO_THRESHOLD", "NO_EVENTS", "NO_MIG")

    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_reasons=0x40, gpu0_reserved=2**29)
        for _ in range(2):
            sample = (await gpu.tick()).one
            assert sample.state.is_thermal_throttling is True
            # Before the second version what is reserved was counted as used.
            assert sample.state.memory_used_bytes == GIBIBYTE + 2**29
            assert "memory_reserved_bytes" not in sample.gauges
            assert sample.state.thermal_throttle_threshold_c is None
            assert "too old" in sample.unknown["thermal_throttle_threshold_c"]

    with_sampler(scenario)


def test_that_no_events_are_offered_is_said_once(driver: StubState, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(events=0)
        for _ in range(3):
            assert (await gpu.tick()).one.state.thermal_temperature_c == 45

    with caplog.at_level(logging.INFO):
        with_sampler(scenario)
    assert caplog.text.count("no XID events") == 1


@pytest.mark.parametrize(
    ("code", "advice"),
    [(9, "modprobe nvidia"), (18, "reboot this host"), (999, "restart the container")],
)
def test_a_driver_that_cannot_be_used_says_what_to_do_once(
    driver: StubState, caplog: pytest.LogCaptureFixture, code: int, advice: str
) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(init=code)
        for _ in range(4):
            assert (await gpu.tick()).last.readings == ()
        assert list(children()) == []

    with_sampler(scenario, is_wanted=True)
    assert [advice in record.getMessage() for record in caplog.records] == [True]


def test_without_a_driver_there_is_nothing_and_no_child_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if importlib.util.find_spec("pynvml") is None or _has_driver():
        pytest.skip("this host has NVIDIA's library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    async def scenario(gpu: Watched) -> None:
        for _ in range(2):
            assert (await gpu.tick()).last.readings == ()
        assert list(children()) == []

    with_sampler(scenario, is_wanted=True)
    assert "no NVIDIA driver is installed" in caplog.text


def test_without_pynvml_the_log_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    async def scenario(gpu: Watched) -> None:
        assert (await gpu.tick()).last.readings == ()

    with_sampler(scenario, is_wanted=True)
    assert "pip install 'shardbus[agent]'" in caplog.text


def test_a_driver_that_comes_later_is_found(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(init=9)
        assert (await gpu.tick()).last.readings == ()
        driver.set(init=0)

        async def is_found() -> bool:
            return bool((await gpu.tick()).samples)

        await until(is_found, within=PATIENT)

    with_sampler(scenario, retry_seconds=0.05)


@pytest.mark.parametrize("code", [9, 18, 1])
def test_a_driver_that_is_reloaded_is_loaded_anew(driver: StubState, code: int) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        before = gpu.pid
        driver.set(error=code, init=code)
        await gpu.tick()
        assert set(gpu.problems) == {"GPU-00000000"}
        assert set((await gpu.tick()).problems) == {"GPU-00000000"}
        driver.set(error=0, init=0, version="595.10")

        async def is_back() -> bool:
            return bool((await gpu.tick()).samples)

        await until(is_back, within=PATIENT)
        assert gpu.pid != before
        assert gpu.last.devices[0].driver == "595.10"

    with_sampler(scenario, retry_seconds=0.1)


# The tiers


def test_each_question_is_asked_as_often_as_its_tier_says(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        driver.set(gpu0_temp=61, gpu0_power=99000, gpu0_clock_sm=1999, gpu0_pcie=3)
        sample = (await gpu.tick()).one
        # What is not due keeps its last value.
        assert (sample.state.thermal_temperature_c, sample.state.power_watts) == (61, 25.5)
        assert (sample.gauges["clock_sm_hertz"], sample.gauges["pcie_generation"]) == (210e6, 1)

        async def power_is_asked() -> bool:
            return (await gpu.tick()).one.state.power_watts == 99

        await until(power_is_asked)
        assert gpu.one.gauges["clock_sm_hertz"] == 1999e6
        assert gpu.one.gauges["pcie_generation"] == 1
        # An event makes the slow questions due.
        driver.raise_event(31)

        async def links_are_asked() -> bool:
            return (await gpu.tick()).one.gauges["pcie_generation"] == 3

        await until(links_are_asked)

    with_sampler(scenario, medium_seconds=1, slow_seconds=3600)


def test_nothing_slow_or_private_is_asked_at_each_tick(driver: StubState, tmp_path: Path) -> None:
    """The child's own calls, counted: the driver's processes, PCIe throughput and fans are never among them."""
    script = tmp_path / "count.py"
    script.write_text(
        "import sys, json, collections\n"
        "sys.path += sys.argv[2:]\n"
        "import pynvml\n"
        "from shardbus_agents.backends.nvml.driver.main import Session\n"
        "find, asked = pynvml._nvmlGetFunctionPointer, collections.Counter()\n"
        "pynvml._nvmlGetFunctionPointer = lambda name: asked.update([name]) or find(name)\n"
        "session = Session(json.loads(sys.argv[1]), None)\n"
        "session.answer(1); first = dict(asked); asked.clear()\n"
        "session.answer(2); print(json.dumps([first, asked]))\n"
    )
    options = {"medium_seconds": 3600, "slow_seconds": 3600, "gpus_folder": "/nowhere", "parent": os.getpid()}
    command = driver_command(options)
    assert command is not None
    arguments = command[command.index("-c") + 2 :]
    finished = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    first, second = json.loads(finished.stdout)
    second.pop("nvmlEventSetWait_v2", None)
    assert second == Counter(
        [
            "nvmlDeviceGetCount_v2",
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetTemperature",
            "nvmlDeviceGetUtilizationRates",
        ]
    )
    assert not [name for name in first if "Process" in name or "PcieThroughput" in name or "Fan" in name]


# Errors


def test_an_xid_is_a_fault_once(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=2)
        assert (await gpu.tick()).faults == []
        driver.raise_event(79, xid_gpu=1)
        await until(lambda: gpu.sampler._news)
        (fault,) = (await gpu.tick()).faults
        assert (fault.device_id, fault.kind, fault.code, fault.is_critical) == ("GPU-00000001", "xid", 79, True)
        assert "fallen off the bus" in fault.message
        assert (await gpu.tick()).faults == []
        driver.raise_event(31, xid_gpu=0)
        driver.set(gpu1_lost=1)
        await until(lambda: gpu.sampler._news)
        await gpu.tick()
        assert [(fault.device_id, fault.code, fault.is_critical) for fault in gpu.faults] == [("GPU-00000000", 31, False)]
        assert set(gpu.problems) == {"GPU-00000001"}

    with_sampler(scenario)


def test_an_xid_is_heard_while_the_driver_hangs(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        driver.set(gpu0_hang="temp")
        assert (await gpu.tick(MUTE)).problems
        driver.raise_event(119)
        await until(lambda: gpu.sampler._news)
        (fault,) = (await gpu.tick(MUTE)).faults
        assert fault.code == 119

    with_sampler(scenario)


def test_other_events_of_the_driver_are_faults_too(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        driver.raise_event(0, xid_type=0x4000)
        await until(lambda: gpu.sampler._news)
        (fault,) = (await gpu.tick()).faults
        assert (fault.kind, fault.code, fault.is_critical) == ("driver", None, True)

    with_sampler(scenario)


def test_uncorrected_memory_errors_degrade_the_health_and_are_a_fault_once(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_ecc=2)
        # What was counted before the first look happened nobody knows when.
        assert (await gpu.tick()).faults == []
        assert gpu.one.state.health == "degraded"
        driver.set(gpu0_ecc=5)
        (fault,) = (await gpu.tick()).faults
        assert (fault.kind, fault.code) == ("ecc", 5)
        assert fault.message.startswith("3 more")
        assert (await gpu.tick()).faults == []
        assert gpu.one.gauges["ecc_uncorrected_errors"] == 5
        os.kill(gpu.pid, signal.SIGKILL)
        # A new child knows nothing of what was told, and it is not told again.
        assert (await gpu.tick()).faults == []

    with_sampler(scenario)


@pytest.mark.parametrize(
    ("state", "health"),
    [
        ({"gpu0_ecc": 0}, "ok"),
        ({"gpu0_ecc": 0, "gpu0_remap_pending": 1}, "degraded"),
        ({"gpu0_ecc": 0, "gpu0_remap_failure": 1}, "failed"),
        ({"gpu0_recovery": 0}, "ok"),
        ({"gpu0_recovery": 1}, "degraded"),
        ({"gpu0_recovery": 2}, "failed"),
    ],
)
def test_health_is_what_the_driver_says_of_memory_and_recovery(
    driver: StubState, state: dict[str, int], health: str
) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        driver.set(**state)
        assert (await gpu.tick()).one.state.health == health

    with_sampler(scenario)


# Topology


def test_ways_through_pcie_are_told_with_their_speed(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=2, topology=10, p2p=3, gpu1_max_lanes=8)
        await gpu.tick()
        (path,) = gpu.facts["GPU-00000000"].peers
        assert (path.device_id, path.kind, path.links, path.peer_to_peer) == ("GPU-00000001", "pcie_switch", None, False)
        assert path.bandwidth_bytes_per_second == pytest.approx(8 * 1.969e9)

    with_sampler(scenario)


def test_nvlinks_between_two_cards_are_counted_and_one_that_fails_is_noticed(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=3, gpu0_nvlinks=4, gpu1_nvlinks=4, gpu0_nvlink_to=1, gpu1_nvlink_to=0, gpu0_nvlink_crc=17)
        await gpu.tick()
        direct, other = gpu.facts["GPU-00000000"].peers
        assert (direct.device_id, direct.kind, direct.links) == ("GPU-00000001", "nvlink", 4)
        assert (direct.peer_to_peer, direct.bandwidth_bytes_per_second) == (True, 100e9)
        assert (other.device_id, other.kind, other.links) == ("GPU-00000002", "pcie_switches", None)
        gauges = (await gpu.tick()).samples["GPU-00000000"].gauges
        assert (gauges["nvlink_active_links"], gauges["nvlink_errors"]) == (4, 17)
        driver.set(gpu0_nvlinks_down=1)
        direct, _ = (await gpu.tick()).facts["GPU-00000000"].peers
        assert (direct.links, direct.bandwidth_bytes_per_second) == (3, 75e9)

    with_sampler(scenario)


def test_a_switch_connects_all_cards_and_the_drivers_own_speed_wins(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        for index in range(3):
            driver.set(**{f"gpu{index}_nvlinks": 18, f"gpu{index}_nvlink_speed": 26562})
        driver.set(count=3)
        await gpu.tick()
        for facts in gpu.last.devices:
            assert [(peer.kind, peer.links) for peer in facts.peers] == [("nvlink", 18)] * 2
            assert facts.peers[0].bandwidth_bytes_per_second == pytest.approx(18 * 26562e6)

    with_sampler(scenario)


# MIG


def partition(driver: StubState, **more: str | int) -> None:
    """Make GPU 0 an A100 with slices in places 0 and 2."""
    driver.set(
        **{
            "gpu0_name": "NVIDIA A100-SXM4-80GB",
            "gpu0_total": 80 * GIBIBYTE,
            "gpu0_minor": 0,
            "gpu0_cores": 6912,
            "gpu0_mig": 1,
            "gpu0_mig0_there": 1,
            "gpu0_mig2_there": 1,
            "gpu0_mig0_total": 20 * GIBIBYTE,
            "gpu0_mig2_total": 20 * GIBIBYTE,
            "gpu0_mig2_used": 3 * GIBIBYTE,
        }
        | more
    )


FIRST, SECOND = "MIG-00000000-0", "MIG-00000000-2"


def test_the_slices_of_a_card_are_devices_and_the_card_is_none(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver, count=2)
        await gpu.tick()
        assert set(gpu.samples) == set(gpu.facts) == {FIRST, SECOND, "GPU-00000001"}
        facts = gpu.facts[SECOND]
        assert (facts.parent_device_id, facts.partition, facts.label) == ("GPU-00000000", "2g.20gb", "cuda:0:2")
        assert (facts.memory_total_bytes, facts.architecture) == (20 * GIBIBYTE, "Ampere")
        assert facts.memory_bandwidth_bytes_per_second == pytest.approx(2039e9 / 4)
        assert facts.peak_flops["float16"] == pytest.approx(312e12 * 28 / 108)
        assert facts.sources["peak_flops"] == "formula"
        assert facts.peers == ()
        sample = gpu.samples[SECOND]
        assert (sample.state.memory_used_bytes, sample.state.memory_total_bytes) == (3 * GIBIBYTE, 20 * GIBIBYTE)
        assert (sample.state.thermal_temperature_c, sample.state.power_watts) == (45, 25.5)
        assert sample.state.compute_utilization_percent is None
        assert "MIG" in sample.unknown["compute_utilization_percent"]

    with_sampler(scenario)


def test_a_slice_that_fails_does_not_hide_its_siblings(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver)
        await gpu.tick()
        driver.set(gpu0_mig0_error=999)
        for _ in range(2):
            await gpu.tick()
            assert set(gpu.samples) == set(gpu.facts) == {SECOND}
            assert set(gpu.problems) == {FIRST}
        driver.set(gpu0_mig0_error=0)
        assert set((await gpu.tick()).samples) == {FIRST, SECOND}
        driver.set(gpu0_lost=1)
        assert set((await gpu.tick()).problems) == {FIRST, SECOND}
        driver.set(gpu0_lost=0)
        assert set((await gpu.tick()).samples) == {FIRST, SECOND}

    with_sampler(scenario)


def test_slices_that_are_made_and_destroyed_come_and_go(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver)
        await gpu.tick()
        driver.set(gpu0_mig0_there=0, gpu0_mig0_error=2, gpu0_mig1_there=1)
        await gpu.tick()
        assert set(gpu.samples) == set(gpu.facts) == {"MIG-00000000-1", SECOND}
        assert gpu.problems == {}
        driver.set(gpu0_mig=0)
        assert set((await gpu.tick()).samples) == {"GPU-00000000"}

    with_sampler(scenario)


def test_an_xid_on_a_partitioned_card_is_of_the_slice_that_it_hit_or_of_all(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver)
        await gpu.tick()
        driver.raise_event(43, xid_instance=3)
        await until(lambda: gpu.sampler._news)
        assert [fault.device_id for fault in (await gpu.tick()).faults] == [SECOND]
        driver.raise_event(79, xid_instance=0xFFFFFFFF)
        await until(lambda: gpu.sampler._news)
        assert {fault.device_id for fault in (await gpu.tick()).faults} == {FIRST, SECOND}

    with_sampler(scenario)


# The watchdog


def test_a_driver_that_hangs_is_reported_and_the_event_loop_goes_on(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=2)
        await gpu.tick()
        pid = gpu.pid
        driver.set(gpu0_hang="temp")
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.005)
                turns += 1

        turning = asyncio.create_task(turn())
        await gpu.tick(MUTE)
        turning.cancel()
        assert turns > 3
        assert set(gpu.problems) == {"GPU-00000000", "GPU-00000001"}
        assert "hangs" in gpu.problems["GPU-00000000"]
        # Once it is known to hang, no tick waits for it.
        began = time.monotonic()
        for _ in range(40):
            assert (await gpu.tick(MUTE)).problems
        assert time.monotonic() - began < 40 * MUTE / 2
        driver.set(gpu0_hang=0)

        async def answers() -> bool:
            return bool((await gpu.tick(MUTE)).samples)

        await until(answers)
        assert gpu.pid == pid

    with_sampler(scenario)


def test_a_child_that_hangs_is_told_to_end_and_is_replaced(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        pid = gpu.pid
        driver.set(gpu0_hang=1)
        assert (await gpu.tick(MUTE)).problems

        async def is_ended() -> bool:
            assert (await gpu.tick(MUTE)).problems
            return not is_there(pid)

        await until(is_ended)
        driver.set(gpu0_hang=0)

        async def is_back() -> bool:
            return bool((await gpu.tick(MUTE)).samples)

        await until(is_back)
        assert gpu.pid != pid

    with_sampler(scenario, terminate_seconds=0.3)


def test_a_child_that_nothing_ends_is_not_replaced_until_it_is_gone(
    driver: StubState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process inside a driver's call may wait in the kernel, deaf to every signal: here none is delivered."""
    sent: list[str] = []
    monkeypatch.setattr(Child, "terminate", lambda self: sent.append("SIGTERM"))
    monkeypatch.setattr(Child, "kill", lambda self: sent.append("SIGKILL"))

    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        pid = gpu.pid
        driver.set(gpu0_hang=1)

        async def is_killed() -> bool:
            assert (await gpu.tick(0.01)).problems
            return "SIGKILL" in sent

        await until(is_killed)
        for _ in range(20):
            assert "hangs" in (await gpu.tick(0.01)).problems["GPU-00000000"]
        assert sent == ["SIGTERM", "SIGKILL"]
        assert list(children()) == [pid]
        os.kill(pid, signal.SIGKILL)
        driver.set(gpu0_hang=0)

        async def is_back() -> bool:
            return bool((await gpu.tick(PATIENT)).samples)

        await until(is_back)
        assert gpu.pid != pid

    with_sampler(scenario, terminate_seconds=0.2, kill_seconds=0.1)


def test_a_child_that_is_killed_is_replaced_and_nobody_notices(
    driver: StubState, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        pid = gpu.pid
        os.kill(pid, signal.SIGKILL)
        assert (await gpu.tick()).one.state.thermal_temperature_c == 45
        assert gpu.pid != pid
        assert not is_there(pid)

    with_sampler(scenario)
    assert "ended by signal 9" in caplog.text


def test_a_driver_that_crashes_its_process_again_and_again_is_asked_more_and_more_rarely(
    driver: StubState, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        driver.set(crash=1)

        async def is_lost() -> bool:
            return bool((await gpu.tick(0.5)).problems)

        await until(is_lost)
        assert "signal 11" in gpu.problems["GPU-00000000"]
        driver.set(crash=0)

        async def is_back() -> bool:
            return bool((await gpu.tick(0.5)).samples)

        await until(is_back)

    with_sampler(scenario)
    # 0, 0.25, 0.5, 1, ... seconds apart: hardly more than two or three in half a second.
    assert 1 < caplog.text.count("a new one is started") < 8
    assert "Segmentation fault" in caplog.text


def test_a_driver_that_hangs_when_it_is_loaded_does_not_hold_up_the_start(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(init_hang=1)
        for _ in range(3):
            assert (await gpu.tick(0.05)).last.readings == ()
        driver.set(init_hang=0)

        async def is_found() -> bool:
            return bool((await gpu.tick(PATIENT)).samples)

        await until(is_found)

    with_sampler(scenario)


def test_what_the_driver_prints_is_logged_up_to_a_bound_and_disturbs_nothing(
    driver: StubState, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(stderr=5000, stdout=1)
        await gpu.tick()
        assert gpu.one.state.thermal_temperature_c == 45
        await until(lambda: "dropped" in caplog.text)

    with_sampler(scenario)
    assert 10 < caplog.text.count("noise") <= 20


# The child's life


def test_a_sampler_that_is_closed_leaves_no_child(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> int:
        await gpu.tick()
        return gpu.pid

    assert not is_there(with_sampler(scenario))


def test_even_a_child_that_hangs_ends_with_its_sampler(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> int:
        await gpu.tick()
        driver.set(gpu0_hang=1)
        await gpu.tick(MUTE)
        return gpu.pid

    assert not is_there(with_sampler(scenario))


PARENT = """
import asyncio, sys
from datetime import UTC, datetime
from shardbus_agents.backends.nvml.sampler import NvmlSampler

async def main():
    sampler = NvmlSampler("attic")
    await sampler.sample(datetime.now(UTC), patience_seconds=30)
    print(sampler.child_pid, flush=True)
    while True:
        await sampler.sample(datetime.now(UTC), patience_seconds=0.01)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.mark.parametrize("hanging", [False, True])
def test_no_child_outlives_an_agent_that_is_killed(driver: StubState, hanging: bool) -> None:
    async def scenario() -> None:
        with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert is_there(pid)
            if hanging:
                driver.set(gpu0_hang=1)
                await asyncio.sleep(0.1)
            parent.kill()
        await until(lambda: not is_there(pid))

    asyncio.run(scenario())


def test_a_child_ends_at_sigterm_and_not_at_ctrl_c(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        pid = gpu.pid
        os.kill(pid, signal.SIGINT)
        await gpu.tick()
        assert gpu.pid == pid
        os.kill(pid, signal.SIGTERM)
        await until(lambda: not is_there(pid))

    with_sampler(scenario)


def test_the_child_imports_little_and_takes_sixteen_megabytes_at_most(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> int:
        driver.set(count=8)
        for _ in range(20):
            await gpu.tick()
        status = Path(f"/proc/{gpu.pid}/status").read_text(encoding="ascii")
        maps = Path(f"/proc/{gpu.pid}/maps").read_text(encoding="utf-8")
        assert "pydantic" not in maps
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024

    with_sampler(scenario)  # which compiles what is not compiled yet
    assert with_sampler(scenario) <= 16e6


def _has_driver() -> bool:
    try:
        ctypes.CDLL(SYSTEM_NAME)
    except OSError:
        return False
    return True
