"""What a whole agent says of its NVIDIA GPUs on a real NATS server, while the driver's state changes under it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from shardbus_agents import process
from shardbus_agents.settings import AgentSettings
from shardbus_infra.bus import nats
from shardbus_infra.bus.port import Bus, BusError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import DeviceFaulted, DeviceGPUStateUpdated, DeviceLost, DeviceRegistered
from shardbus_schemas.registry import Received
from support.nvml_child import children_of
from support.nvml_stub import StubState
from support.waiting import until

pytestmark = [
    pytest.mark.connected,
    pytest.mark.skipif(sys.platform != "linux", reason="the stub takes the place of Linux' driver library"),
]

MessageT = TypeVar("MessageT")
GPU = "GPU-00000000"


class OnTheBus:
    """What is stored on the server."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def all(self, stream: str, kind: type[MessageT]) -> Sequence[Received[MessageT]]:
        last = (await self._bus.info(stream)).last_sequence
        stored = [await self._bus.get(stream, sequence) for sequence in range(1, last + 1)]
        received: list[Received[Any]] = [receive(message) for message in stored if message is not None]
        return [each for each in received if isinstance(each.message, kind)]

    async def first(self, stream: str, kind: type[MessageT], *, within: float = 20, **what: Any) -> Received[MessageT]:
        """Wait for a message of that kind whose fields are ``what``."""
        found: list[Received[MessageT]] = []

        async def is_there() -> bool:
            with contextlib.suppress(BusError):
                found[:] = [
                    each
                    for each in await self.all(stream, kind)
                    if all(getattr(each.message, name) == value for name, value in what.items())
                ]
            return bool(found)

        await until(is_there, within=within, what=f"{kind.__name__} with {what}")
        return found[0]


@contextlib.asynccontextmanager
async def agent(nats_url: str, **settings: Any) -> AsyncIterator[OnTheBus]:
    """Run an agent that looks at NVIDIA GPUs alone."""
    bus = await nats.connect(nats_url, name="test agent")
    await reconcile(bus)
    stop = asyncio.Event()
    told: dict[str, Any] = {"node_id": "attic", "backends": ("nvml",)}
    running = asyncio.create_task(process.run(bus, AgentSettings(**told | settings), stop))
    try:
        yield OnTheBus(bus)
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)
        await bus.close()


QUICK = {
    "sample_interval_seconds": 0.1,
    "heartbeat_seconds": 0.5,
    "report_seconds": 1.0,
    "smoothing_seconds": 0.0,
    "driver_patience_seconds": 1.0,
}


def test_heat_faults_losses_and_returns_are_told(nats_url: str, driver: StubState) -> None:
    async def scenario() -> None:
        driver.set(count=2)
        async with agent(nats_url, **QUICK) as on_bus:
            registered = await on_bus.first(FLEET, DeviceRegistered)
            assert registered.message.device.device_id == GPU
            assert registered.message.device.peers[0].device_id == "GPU-00000001"
            driver.set(gpu0_reasons=0x40, gpu0_temp=97)

            async def is_throttling() -> bool:
                updates = await on_bus.all(TELEMETRY, DeviceGPUStateUpdated)
                states = [state for update in updates for state in update.message.states if state.device_id == GPU]
                return any(state.is_thermal_throttling and state.thermal_temperature_c == 97 for state in states)

            await until(is_throttling)
            driver.raise_event(79)
            faulted = await on_bus.first(FLEET, DeviceFaulted)
            assert (faulted.message.device_id, faulted.message.code) == (GPU, 79)
            assert faulted.message.is_critical
            driver.set(gpu0_lost=1)
            lost = await on_bus.first(FLEET, DeviceLost)
            assert lost.message.device_id == GPU
            assert "GPU is lost" in lost.message.reason
            driver.set(gpu0_lost=0)

            async def is_back() -> bool:
                registrations = await on_bus.all(FLEET, DeviceRegistered)
                return sum(each.message.device.device_id == GPU for each in registrations) == 2

            await until(is_back)
            # Once each, whatever the number of ticks; and the other GPU was never in doubt.
            assert len(await on_bus.all(FLEET, DeviceFaulted)) == 1
            assert [each.message.device_id for each in await on_bus.all(FLEET, DeviceLost)] == [GPU]
            told = [each.message.device.device_id for each in await on_bus.all(FLEET, DeviceRegistered)]
            assert sorted(told) == [GPU, GPU, "GPU-00000001"]
        assert children_of(os.getpid()) == []

    asyncio.run(scenario())


