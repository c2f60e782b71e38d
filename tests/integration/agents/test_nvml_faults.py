"""Errors that the NVIDIA driver tells of: XIDs, memory errors, health."""

import os
import signal
import sys

import pytest
from support.nvml_fixtures import Watched, with_sampler
from support.nvml_stub import StubState
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub takes the place of Linux' driver library")

MUTE = 0.15
"""Patience with a driver that hangs: it is never answered, so the load of the machine does not matter."""


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
        (fault,) = gpu.faults
        assert (fault.device_id, fault.code, fault.is_critical) == ("GPU-00000000", 31, False)
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
