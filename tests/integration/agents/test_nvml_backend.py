"""The NVML backend on a compiled driver library: pynvml's own binding is part of what is tested."""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pynvml
import pytest
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.nvml import NvmlBackend
from shardbus_agents.backends.protocol import BackendUnavailableError, DeviceProblem
from shardbus_agents.sampler import ThreadedSampler
from shardbus_schemas.telemetry import DeviceGPUState
from support.nvml_stub import SYSTEM_NAME, StubState, build_stub
from support.readings import NODE, START, after
from support.waiting import until

GIBIBYTE = 2**30
HOST = HostMemory(total_bytes=128 * GIBIBYTE, available_bytes=100 * GIBIBYTE)
Open = Callable[..., NvmlBackend]


@pytest.fixture(scope="session")
def stub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubState:
    """The state of the driver; what a test leaves behind in it, no other test sees."""
    state = StubState(tmp_path / "state")
    monkeypatch.setenv("NVML_STUB_STATE", str(state.path))
    return state


@pytest.fixture
def open_backend(monkeypatch: pytest.MonkeyPatch, stub_folder: Path, driver: StubState) -> Iterator[Open]:
    """Open the backend on the stub in place of the driver; ``defines`` choose what kind of driver it is."""
    opened: list[NvmlBackend] = []

    def use(*defines: str) -> NvmlBackend:
        folder = stub_folder / "-".join(("stub", *defines))
        # Each kind of driver has a name of its own: the loader gives whoever asks for a known name the first of it.
        name = f"lib{folder.name}.so"
        library = folder / name if (folder / name).exists() else build_stub(folder, *defines, name=name)
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
        # pynvml remembers the functions of the library that it saw first.
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        opened.append(NvmlBackend(NODE, memory=lambda: HOST))
        return opened[-1]

    yield use
    for backend in opened:
        backend.close()


def one(backend: NvmlBackend) -> DeviceGPUState:
    (reading,) = backend.sample(START)
    assert isinstance(reading, DeviceGPUState)
    return reading


def test_a_healthy_gpu_tells_what_it_is_and_does(open_backend: Open) -> None:
    backend = open_backend()
    assert one(backend) == DeviceGPUState(
        device_id="GPU-00000000",
        node_id=NODE,
        memory_used_bytes=GIBIBYTE,
        memory_total_bytes=24 * GIBIBYTE,
        compute_utilization_percent=7,
        thermal_temperature_c=45,
        thermal_throttle_threshold_c=95,
        is_thermal_throttling=False,
        last_update=START,
    )
    (facts,) = backend.devices()
    assert (facts.uuid, facts.label, facts.name) == ("GPU-00000000", "cuda:0", "NVIDIA GeForce RTX 3090")
    assert (facts.backend, facts.vendor, facts.architecture) == ("cuda", "nvidia", "Ampere")
    assert (facts.memory_total_bytes, facts.unified_memory) == (24 * GIBIBYTE, False)
    assert (facts.driver, facts.reported_by) == ("580.65.06", "nvml")
    assert facts.memory_bandwidth_bytes_per_second == pytest.approx(936e9)
    assert facts.sources["memory_bandwidth_bytes_per_second"] == "table"
    assert facts.peak_flops["float16"] > 0


def test_the_bandwidth_of_a_card_that_no_table_knows_is_the_formulas(open_backend: Open, driver: StubState) -> None:
    driver.set(gpu0_name="NVIDIA Prototype 9")
    (facts,) = open_backend().devices()
    assert facts.memory_bandwidth_bytes_per_second == pytest.approx(2 * 384 / 8 * 9751e6)
    assert facts.sources["memory_bandwidth_bytes_per_second"] == "formula"
    assert facts.peak_flops == {}


@pytest.mark.parametrize(
    ("reasons", "throttling"),
    [(0x0, False), (0x1, False), (0x4, False), (0x8, False), (0x20, True), (0x40, True), (0x64, True), (0x80, False)],
)
def test_only_heat_is_thermal_throttling(open_backend: Open, driver: StubState, reasons: int, throttling: bool) -> None:
    driver.set(gpu0_reasons=reasons)
    assert one(open_backend()).is_thermal_throttling is throttling


