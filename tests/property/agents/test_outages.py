"""A bus that comes and goes and refuses: what it holds in the end is what happened, and what is."""

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_agents.agent import Agent, Announcement, Identity
from shardbus_agents.change_detection import Thresholds
from shardbus_agents.outbox import Outbox
from shardbus_agents.readings import Pace
from shardbus_eventstore.fold import fold
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import AppendRejectedError, AppendTimeoutError, BusError, Outgoing
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import DeviceFaulted, DeviceGPUStateUpdated
from shardbus_schemas.ids import BootId, DeviceId, DeviceKey
from support.device_lives import DEVICES, Tick, lives, thresholds
from support.reader import Reader
from support.readings import NODE, START, after
from support.unreliable_bus import UnreliableBus

WEATHER = ("fine", "fine", "away", "deaf", "no events", "no telemetry", "silent events")
"""``deaf``: what is said is stored, and its acknowledgement lost. ``no`` is refused, ``silent`` is not answered."""


class Net:
    """A node's way to the bus, through all weathers."""

    def __init__(self) -> None:
        self.bus = UnreliableBus()
        self.outbox = Outbox("agent/attic")
        self.said: list[Announcement] = []

    def say(self, announcements: Sequence[Announcement]) -> None:
        for announcement in announcements:
            self.outbox.add(announcement)
            if not isinstance(announcement.message, DeviceGPUStateUpdated):
                self.said.append(announcement)

    async def flush(self, weather: str) -> None:
        def refuse(message: Outgoing) -> BusError | None:
            if weather == "silent events" and ".event." in message.subject:
                return AppendTimeoutError("no answer")
            kind = {"no events": ".event.", "no telemetry": ".telemetry."}.get(weather, "nothing")
            return AppendRejectedError("the disk is full") if kind in message.subject else None

        self.bus.away, self.bus.refuse = weather == "away", refuse
        self.bus.lose_acknowledgements = 1 if weather == "deaf" else 0
        try:
            await self.outbox.flush(self.bus)
        except BusError:
            assert weather != "fine"


def state_of(bus: UnreliableBus) -> FleetState:
    state = FleetState()
    for stream in (FLEET, TELEMETRY):
        state = fold(state, [receive(stored) for stored in bus.server.log(stream).messages])
    return state


@given(
    ticks=lives(longest=25),
    bounds=thresholds,
    weathers=st.lists(st.sampled_from(WEATHER), min_size=25, max_size=25),
    faults=st.lists(st.none() | st.sampled_from(DEVICES), min_size=25, max_size=25),
)
@settings(deadline=None)
def test_after_any_weather_the_bus_has_every_event_in_order_and_of_readings_the_latest(
    ticks: list[Tick], bounds: Thresholds, weathers: list[str], faults: list[str | None]
) -> None:
    async def scenario() -> None:
        pace = Pace(thresholds=bounds, smoothing_seconds=0)
        net, agent = Net(), Agent(Identity(node_id=NODE, boot_id=BootId("boot")), pace)
        net.say([agent.join(START)])
        for tick, weather, broken in zip(ticks, weathers, faults, strict=False):
            net.say(agent.observe(tick.snapshot, after(tick.uptime_seconds), tick.uptime_seconds))
            if broken is not None:
                at = after(tick.uptime_seconds)
                fault = DeviceFaulted(
                    node_id=NODE, device_id=DeviceId(broken), kind="xid", code=31, message="XID 31", occurred_at=at
                )
                net.say([agent.announce(fault, at)])
            await net.flush(weather)
            # Whatever the weather, no more waits than the events so far and one message of readings.
            assert len(net.outbox) <= len(net.said) + 1
            held = state_of(net.bus)
            assert set(held.device_states) <= set(held.devices), "readings of a device that nobody has heard of"
        await net.flush("fine")
        # What was held back until its device was registered goes with the next word, which a heartbeat brings.
        last = ticks[-1].uptime_seconds + pace.heartbeat_seconds
        pulse = agent.pulse(after(last), last)
        assert pulse is not None
        net.say([pulse])
        await net.flush("fine")
        assert net.outbox.is_empty

        stored = [receive(message) for message in net.bus.server.log(FLEET).messages]
        assert [(each.envelope.event_id, each.envelope.occurred_at, each.message) for each in stored] == [
            (each.event_id, each.occurred_at, each.message) for each in net.said
        ]
        reader = Reader()
        reader.bounds = bounds.error_bounds
        held = state_of(net.bus)
        snapshot = ticks[-1].snapshot
        for name, sample in snapshot.states.items():
            reader.devices[name] = held.devices[DeviceKey.of(NODE, name)].facts
            reader.believed[name] = held.device_states[DeviceKey.of(NODE, name)].reading
            reader.assert_knows(sample)

    asyncio.run(scenario())
