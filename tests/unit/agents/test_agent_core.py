from shardbus_agents.agent import Agent, Announcement, Identity, Pace
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem
from shardbus_agents.collector import Sampled, merge
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    GPUBandwidthMeasured,
    NodeJoined,
    NodeLeft,
)
from shardbus_schemas.fleet import FleetLink
from shardbus_schemas.ids import BootId, DeviceId, NodeId
from support.readings import NODE, START, after, facts, snapshot, state

BOOT = BootId("boot-1")


def agent(**identity: object) -> Agent:
    return Agent(Identity(node_id=NODE, boot_id=BOOT, **identity), Pace())


def messages(said: tuple[Announcement, ...]) -> list[object]:
    return [announcement.message for announcement in said]


def test_it_joins_with_its_labels_and_its_heartbeat() -> None:
    link = LinkFigures(bandwidth_bytes_per_second=32e9, latency_seconds=5e-6)
    joined = agent(hostname="attic.local", labels=(("site", "home"),), device_link=link).join(START)
    assert joined.message == NodeJoined(
        node_id=NODE,
        boot_id=BOOT,
        hostname="attic.local",
        labels={"site": "home"},
        heartbeat_seconds=10,
        device_link=link,
    )
    assert (joined.event_id, joined.occurred_at) == ("attic/boot-1/event-1", START)


def test_the_first_look_registers_every_device_and_tells_every_reading() -> None:
    said = agent().observe(snapshot(state("a"), state("b")), START, 0)
    assert messages(said) == [
        DeviceRegistered(node_id=NODE, device=facts("a")),
        DeviceRegistered(node_id=NODE, device=facts("b")),
        DeviceGPUStateUpdated(node_id=NODE, boot_id=BOOT, tick=0, heartbeat=True, states=(state("a"), state("b"))),
    ]


def test_a_node_without_any_device_still_gives_a_heartbeat() -> None:
    said = agent().observe(snapshot(), START, 0)
    assert messages(said) == [DeviceGPUStateUpdated(node_id=NODE, boot_id=BOOT, tick=0, heartbeat=True)]


def test_nothing_is_said_of_readings_that_stand_still() -> None:
    quiet = agent()
    quiet.observe(snapshot(state(compute_utilization_percent=5)), START, 0)
    assert quiet.observe(snapshot(state(compute_utilization_percent=9)), after(2), 2) == ()


def test_slow_growth_is_told_because_it_is_compared_with_what_was_published() -> None:
    growing = agent()
    told = 0
    for tick in range(100):
        said = growing.observe(snapshot(state(compute_utilization_percent=tick)), after(0.01 * tick), 0.01 * tick)
        told += any(isinstance(message, DeviceGPUStateUpdated) for message in messages(said))
    assert told == 10


def test_published_ticks_are_counted_without_a_gap_and_name_the_message() -> None:
    counting = agent()
    updates = [
        announcement
        for tick in range(30)
        for announcement in counting.observe(snapshot(state(thermal_temperature_c=tick)), after(2 * tick), 2 * tick)
        if isinstance(announcement.message, DeviceGPUStateUpdated)
    ]
    assert [update.message.tick for update in updates] == list(range(len(updates)))
    assert [update.event_id for update in updates] == [f"attic/boot-1/{tick}" for tick in range(len(updates))]


def test_the_heartbeat_tells_all_devices_at_least_every_ten_seconds() -> None:
    steady = agent()
    heartbeats = [
        2 * tick
        for tick in range(16)
        for message in messages(steady.observe(snapshot(state("a"), state("b")), after(2 * tick), 2 * tick))
        if isinstance(message, DeviceGPUStateUpdated) and message.heartbeat and len(message.states) == 2
    ]
    assert heartbeats == [0, 10, 20, 30]


def test_a_clock_that_is_set_back_stops_no_heartbeat() -> None:
    steady = agent()
    steady.observe(snapshot(state()), START, 0)
    (said,) = messages(steady.observe(snapshot(state()), after(-3600), 10))
    assert isinstance(said, DeviceGPUStateUpdated)
    assert said.heartbeat


