import asyncio
from typing import Any

import pytest
from shardbus_agents.agent import Agent, Announcement, Identity
from shardbus_agents.outbox import Outbox
from shardbus_agents.readings import Pace
from shardbus_infra.bus.port import AppendTimeoutError, BusUnreachableError, Outgoing
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    GPUBandwidthMeasured,
    NodeJoined,
    NodeLeft,
    ShardReported,
)
from shardbus_schemas.ids import BootId, DeviceId, InstanceId, NodeId
from support.readings import NODE, START, after, facts, snapshot, state
from support.unreliable_bus import UnreliableBus

BOOT = BootId("boot-1")
JOINED = Announcement(NodeJoined(node_id=NODE, boot_id=BOOT, heartbeat_seconds=10), "e-joined", START)
LEFT = Announcement(NodeLeft(node_id=NODE, boot_id=BOOT), "e-left", after(99))


def registered(device_id: str, event_id: str = "") -> Announcement:
    message = DeviceRegistered(node_id=NODE, device=facts(device_id))
    return Announcement(message, event_id or f"e-registered-{device_id}", START)


def lost(device_id: str, event_id: str = "") -> Announcement:
    message = DeviceLost(node_id=NODE, device_id=device_id, reason="gone")
    return Announcement(message, event_id or f"e-lost-{device_id}", START)


def readings(tick: int, *states: Any, heartbeat: bool = False) -> Announcement:
    message = DeviceGPUStateUpdated(node_id=NODE, boot_id=BOOT, tick=tick, heartbeat=heartbeat, states=states)
    return Announcement(message, f"e-{tick}", after(2 * tick))


def link(to_node: str, rate: float) -> Announcement:
    message = GPUBandwidthMeasured(
        **{"from": NODE, "to": NodeId(to_node)},
        bandwidth_bytes_per_second=rate,
        latency_seconds=0,
        measured_at=START,
    )
    return Announcement(message, f"e-link-{to_node}-{rate}", START)


def faulted(device_id: str, code: int, event_id: str) -> Announcement:
    message = DeviceFaulted(
        node_id=NODE, device_id=device_id, kind="xid", code=code, message="it failed", occurred_at=START
    )
    return Announcement(message, event_id, START)


def shard(instance_id: str, state: Any, event_id: str) -> Announcement:
    message = ShardReported(
        instance_id=InstanceId(instance_id),
        node_id=NODE,
        device_id=DeviceId("cuda-1"),
        state=state,
        occurred_at=START,
    )
    return Announcement(message, event_id, START)


def outbox(*announcements: Announcement, capacity: int = 100) -> Outbox:
    box = Outbox("agent/attic", capacity=capacity)
    for announcement in announcements:
        box.add(announcement)
    return box


def test_lifecycle_is_acknowledged_before_any_reading_goes_out() -> None:
    order: list[str] = []
    bus = UnreliableBus()
    bus.before_append = lambda message: order.append(message.subject.split(".")[2])
    box = outbox(readings(0, state("a")), link("desk", 1), JOINED, registered("a"))
    asyncio.run(box.flush(bus))
    assert order == ["event", "event", "telemetry", "link"]
    assert box.is_empty


def test_what_the_bus_does_not_take_stays_and_keeps_its_order_and_its_time() -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        bus.away = True
        box = outbox(JOINED, registered("a"), lost("a"), registered("a", "e-again"))
        with pytest.raises(BusUnreachableError):
            await box.flush(bus)
        assert len(box) == 4
        bus.away = False
        await box.flush(bus)
        stored = [receive(message) for message in bus.server.log(FLEET).messages]
        assert [each.envelope.event_id for each in stored] == ["e-joined", "e-registered-a", "e-lost-a", "e-again"]
        assert {each.envelope.occurred_at for each in stored} == {START}
        assert {each.envelope.source for each in stored} == {"agent/attic"}

    asyncio.run(scenario())


def test_a_lost_acknowledgement_doubles_no_lifecycle_event() -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        bus.lose_acknowledgements = 1
        box = outbox(JOINED, registered("a"))
        with pytest.raises(AppendTimeoutError):
            await box.flush(bus)
        await box.flush(bus)
        assert [type(message) for message in bus.said(FLEET)] == [NodeJoined, DeviceRegistered]

    asyncio.run(scenario())