def test_a_hang_is_told_as_a_loss_while_the_node_goes_on_reporting(nats_url: str, driver: StubState) -> None:
    async def scenario() -> None:
        async with agent(nats_url, **QUICK, backends=("nvml", "psutil")) as on_bus:
            await on_bus.first(FLEET, DeviceRegistered)
            driver.set(gpu0_hang="memory")
            lost = await on_bus.first(FLEET, DeviceLost)
            assert (lost.message.device_id, "hangs" in lost.message.reason) == (GPU, True)
            heard = len(await on_bus.all(TELEMETRY, DeviceGPUStateUpdated))

            async def cpu_is_reported() -> bool:
                updates = (await on_bus.all(TELEMETRY, DeviceGPUStateUpdated))[heard:]
                return len(updates) >= 2 and {s.device_id for update in updates for s in update.message.states} == {
                    "cpu"
                }

            await until(cpu_is_reported)
            driver.set(gpu0_hang=0)

            async def is_back() -> bool:
                registrations = await on_bus.all(FLEET, DeviceRegistered)
                return sum(each.message.device.device_id == GPU for each in registrations) == 2

            await until(is_back)

    asyncio.run(scenario())


def test_a_child_that_is_killed_costs_no_device(nats_url: str, driver: StubState) -> None:
    async def scenario() -> None:
        # Patience for a slow machine: the new child must answer before it ends.
        async with agent(nats_url, **QUICK | {"driver_patience_seconds": 20}) as on_bus:
            await on_bus.first(FLEET, DeviceRegistered)
            (pid,) = children_of(os.getpid())
            os.kill(pid, signal.SIGKILL)
            driver.set(gpu0_temp=71)

            async def is_told() -> bool:
                updates = await on_bus.all(TELEMETRY, DeviceGPUStateUpdated)
                return any(s.thermal_temperature_c == 71 for update in updates for s in update.message.states)

            await until(is_told)
            assert await on_bus.all(FLEET, DeviceLost) == []

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "within_seconds"), [({"gpu0_lost": 1}, 4), ({"gpu0_hang": "temp"}, 6)], ids=["lost", "hung"]
)
def test_at_the_default_pace_a_loss_is_on_the_bus_in_the_promised_time(
    nats_url: str, driver: StubState, state: dict[str, Any], within_seconds: float
) -> None:
    async def scenario() -> None:
        async with agent(nats_url) as on_bus:
            await on_bus.first(FLEET, DeviceRegistered)
            await on_bus.first(TELEMETRY, DeviceGPUStateUpdated)
            # The worst moment is right after a sample.
            happened_at = datetime.now(UTC)
            driver.set(**state)
            lost = await on_bus.first(FLEET, DeviceLost, within=30)
            assert lost.recorded_at - happened_at <= timedelta(seconds=within_seconds)

    asyncio.run(scenario())


@pytest.mark.slow
def test_at_the_default_pace_an_xid_is_on_the_bus_at_the_next_tick(nats_url: str, driver: StubState) -> None:
    async def scenario() -> None:
        async with agent(nats_url) as on_bus:
            await on_bus.first(FLEET, DeviceRegistered)
            happened_at = datetime.now(UTC)
            driver.raise_event(48)
            faulted = await on_bus.first(FLEET, DeviceFaulted)
            # It was noticed at once, and told with that time.
            assert abs(faulted.message.occurred_at - happened_at) < timedelta(seconds=2)
            assert faulted.recorded_at - happened_at <= timedelta(seconds=4)

    asyncio.run(scenario())
