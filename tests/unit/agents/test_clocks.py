"""Clocks that jump: the uptime decides when something is told, the bus's clock what is fresh, the node's is shown."""

import asyncio
from datetime import datetime, timedelta

import pytest
from shardbus_agents.agent import Agent, Identity
from shardbus_agents.outbox import Outbox
from shardbus_agents.readings import Pace
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.intake import Taken, take
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.memory import MemoryBus, MemoryServer
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.ids import BootId
from support.readings import NODE, START, after, snapshot, state

HOUR = 3600.0
PACE = Pace(smoothing_seconds=0)


class World:
    """A node whose clock is wrong, a bus whose clock is right, and what is made of both."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.off = 0.0
        """How far the node's clock is ahead."""
        self.server = MemoryServer(now=lambda: after(self.seconds))
        self.agent = Agent(Identity(NODE, BootId("boot")), PACE)
        self.outbox = Outbox(self.agent.identity.source)
        self.outbox.add(self.agent.join(START))

    def go_on(self, seconds: float, load: float) -> None:
        """Let so much time pass, a tick every two seconds."""
        for _ in range(round(seconds / 2)):
            self.seconds += 2
            wrong = after(self.seconds + self.off)
            reading = state(compute_utilization_percent=load, last_update=wrong)
            for announcement in self.agent.observe(snapshot(reading), wrong, self.seconds):
                self.outbox.add(announcement)
            if (pulse := self.agent.pulse(wrong, self.seconds)) is not None:
                self.outbox.add(pulse)
            asyncio.run(self.outbox.flush(MemoryBus(server=self.server)))

    def taken(self) -> Taken:
        fleet = take(FleetState(), self.server.log(FLEET).messages)
        return take(fleet.state, self.server.log(TELEMETRY).messages)

    @property
    def now(self) -> datetime:
        return after(self.seconds)

    @property
    def device(self) -> FleetDevice:
        return fleet_of(self.taken().state, self.now).nodes[0].devices[0]


@pytest.mark.parametrize("off", [-24 * HOUR, -1 * HOUR, -5, 5, 55])
def test_a_clock_that_is_late_or_little_early_changes_nothing_but_the_times_shown(off: float) -> None:
    world = World()
    world.go_on(20, load=10)
    world.off = off
    world.go_on(20, load=50)
    device = world.device
    assert (device.status, device.compute_utilization_percent) == ("ok", 50)
    assert device.last_update is not None
    assert abs(device.last_update - world.now - timedelta(seconds=off)) < timedelta(seconds=PACE.report_seconds)
    assert world.taken().examined.rejected == ()


@pytest.mark.parametrize("off", [2 * HOUR, 24 * 365 * HOUR])
def test_a_clock_far_ahead_is_refused_and_said_and_as_soon_as_it_is_right_all_is_known_again(off: float) -> None:
    world = World()
    world.go_on(20, load=10)
    world.off = off
    # What the agent tells now is refused; it believes that it told it.
    world.go_on(20, load=50)
    refused = world.taken().examined.rejected
    assert refused
    assert {each.code for each in refused} == {"time_in_future"}
    assert "set the node's clock" in refused[0].reason
    assert (world.device.status, world.device.compute_utilization_percent) == ("stale", 10)
    world.off = 0
    world.go_on(2, load=50)
    assert (world.device.status, world.device.compute_utilization_percent) == ("ok", 50)


def test_hours_that_are_set_and_set_back_bring_no_more_than_a_report_each() -> None:
    world = World()
    for hours in range(10):
        world.off = -HOUR * (hours % 2)
        world.go_on(20, load=10)
    messages = [stored for stored in world.server.log(TELEMETRY).messages if b'"states":[{' in stored.payload]
    # Ten settings, the first of which is none, and three reports that were due anyway at the most.
    assert 10 <= len(messages) <= 13
