"""A running node on a bus in memory: what is said when a driver hangs, the bus is away, or refuses."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from shardbus_agents.agent import Agent, Identity
from shardbus_agents.collector import Sampled
from shardbus_agents.node import Node
from shardbus_agents.readings import Pace
from shardbus_infra.bus.port import AppendRejectedError, MessageRefusedError
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined, NodeLeft
from shardbus_schemas.ids import BootId
from support.readings import NODE, facts, state
from support.scripted_devices import Scripted
from support.unreliable_bus import UnreliableBus
from support.waiting import until

QUICK = Pace(sample_interval_seconds=0.01, heartbeat_seconds=0.03, report_seconds=60, smoothing_seconds=0)


class Setting:
    """A node, its devices and its bus."""

    def __init__(self, pace: Pace) -> None:
        self.bus = UnreliableBus()
        self.devices = Scripted()
        self.stop = asyncio.Event()
        agent = Agent(Identity(NODE, BootId("boot")), pace)
        self.node = Node(
            agent,
            (self.devices,),
            self.bus,
            pace=pace,
            now=lambda: datetime.now(UTC),
            leave_patience_seconds=0.2,
        )

    @property
    def pulses(self) -> int:
        return sum(not update.states and not update.heartbeat for update in self.bus.said(TELEMETRY))

    def told(self, **reading: Any) -> bool:
        """Return whether the last readings on the bus are these."""
        told = [update.states[0] for update in self.bus.said(TELEMETRY) if update.states]
        return bool(told) and all(getattr(told[-1], name) == value for name, value in reading.items())


def with_a_node(test: Callable[[Setting], Coroutine[Any, Any, None]], pace: Pace = QUICK) -> None:
    async def scenario() -> None:
        setting = Setting(pace)
        running = asyncio.create_task(setting.node.run(setting.stop))
        await until(setting.told)
        await test(setting)
        setting.stop.set()
        await asyncio.wait_for(running, 5)

    asyncio.run(scenario())


def test_a_driver_that_takes_its_time_does_not_make_the_node_look_dead() -> None:
    async def test(setting: Setting) -> None:
        setting.devices.lets.clear()
        await asyncio.sleep(0)
        before = setting.pulses
        await until(lambda: setting.pulses >= before + 5, what="pulses while the driver does not answer")
        setting.devices.lets.set()

    with_a_node(test)


def test_ticks_are_counted_without_a_gap_over_readings_and_pulses() -> None:
    async def test(setting: Setting) -> None:
        for load in range(3):
            setting.devices.now = Sampled((facts(),), (state(compute_utilization_percent=40.0 * load),))
            await until(lambda load=load: setting.told(compute_utilization_percent=40.0 * load))
            before = setting.pulses
            await until(lambda before=before: setting.pulses > before)

    setting: list[Setting] = []

    async def kept(each: Setting) -> None:
        setting.append(each)
        await test(each)

    with_a_node(kept)
    ticks = [update.tick for update in setting[0].bus.said(TELEMETRY)]
    assert ticks == list(range(len(ticks)))


def test_a_bus_that_refuses_is_asked_again_with_growing_pauses_and_complained_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(setting: Setting) -> None:
        setting.bus.refuse = lambda _: AppendRejectedError("maximum bytes exceeded")
        setting.devices.now = Sampled((facts(),), (state(health="degraded"),))
        asked = setting.bus.attempts
        began = asyncio.get_running_loop().time()
        await until(lambda: setting.bus.attempts >= asked + 3, what="further tries")
        # 0.25 s and 0.5 s lie between the three.
        assert asyncio.get_running_loop().time() - began > 0.7
        setting.bus.refuse = lambda _: None
        await until(lambda: setting.told(health="degraded"), what="what waited")

    with caplog.at_level(logging.WARNING, "shardbus_agents"):
        with_a_node(test)
    assert [record.getMessage() for record in caplog.records] == [
        "agent/attic: the bus refuses what is told, will go on trying: maximum bytes exceeded"
    ]


def test_a_stream_that_is_full_keeps_nobody_from_hearing_that_the_node_is_alive() -> None:
    async def test(setting: Setting) -> None:
        setting.bus.refuse = lambda sent: AppendRejectedError("full") if ".event." in sent.subject else None
        # A fact changes, which is refused; the readings of the device that is known go on.
        setting.devices.now = Sampled((facts(driver="new"),), (state(health="degraded"),))
        await until(lambda: setting.told(health="degraded"))
        before = setting.pulses
        await until(lambda: setting.pulses > before)
        assert len(setting.bus.said(FLEET)) == 2
        setting.bus.refuse = lambda _: None
        await until(lambda: len(setting.bus.said(FLEET)) == 3)

    with_a_node(test)


def test_a_device_that_a_full_stream_cannot_register_is_not_read_of_before_it_is() -> None:
    async def test(setting: Setting) -> None:
        setting.bus.refuse = lambda sent: AppendRejectedError("full") if ".event." in sent.subject else None
        new = state("new", health="ok")
        setting.devices.now = Sampled((facts(), facts("new")), (state(health="degraded"), new))
        await until(lambda: setting.told(health="degraded"))
        setting.bus.refuse = lambda _: None

        def new_is_told() -> bool:
            return any(each.device_id == "new" for update in setting.bus.said(TELEMETRY) for each in update.states)

        assert not new_is_told()
        await until(new_is_told)
        assert setting.bus.said(FLEET)[-1] == DeviceRegistered(node_id=NODE, device=facts("new"))

    with_a_node(test)


def test_a_message_that_is_refused_for_what_it_is_bars_nobodys_way(caplog: pytest.LogCaptureFixture) -> None:
    async def test(setting: Setting) -> None:
        setting.bus.refuse = lambda sent: MessageRefusedError("too large") if b"enormous" in sent.payload else None
        setting.devices.now = Sampled((facts(driver="enormous"), facts("new")), (state(health="degraded"),))
        await until(lambda: setting.told(health="degraded"))
        assert setting.bus.said(FLEET)[-1] == DeviceRegistered(node_id=NODE, device=facts("new"))

    with caplog.at_level(logging.WARNING, "shardbus_agents"):
        with_a_node(test)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("agent/attic: gave up DeviceRegistered attic/boot/event-")
    assert said.endswith(": too large")


def test_a_node_that_stops_says_so_and_one_that_cannot_stops_all_the_same() -> None:
    setting: list[Setting] = []

    async def away(each: Setting) -> None:
        setting.append(each)
        each.bus.away = True

    async def there(each: Setting) -> None:
        setting.append(each)

    with_a_node(away)
    with_a_node(there)
    assert [type(message) for message in setting[0].bus.said(FLEET)] == [NodeJoined, DeviceRegistered]
    assert [type(message) for message in setting[1].bus.said(FLEET)] == [NodeJoined, DeviceRegistered, NodeLeft]
    assert all(isinstance(message, DeviceGPUStateUpdated) for message in setting[1].bus.said(TELEMETRY))