def test_a_fact_that_changes_is_announced_again() -> None:
    changing = agent()
    changing.observe(merge([Sampled((facts(driver="570"),), (state(),))]), START, 0)
    said = changing.observe(merge([Sampled((facts(driver="580"),), (state(),))]), after(2), 2)
    assert messages(said) == [DeviceRegistered(node_id=NODE, device=facts(driver="580"))]


def test_a_device_with_a_problem_is_lost_once_and_registered_again_when_it_is_back() -> None:
    watching = agent()
    watching.observe(snapshot(state("a"), state("b")), START, 0)
    broken = merge([Sampled((facts("b"),), (DeviceProblem("a", "fell off the bus"), state("b")))])
    assert messages(watching.observe(broken, after(2), 2)) == [
        DeviceLost(node_id=NODE, device_id="a", reason="fell off the bus")
    ]
    assert watching.observe(broken, after(4), 4) == ()
    back = messages(watching.observe(snapshot(state("a"), state("b")), after(6), 6))
    assert back[0] == DeviceRegistered(node_id=NODE, device=facts("a"))
    assert isinstance(back[1], DeviceGPUStateUpdated)
    assert [told.device_id for told in back[1].states] == ["a"]


def test_a_device_that_is_not_there_any_more_is_lost() -> None:
    watching = agent()
    watching.observe(snapshot(state("a"), state("b")), START, 0)
    assert messages(watching.observe(snapshot(state("b")), after(2), 2)) == [
        DeviceLost(node_id=NODE, device_id="a", reason="it is not there any more")
    ]


def test_a_device_that_was_broken_from_the_start_is_said_to_be_lost() -> None:
    said = agent().observe(merge([Sampled((), (DeviceProblem("cuda:1", "GPU is lost"),))]), START, 0)
    assert DeviceLost(node_id=NODE, device_id="cuda:1", reason="GPU is lost") in messages(said)


def test_declared_links_are_told_at_the_start_and_again_after_a_while() -> None:
    link = FleetLink(**{"from": NODE, "to": NodeId("desk")}, bandwidth_bytes_per_second=1e9, latency_seconds=0.001)
    playing = agent(links=(link,))
    told = [
        second
        for second in range(0, 700, 2)
        for message in messages(playing.observe(snapshot(), after(second), second))
        if isinstance(message, GPUBandwidthMeasured)
    ]
    assert told == [0, 300, 600]


def test_it_leaves_with_a_reason() -> None:
    left = agent().leave(START)
    assert left.message == NodeLeft(node_id=NODE, boot_id=BOOT, reason="stopped")


def test_no_two_events_of_a_boot_share_an_id() -> None:
    busy = agent()
    ids = [busy.join(START).event_id]
    for tick in range(20):
        seen = snapshot(*(state(f"gpu-{index}") for index in range(tick % 4)))
        ids += [announcement.event_id for announcement in busy.observe(seen, after(2 * tick), 2 * tick)]
    ids.append(busy.leave(START).event_id)
    assert len(set(ids)) == len(ids)


def test_the_longest_node_name_makes_ids_that_an_envelope_can_carry() -> None:
    named = Agent(Identity(node_id=NodeId("n" + "\u00e9 " * 99 + "n"), boot_id=BOOT), Pace())
    event_id = named.join(START).event_id
    assert len(event_id) < 300
    assert " " not in event_id


def test_a_fault_is_told_once_with_its_own_time() -> None:
    node = agent()
    node.observe(snapshot(state("a")), START, 0)
    fault = DeviceFault(DeviceId("a"), "xid", "XID 31: a bad access by the workload", after(1), code=31)
    said = node.observe(merge([Sampled((facts("a"),), (state("a"), fault))]), after(2), 2)
    assert messages(said) == [
        DeviceFaulted(
            node_id=NODE, device_id=DeviceId("a"), kind="xid", code=31, message=fault.message, occurred_at=after(1)
        )
    ]
    assert messages(node.observe(snapshot(state("a")), after(4), 4)) == []