def test_a_lost_gpu_is_a_problem_and_its_neighbour_goes_on(open_backend: Open, driver: StubState) -> None:
    driver.set(count=2)
    backend = open_backend()
    assert [type(reading) for reading in backend.sample(START)] == [DeviceGPUState, DeviceGPUState]
    driver.set(gpu0_lost=1)
    for second in (2, 4):
        well, problem = backend.sample(after(second))
        assert well.device_id == "GPU-00000001"
        assert problem == DeviceProblem("GPU-00000000", "the NVIDIA driver says: GPU is lost")
        assert [facts.device_id for facts in backend.devices()] == ["GPU-00000001"]
    driver.set(gpu0_lost=0)
    assert {reading.device_id for reading in backend.sample(after(6))} == {"GPU-00000000", "GPU-00000001"}
    assert [facts.device_id for facts in backend.devices()] == ["GPU-00000000", "GPU-00000001"]


def test_a_gpu_lost_before_it_said_its_uuid_is_reported_by_its_place(open_backend: Open, driver: StubState) -> None:
    driver.set(count=2, gpu1_lost=1)
    well, problem = open_backend().sample(START)
    assert isinstance(well, DeviceGPUState)
    assert problem == DeviceProblem("cuda:1", "the NVIDIA driver says: GPU is lost")


def test_a_gpu_that_is_taken_away_is_not_reported_any_more(open_backend: Open, driver: StubState) -> None:
    driver.set(count=2)
    backend = open_backend()
    assert len(backend.sample(START)) == 2
    driver.set(count=1)
    assert [reading.device_id for reading in backend.sample(after(2))] == ["GPU-00000000"]
    assert [facts.device_id for facts in backend.devices()] == ["GPU-00000000"]


def test_an_integrated_gpu_has_the_hosts_memory(open_backend: Open, driver: StubState) -> None:
    driver.set(gpu0_name="NVIDIA GB10", gpu0_unified=1)
    backend = open_backend()
    reading = one(backend)
    assert (reading.memory_used_bytes, reading.memory_total_bytes) == (28 * GIBIBYTE, 128 * GIBIBYTE)
    assert backend.devices()[0].unified_memory is True


def test_a_card_that_cannot_say_its_memory_is_not_taken_for_an_integrated_one(
    open_backend: Open, driver: StubState
) -> None:
    driver.set(gpu0_unified=1)
    backend = open_backend()
    reading = one(backend)
    assert (reading.memory_used_bytes, reading.memory_total_bytes) == (None, None)
    assert reading.compute_utilization_percent == 7
    assert backend.devices()[0].unified_memory is not True


def test_an_integrated_gpu_that_fails_is_not_given_the_hosts_memory(open_backend: Open, driver: StubState) -> None:
    driver.set(gpu0_name="NVIDIA GB10", gpu0_unified=1)
    backend = open_backend()
    driver.set(gpu0_unified=0, gpu0_error=999)
    (problem,) = backend.sample(after(2))
    assert isinstance(problem, DeviceProblem)
    assert "restart the container" in problem.reason


def test_what_the_hardware_does_not_offer_is_unknown(open_backend: Open, driver: StubState) -> None:
    driver.set(gpu0_no_util=1, gpu0_no_temp=1)
    reading = one(open_backend())
    assert (reading.compute_utilization_percent, reading.thermal_temperature_c) == (None, None)
    assert reading.memory_used_bytes == GIBIBYTE


def test_an_older_driver_calls_the_reasons_by_their_older_name(open_backend: Open, driver: StubState) -> None:
    driver.set(gpu0_reasons=0x40)
    assert one(open_backend("OLD_DRIVER")).is_thermal_throttling is True