def test_of_readings_that_wait_each_devices_latest_is_sent_in_one_message() -> None:
    bus = UnreliableBus()
    box = outbox(
        readings(0, state("a", compute_utilization_percent=1), state("b"), heartbeat=True),
        readings(1, state("a", compute_utilization_percent=50)),
        readings(2, state("c")),
    )
    assert len(box) == 1
    asyncio.run(box.flush(bus))
    assert bus.said(TELEMETRY) == [
        DeviceGPUStateUpdated(
            node_id=NODE,
            boot_id=BOOT,
            tick=2,
            heartbeat=True,
            states=(state("a", compute_utilization_percent=50), state("b"), state("c")),
        )
    ]


def test_readings_that_come_while_others_are_on_their_way_are_sent_too() -> None:
    bus = UnreliableBus()
    box = outbox(readings(0, state("a")))
    newer = [readings(1, state("a", compute_utilization_percent=80))]

    def meanwhile(_: Outgoing) -> None:
        if newer:
            box.add(newer.pop())

    bus.before_append = meanwhile
    asyncio.run(box.flush(bus))
    assert [message.tick for message in bus.said(TELEMETRY)] == [0, 1]
    assert box.is_empty


def test_a_device_registered_while_readings_go_out_is_stored_before_its_own_readings() -> None:
    order: list[str] = []
    box = outbox(readings(0, state("a")))
    later = [registered("b"), readings(1, state("b"))]
    bus = UnreliableBus()

    def meanwhile(message: Outgoing) -> None:
        order.append(message.headers["ce-id"])
        while later:
            box.add(later.pop(0))

    bus.before_append = meanwhile
    asyncio.run(box.flush(bus))
    assert order == ["e-0", "e-registered-b", "e-1"]


def test_readings_of_a_device_that_is_lost_are_forgotten() -> None:
    bus = UnreliableBus()
    asyncio.run(outbox(readings(0, state("a"), state("b")), lost("a")).flush(bus))
    (update,) = bus.said(TELEMETRY)
    assert [told.device_id for told in update.states] == ["b"]


def test_a_node_that_leaves_says_nothing_more_of_its_devices() -> None:
    bus = UnreliableBus()
    asyncio.run(outbox(JOINED, readings(0, state("a")), link("desk", 1), LEFT).flush(bus))
    assert bus.said(TELEMETRY) == []
    assert [type(message) for message in bus.said(FLEET)] == [NodeJoined, NodeLeft]


def test_of_a_link_only_the_latest_figures_are_sent() -> None:
    bus = UnreliableBus()
    asyncio.run(outbox(link("desk", 1), link("cellar", 5), link("desk", 2)).flush(bus))
    told = [(message.to_node, message.bandwidth_bytes_per_second) for message in bus.said(TELEMETRY)]
    assert told == [("desk", 2), ("cellar", 5)]


def test_figures_of_a_link_that_come_while_older_ones_are_on_their_way_are_sent_too() -> None:
    bus = UnreliableBus()
    box = outbox(link("desk", 1))
    newer = [link("desk", 2)]

    def meanwhile(_: Outgoing) -> None:
        if newer:
            box.add(newer.pop())

    bus.before_append = meanwhile
    asyncio.run(box.flush(bus))
    assert [message.bandwidth_bytes_per_second for message in bus.said(TELEMETRY)] == [1, 2]


def test_a_node_may_be_called_as_its_owner_likes() -> None:
    node_id = NodeId("b\u00fcro. 1 \u706b")
    bus = UnreliableBus()
    agent = Agent(Identity(node_id=node_id, boot_id=BOOT), Pace())
    box = Outbox(agent.identity.source)
    for announcement in (agent.join(START), *agent.observe(snapshot(), START, 0)):
        box.add(announcement)
    asyncio.run(box.flush(bus))
    assert [message.node_id for message in (*bus.said(FLEET), *bus.said(TELEMETRY))] == [node_id, node_id]
    assert receive(bus.server.log(FLEET).messages[0]).envelope.source == f"agent/{node_id}"


