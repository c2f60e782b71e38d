"""What NVIDIA GPUs are and do, through a compiled driver library, pynvml and the child process."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from shardbus_agents.backends.nvml.child import driver_command
from shardbus_schemas.telemetry import DeviceGPUState
from support.nvml_child import is_there
from support.nvml_fixtures import GIBIBYTE, UseDriver, Watched, with_sampler
from support.nvml_stub import StubState
from support.readings import NODE, START
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub takes the place of Linux' driver library")


def test_a_healthy_gpu_tells_what_it_is_and_does(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(gpu0_reserved=2**29)
        await gpu.tick()
        assert (gpu.sampler.name, gpu.sampler.absence) == ("nvml", None)
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