def test_a_symbol_that_is_missing_is_looked_for_once(open_backend: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend("OLD_DRIVER", "NO_THRESHOLD")
    assert one(backend).thermal_throttle_threshold_c is None
    asked: list[str] = []
    find = pynvml._nvmlGetFunctionPointer

    def noting(name: str) -> object:
        asked.append(name)
        return find(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", noting)
    backend.sample(after(2))
    assert "nvmlDeviceGetCurrentClocksThrottleReasons" in asked
    assert "nvmlDeviceGetCurrentClocksEventReasons" not in asked
    assert "nvmlDeviceGetTemperatureThreshold" not in asked


def test_nothing_slow_or_private_is_asked_at_each_tick(open_backend: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend()
    asked: list[str] = []
    find = pynvml._nvmlGetFunctionPointer
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", lambda name: asked.append(name) or find(name))
    backend.sample(START)
    assert sorted(asked) == [
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetUtilizationRates",
    ]


@pytest.mark.parametrize(
    ("code", "advice"), [(9, "modprobe nvidia"), (18, "reboot this host"), (999, "restart the container")]
)
def test_a_driver_that_cannot_be_used_says_what_to_do(
    open_backend: Open, driver: StubState, code: int, advice: str
) -> None:
    driver.set(init=code)
    with pytest.raises(BackendUnavailableError, match=advice):
        open_backend()


def test_a_driver_without_any_gpu_waits_for_one(open_backend: Open, driver: StubState) -> None:
    driver.set(count=0)
    backend = open_backend()
    assert (backend.sample(START), backend.devices()) == ((), ())
    driver.set(count=1)
    assert one(backend).device_id == "GPU-00000000"


def test_a_driver_that_hangs_does_not_stop_the_event_loop(open_backend: Open, driver: StubState) -> None:
    async def scenario() -> None:
        sampler = ThreadedSampler("nvml", open_backend)
        (well,) = (await sampler.sample(START, patience_seconds=5)).readings
        assert isinstance(well, DeviceGPUState)
        driver.set(gpu0_hang=1)
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.005)
                turns += 1

        turning = asyncio.create_task(turn())
        (problem,) = (await sampler.sample(after(2), patience_seconds=0.2)).readings
        turning.cancel()
        with suppress(asyncio.CancelledError):
            await turning
        assert isinstance(problem, DeviceProblem)
        assert "hangs" in problem.reason
        assert turns > 10
        driver.set(gpu0_hang=0)
        await until(lambda: sampler._answer is not None and sampler._answer.done())
        (again,) = (await sampler.sample(after(4), patience_seconds=5)).readings
        assert isinstance(again, DeviceGPUState)
        await sampler.close(patience_seconds=5)

    asyncio.run(scenario())


AGENT = """
import asyncio, json, os, pathlib
from shardbus_agents.process import run
from shardbus_agents.settings import AgentSettings
from shardbus_infra.bus.memory import MemoryBus

state = pathlib.Path(os.environ["NVML_STUB_STATE"])

async def until(found):
    async with asyncio.timeout(20):
        while not any(found(*event) for event in said()):
            await asyncio.sleep(0.01)

def said():
    stored = [*bus.server.log("FLEET").messages, *bus.server.log("TELEMETRY").messages]
    return [[message.headers["ce-type"], json.loads(message.payload)] for message in stored]

async def main():
    stop = asyncio.Event()
    agent = asyncio.create_task(run(bus, AgentSettings(node_id="attic", sample_interval_seconds=0.05), stop))
    await until(lambda kind, data: "GPU-0" in str(data) and kind == "DeviceRegistered")
    state.write_text("0.reasons 64")
    await until(lambda kind, data: any(each.get("is_thermal_throttling") for each in data.get("states", ())))
    state.write_text("0.lost 1")
    await until(lambda kind, data: kind == "DeviceLost")
    stop.set()
    await agent
    print(json.dumps(said()))

bus = MemoryBus()
asyncio.run(main())
"""


def test_a_whole_agent_finds_the_gpu_through_the_systems_library(stub_folder: Path, driver: StubState) -> None:
    library = build_stub(stub_folder / "system", name=SYSTEM_NAME)
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent), "NVML_STUB_STATE": str(driver.path)}
    finished = subprocess.run(
        [sys.executable, "-c", AGENT], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    events = json.loads(finished.stdout)
    registered = {data["device"]["device_id"]: data["device"] for kind, data in events if kind == "DeviceRegistered"}
    assert registered["GPU-00000000"]["reported_by"] == "nvml"
    assert registered["cpu"]["reported_by"].startswith("psutil")
    lost = [data for kind, data in events if kind == "DeviceLost"]
    assert [data["device_id"] for data in lost] == ["GPU-00000000"]
