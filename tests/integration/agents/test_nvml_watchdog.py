"""The child process that calls NVML, its watchdog, and its end."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest
from shardbus_agents.backends.nvml.child import Child
from support.nvml_child import children_of, is_there, resident_bytes
from support.nvml_fixtures import PATIENT, Watched, with_sampler
from support.nvml_stub import StubState
from support.waiting import until, until_sync

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub takes the place of Linux' driver library")

MUTE = 0.15
"""Patience with a driver that hangs: it is never answered, so the load of the machine does not matter."""


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
        assert children_of(os.getpid()) == [pid]
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
            assert gpu.sampler.absence == "it hangs while it is opened"
        driver.set(init_hang=0)

        async def is_found() -> bool:
            return bool((await gpu.tick(PATIENT)).samples)

        await until(is_found)

    with_sampler(scenario)


def test_a_child_that_never_opens_the_driver_is_replaced(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(init_hang=1)
        await gpu.tick(0.01)
        pid = gpu.pid

        async def is_ended() -> bool:
            assert (await gpu.tick(0.01)).last.readings == ()
            return not is_there(pid)

        await until(is_ended)

    with_sampler(scenario, opening_seconds=0.3)


def test_an_answer_that_comes_too_late_is_taken_in_all_the_same(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(init_hang=1)
        assert (await gpu.tick(0.05)).last.readings == ()
        driver.set(init_hang=0)
        child = gpu.sampler._child
        assert child is not None
        await until(lambda: child.answer is not None and child.answer.done())
        # What the GPU is was told in that answer alone.
        await gpu.tick()
        assert set(gpu.samples) == set(gpu.facts) == {"GPU-00000000"}

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
        sampled = await sampler.sample(datetime.now(UTC), patience_seconds=0.2)
        if any("hangs" in getattr(reading, "reason", "") for reading in sampled.readings):
            print("hangs", flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.mark.parametrize("hanging", [False, True])
def test_no_child_outlives_an_agent_that_is_killed(driver: StubState, hanging: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_there(pid)
        if hanging:
            driver.set(gpu0_hang=1)
            assert parent.stdout.readline() == "hangs\n"
        parent.kill()
    until_sync(lambda: not is_there(pid))


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


def test_the_child_takes_sixteen_megabytes_at_most(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> int:
        driver.set(count=8)
        for _ in range(20):
            await gpu.tick()
        return resident_bytes(gpu.pid)

    with_sampler(scenario)  # which compiles what is not compiled yet
    assert with_sampler(scenario) <= 16e6