def test_beyond_its_bound_a_devices_older_events_give_way_to_its_newest() -> None:
    bus = UnreliableBus()
    flapping = [
        event
        for index in range(50)
        for event in (lost("a", f"e-lost-{index}"), registered("a", f"e-registered-{index}"))
    ]
    box = outbox(JOINED, registered("a"), registered("b"), *flapping, capacity=10)
    assert len(box) <= 10
    asyncio.run(box.flush(bus))
    said = bus.said(FLEET)
    assert said[0] == JOINED.message
    assert registered("b").message in said
    assert said[-1] == registered("a").message


def test_beyond_its_bound_the_last_word_on_each_device_is_still_kept() -> None:
    bus = UnreliableBus()
    devices = [registered(f"gpu-{index}") for index in range(20)]
    asyncio.run(outbox(JOINED, *devices, capacity=5).flush(bus))
    assert bus.said(FLEET) == [JOINED.message, *(device.message for device in devices)]


def test_beyond_its_bound_of_what_repeats_itself_the_first_and_the_last_stay() -> None:
    bus = UnreliableBus()
    storm = [faulted("a", 31, f"e-31-{index}") for index in range(50)]
    box = outbox(JOINED, registered("a"), faulted("a", 79, "e-79"), *storm, lost("a"), capacity=10)
    assert len(box) <= 10
    asyncio.run(box.flush(bus))
    stored = [receive(message).envelope.event_id for message in bus.server.log(FLEET).messages]
    # The one fault of its kind is not drowned, and a device is known before anything is said of it.
    assert stored[:4] == ["e-joined", "e-registered-a", "e-79", "e-31-0"]
    assert stored[-2:] == ["e-31-49", "e-lost-a"]


def test_beyond_its_bound_the_last_word_on_each_shard_is_still_kept() -> None:
    said = [shard("a", "loading", f"e-a-{number}") for number in range(30)]
    box = outbox(shard("b", "ready", "e-b"), *said, shard("a", "failed", "e-a-last"), capacity=10)
    bus = UnreliableBus()
    asyncio.run(box.flush(bus))
    told = [(each.instance_id, each.state) for each in bus.said(FLEET)]
    assert len(told) <= 10
    assert (told[0], told[-1]) == (("b", "ready"), ("a", "failed"))


def test_however_much_is_said_while_the_bus_is_away_what_waits_is_bounded() -> None:
    bus = UnreliableBus()
    bus.away = True

    async def scenario() -> int:
        box = outbox(JOINED, capacity=100)
        for index in range(2000):
            name = f"gpu-{index % 3}"
            box.add(lost(name, f"e-lost-{index}"))
            box.add(registered(name, f"e-registered-{index}"))
            box.add(faulted(name, index % 5, f"e-fault-{index}"))
            box.add(readings(index, state(name)))
            box.add(link(f"peer-{index % 3}", index + 1))
            with pytest.raises(BusUnreachableError):
                await box.flush(bus)
        return len(box)

    assert asyncio.run(scenario()) <= 100 + 1 + 3


def test_a_pulse_takes_nothing_from_the_readings_that_wait_and_tells_the_newest_tick() -> None:
    bus = UnreliableBus()
    asyncio.run(outbox(readings(0, state("a"), heartbeat=True), readings(1)).flush(bus))
    (update,) = bus.said(TELEMETRY)
    assert (update.tick, update.heartbeat, update.states) == (1, True, (state("a"),))


def test_a_full_report_replaces_all_that_waits() -> None:
    bus = UnreliableBus()
    box = outbox(readings(0, state("a"), state("b")), readings(1, state("a"), heartbeat=True))
    asyncio.run(box.flush(bus))
    (update,) = bus.said(TELEMETRY)
    assert [told.device_id for told in update.states] == ["a"]


def test_the_mean_and_the_peak_of_a_report_that_waits_stay_with_newer_readings() -> None:
    bus = UnreliableBus()
    period = {"utilization_mean_percent": 40.0, "utilization_peak_percent": 90.0}
    report = readings(0, state("a", health="ok", **period), heartbeat=True)
    asyncio.run(outbox(report, readings(1, state("a", health="failed"))).flush(bus))
    (update,) = bus.said(TELEMETRY)
    assert update.states == (state("a", health="failed", **period),)
