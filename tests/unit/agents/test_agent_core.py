from shardbus_agents.agent import Agent, Announcement, Identity
from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem
from shardbus_agents.change_detection import Thresholds
from shardbus_agents.collector import Sampled, merge
from shardbus_agents.readings import Pace
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    NodeJoined,
    NodeLeft,
)
from shardbus_schemas.ids import BootId, DeviceId, NodeId
from shardbus_schemas.registry import encode
from support.readings import NODE, START, after, facts, snapshot, state

BOOT = BootId("boot-1")


def agent(pace: Pace | None = None, **identity: object) -> Agent:
    return Agent(Identity(node_id=NODE, boot_id=BOOT, **identity), pace or Pace())


def messages(said: tuple[Announcement, ...]) -> list[object]:
    return [announcement.message for announcement in said]


def test_it_joins_with_its_labels_its_rhythms_and_its_bounds() -> None:
    link = LinkFigures(bandwidth_bytes_per_second=32e9, latency_seconds=5e-6)
    joined = agent(hostname="attic.local", labels=(("site", "home"),), device_link=link).join(START)
    assert joined.message == NodeJoined(
        node_id=NODE,
        boot_id=BOOT,
        hostname="attic.local",
        labels={"site": "home"},
        heartbeat_seconds=4,
        report_seconds=60,
        error_bounds=Thresholds().error_bounds,
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


def test_a_node_without_any_device_still_reports() -> None:
    said = agent().observe(snapshot(), START, 0)
    assert messages(said) == [DeviceGPUStateUpdated(node_id=NODE, boot_id=BOOT, tick=0, heartbeat=True)]


def test_nothing_is_said_of_readings_that_stand_still() -> None:
    quiet = agent()
    quiet.observe(snapshot(state(compute_utilization_percent=5)), START, 0)
    assert quiet.observe(snapshot(state(compute_utilization_percent=9)), after(2), 2) == ()


def test_slow_growth_is_told_because_it_is_compared_with_what_was_published() -> None:
    growing = agent(Pace(smoothing_seconds=0))
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


def updates(said: tuple[Announcement, ...]) -> list[DeviceGPUStateUpdated]:
    return [message for message in messages(said) if isinstance(message, DeviceGPUStateUpdated)]


def test_all_devices_are_told_every_report_changed_or_not() -> None:
    steady = agent()
    reports = [
        2 * tick
        for tick in range(91)
        for update in updates(steady.observe(snapshot(state("a"), state("b")), after(2 * tick), 2 * tick))
        if update.heartbeat and len(update.states) == 2
    ]
    assert reports == [0, 60, 120, 180]


def test_a_full_report_has_the_mean_and_the_peak_since_the_last_one() -> None:
    busy = agent()
    loads = [10, 90, 20, *[None] * 27, 40, *[40] * 29, None]
    reports = [
        update.states[0]
        for tick, load in enumerate(loads)
        for update in updates(
            busy.observe(snapshot(state(compute_utilization_percent=load)), after(2 * tick), 2 * tick)
        )
        if update.heartbeat
    ]
    figures = [(each.utilization_mean_percent, each.utilization_peak_percent) for each in reports]
    assert figures == [(10, 10), (50, 90), (40, 40)]


def test_a_node_that_has_nothing_to_tell_gives_a_pulse_when_it_was_silent_for_a_heartbeat() -> None:
    quiet = agent()
    assert quiet.pulse(START, 0) is None
    assert quiet.seconds_to_pulse(0) == 4
    quiet.observe(snapshot(state()), START, 10)
    assert quiet.pulse(after(3.9), 13.9) is None
    pulse = quiet.pulse(after(4), 14)
    assert pulse is not None
    assert pulse.message == DeviceGPUStateUpdated(node_id=NODE, boot_id=BOOT, tick=1)
    assert (pulse.event_id, pulse.occurred_at) == ("attic/boot-1/1", after(4))
    assert quiet.seconds_to_pulse(14.5) == 3.5


def test_there_is_no_pulse_before_the_first_report() -> None:
    opening = agent()
    opening.join(START)
    assert opening.pulse(after(60), 60) is None
    assert opening.seconds_to_pulse(60) > 0


def test_readings_that_are_told_put_the_pulse_off() -> None:
    busy = agent()
    busy.observe(snapshot(state(health="ok")), START, 0)
    busy.observe(snapshot(state(health="degraded")), after(3), 3)
    assert busy.seconds_to_pulse(4) == 3


def test_a_device_of_which_no_backend_has_a_reading_any_more_is_left_out_of_a_report_at_once() -> None:
    watching = agent()
    both, one = snapshot(state("a"), state("b")), merge([Sampled((facts("a"), facts("b")), (state("a"),))])
    watching.observe(both, START, 0)
    said = {second: updates(watching.observe(one, after(second), second)) for second in (2, 4, 6, 8)}
    (report,) = said.pop(4)
    assert report.heartbeat
    assert [told.device_id for told in report.states] == ["a"]
    assert not any(said.values())
    (back,) = updates(watching.observe(both, after(10), 10))
    assert [told.device_id for told in back.states] == ["b"]


def test_a_clock_that_is_set_stops_no_report_and_brings_one_at_once() -> None:
    steady = agent()
    steady.observe(snapshot(state()), START, 0)
    for second, wall in ((2, 2 - 3600), (4, 86400.0), (6, 6)):
        (said,) = updates(steady.observe(snapshot(state()), after(wall), second))
        assert said.heartbeat
    assert steady.observe(snapshot(state()), after(8), 8) == ()


def test_a_host_that_slept_tells_what_is_now_and_nothing_of_before() -> None:
    asleep = agent()
    asleep.observe(snapshot(state(compute_utilization_percent=100)), START, 0)
    # The uptime clock stands still in sleep.
    (said,) = updates(asleep.observe(snapshot(state(compute_utilization_percent=0)), after(8 * 3600), 2))
    assert said.heartbeat
    assert said.states[0].compute_utilization_percent == 0


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


def test_nonsense_of_a_driver_is_unknown_on_the_bus_and_the_devices_other_readings_are_told() -> None:
    raw = {
        "thermal_temperature_c": 4000.0,
        "power_watts": float("nan"),
        "memory_used_bytes": 5,
        "memory_total_bytes": 3,
        "compute_utilization_percent": 7.0,
    }
    sampled = Sampled((facts("a"),), (credible_sample(DeviceId("a"), NODE, START, raw),))
    (update,) = updates(agent().observe(merge([sampled]), START, 0))
    (told,) = update.states
    expected = state(
        "a",
        memory_total_bytes=3,
        compute_utilization_percent=7.0,
        utilization_mean_percent=7.0,
        utilization_peak_percent=7.0,
    )
    assert told == expected
    assert b"NaN" not in encode(update)
