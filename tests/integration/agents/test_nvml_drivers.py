"""NVIDIA drivers that are not there, come, go, and are reloaded."""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from support.nvml_child import children_of
from support.nvml_fixtures import PATIENT, Watched, with_sampler
from support.nvml_stub import SYSTEM_NAME, StubState
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub takes the place of Linux' driver library")


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
        assert children_of(os.getpid()) == []

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
        assert "no NVIDIA driver is installed" in (gpu.sampler.absence or "")
        assert children_of(os.getpid()) == []

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


def _has_driver() -> bool:
    try:
        ctypes.CDLL(SYSTEM_NAME)
    except OSError:
        return False
    return True
