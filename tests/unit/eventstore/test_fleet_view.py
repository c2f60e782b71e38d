"""The planner's view of a state."""

from datetime import timedelta

import pytest
from shardbus_agents.readings import Pace
from shardbus_eventstore.fleet_view import Remembered, fleet_of
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined, NodeLeft
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import (
    ObjectiveValue,
    Placed,
    PlacementRequest,
    Prediction,
    SolverReport,
    Stage,
    StatePosition,
)
from support.answers import placed_event
from support.histories import KEY, START, History, reading

LINK = LinkFigures(bandwidth_bytes_per_second=32e9, latency_seconds=5e-6)
JOINED = NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10, labels={"site": "home"}, device_link=LINK)


def registered(device: str = "g1", **facts: object) -> events.DeviceRegistered:
    return events.DeviceRegistered(
        node_id="n1", device=DeviceFacts.model_validate({"device_id": device, "name": "RTX 3090"} | facts)
    )


def heard(*devices: str, heartbeat: bool = False, **readings: object) -> DeviceGPUStateUpdated:
    return DeviceGPUStateUpdated(
        node_id="n1", heartbeat=heartbeat, states=tuple(reading(device, **readings) for device in devices)
    )


def device_of(history: History, seconds: float, index: int = 0) -> FleetDevice:
    return fleet_of(history.state, START + timedelta(seconds=seconds)).nodes[0].devices[index]


def test_a_device_has_its_facts_and_its_last_readings() -> None:
    history = History()
    history.add(JOINED, registered(memory_total_bytes=24), heard("g1", memory_used_bytes=5, memory_total_bytes=9))
    fleet = fleet_of(history.state, START)
    assert fleet.nodes[0].labels == {"site": "home"}
    assert fleet.nodes[0].device_link == LINK
    device = fleet.nodes[0].devices[0]
    assert (device.name, device.memory_total_bytes, device.memory_used_bytes) == ("RTX 3090", 24, 5)
    assert device.last_update == START
    assert (fleet.telemetry_sequence, fleet.fleet_sequence) == (1, 2)


def test_what_the_facts_leave_open_the_readings_fill() -> None:
    history = History()
    history.add(JOINED, registered(), heard("g1", memory_total_bytes=9))
    assert device_of(history, 1).memory_total_bytes == 9


@pytest.mark.parametrize(("seconds", "status"), [(0, "ok"), (31, "ok"), (32, "stale")])
def test_a_device_is_stale_after_three_heartbeats_of_silence(seconds: float, status: str) -> None:
    history = History()
    history.add(JOINED, registered())
    history.add(heard("g1"), seconds=1)
    assert device_of(history, seconds).status == status


def test_a_device_without_a_reading_is_stale_three_heartbeats_after_its_registration() -> None:
    history = History()
    history.add(JOINED, registered())
    assert device_of(history, 2).status == "ok"
    assert device_of(history, 33).status == "stale"


def test_a_device_that_the_heartbeat_leaves_out_goes_stale_by_itself() -> None:
    history = History()
    history.add(JOINED, registered("g1"), registered("g2"))
    history.add(heard("g1", "g2"), seconds=1)
    history.add(heard("g1", heartbeat=True), seconds=30)
    assert [device_of(history, 35, index).status for index in (0, 1)] == ["ok", "stale"]


def test_a_device_that_did_not_change_stays_fresh_with_its_node() -> None:
    history = History()
    history.add(JOINED, registered("g1"), registered("g2"))
    history.add(heard("g1", "g2", heartbeat=True), seconds=1)
    history.add(heard("g1"), seconds=30)
    assert device_of(history, 35, 1).status == "ok"


def test_a_node_that_only_gives_pulses_is_alive_with_the_readings_it_gave_last() -> None:
    history = History()
    history.add(JOINED, registered())
    history.add(heard("g1", heartbeat=True, compute_utilization_percent=7), seconds=1)
    for seconds in range(4, 60, 4):
        history.add(heard(), seconds=seconds)
    device = device_of(history, 60)
    assert (device.status, device.compute_utilization_percent) == ("ok", 7)
    assert device_of(history, 56 + 31).status == "stale"


def test_a_device_left_out_of_a_rare_report_is_stale_at_once_and_pulses_do_not_revive_it() -> None:
    history = History()
    history.add(JOINED, registered("g1"), registered("g2"))
    history.add(heard("g1", "g2", heartbeat=True), seconds=1)
    history.add(heard(), seconds=55)
    assert device_of(history, 58, 1).status == "ok"
    history.add(heard("g1", heartbeat=True), seconds=61)
    history.add(heard(), seconds=65)
    assert [device_of(history, 65, index).status for index in (0, 1)] == ["ok", "stale"]
    history.add(heard("g2"), seconds=66)
    assert device_of(history, 66, 1).status == "ok"


def test_with_the_agents_own_heartbeat_a_dead_one_is_noticed_within_15_seconds() -> None:
    history = History()
    history.add(JOINED.model_copy(update={"heartbeat_seconds": Pace().heartbeat_seconds}), registered())
    history.add(heard("g1", heartbeat=True), seconds=1)
    history.add(heard(), seconds=5)
    assert [device_of(history, 5 + silent).status for silent in (0, 11.9, 15)] == ["ok", "ok", "stale"]


def test_old_readings_of_an_agent_that_came_back_are_stale() -> None:
    history = History()
    history.add(JOINED, registered(), heard("g1"), seconds=0)
    history.add(JOINED.model_copy(update={"boot_id": "b2"}), registered(), seconds=3600)
    assert device_of(history, 3601).status == "stale"


def test_devices_of_a_node_that_left_are_lost_until_it_joins_again() -> None:
    history = History()
    history.add(JOINED, registered(), heard("g1"), NodeLeft(node_id="n1", boot_id="b1"))
    assert device_of(history, 1).status == "lost"
    history.add(JOINED, heard("g1"))
    assert device_of(history, 1).status == "ok"


def test_a_lost_device_is_lost_whatever_its_node_says() -> None:
    history = History()
    history.add(JOINED, registered(), events.DeviceLost(node_id="n1", device_id="g1", reason="hangs"), heard("g1"))
    assert device_of(history, 1).status == "lost"


def test_readings_of_an_unregistered_device_are_not_seen() -> None:
    history = History()
    history.add(JOINED, heard("g1"))
    assert fleet_of(history.state, START).nodes[0].devices == ()
    assert KEY in history.state.device_states


def test_a_device_of_a_node_that_never_joined_is_not_seen() -> None:
    history = History()
    history.add(registered(), heard("g1"))
    assert fleet_of(history.state, START).nodes == ()


def test_memory_is_reserved_while_an_instance_is_placed() -> None:
    history = History()
    stage = Stage(devices=(KEY,), start_layer=0, end_layer=2, memory_bytes={KEY: 200}, seconds=0.1)
    plan = Placed(
        model_id="tiny",
        strategy="greedy",
        strategy_reason="test",
        stages=(stage,),
        objective=ObjectiveValue(name="throughput", value=0.1, unit="seconds"),
        predicted=Prediction(seconds_per_token=0.1, tokens_per_second=10),
        solver=SolverReport(name="greedy", status="feasible", seconds=0),
    )
    history.add(JOINED, registered(), heard("g1", memory_used_bytes=1000))
    for number in (1, 2):
        history.add(
            events.InstancePlaced(
                instance_id=f"i{number}",
                command_id=f"c{number}",
                model=ModelProfile(model_id="tiny", layers=2, layer_bytes=100),
                request=PlacementRequest(model_id="tiny"),
                plan=plan,
                position=StatePosition(),
            )
        )
    assert device_of(history, 1).memory_reserved_bytes == 400
    history.add(events.InstanceDeleted(instance_id="i1"))
    assert device_of(history, 1).memory_reserved_bytes == 200
    history.add(events.InstanceLost(instance_id="i2", devices=(KEY,), reason="test"))
    assert device_of(history, 1).memory_reserved_bytes == 0


def test_links_lead_between_nodes_that_joined() -> None:
    history = History()
    history.add(JOINED, JOINED.model_copy(update={"node_id": "n2"}))
    for bandwidth in (1e6, 2e6):
        for end in ("n2", "stranger"):
            history.add(
                events.GPUBandwidthMeasured.model_validate(
                    {
                        "from": "n1",
                        "to": end,
                        "bandwidth_bytes_per_second": bandwidth,
                        "latency_seconds": 0.1,
                        "measured_at": START,
                    }
                )
            )
    (link,) = fleet_of(history.state, START).links
    assert (link.from_node, link.to_node, link.bandwidth_bytes_per_second) == ("n1", "n2", 2e6)


def test_an_absurd_heartbeat_is_survived() -> None:
    history = History()
    history.add(JOINED.model_copy(update={"heartbeat_seconds": 1e308}), registered())
    assert device_of(history, 60).status == "ok"


def test_who_began_to_listen_lately_takes_nobody_for_silent_yet() -> None:
    history = History()
    history.add(JOINED, registered(), heard("g1"))

    def status(seconds: float, listening_since: float) -> str:
        now, since = (START + timedelta(seconds=after) for after in (seconds, listening_since))
        return fleet_of(history.state, now, listening_since=since).nodes[0].devices[0].status

    assert status(100, 90) == "ok"
    assert status(100, 70) == "ok", "three heartbeats are not over yet"
    assert status(101, 70) == "stale"
    assert status(101, -1000) == "stale"
    history.add(NodeLeft(node_id="n1", boot_id="b1"))
    assert status(100, 99) == "lost", "that was said, not concluded"


def test_a_device_that_is_not_silent_yet_may_be_cordoned() -> None:
    history = History()
    history.add(JOINED, registered(), heard("g1"), events.Cordoned(node_id="n1", drain=False, command_id="c"))
    now = START + timedelta(seconds=100)
    assert fleet_of(history.state, now, listening_since=now).nodes[0].devices[0].status == "cordoned"


def test_what_is_remembered_changes_nothing_but_the_work() -> None:
    history, remembered = History(), Remembered()
    told = (
        JOINED,
        registered(memory_total_bytes=24),
        NodeJoined(node_id="n3", boot_id="b", heartbeat_seconds=10),
        heard("g1", memory_used_bytes=5),
        events.GPUBandwidthMeasured.model_validate(
            {"from": "n1", "to": "n3", "method": "t", "measured_at": START} | LINK.model_dump()
        ),
        placed_event("i1", "n1/g1"),
        heard("g1", memory_used_bytes=7),
        events.Cordoned(node_id="n1", drain=True, command_id="c"),
        registered(memory_total_bytes=25),
        events.GPUBandwidthMeasured.model_validate(
            {"from": "n1", "to": "n3", "method": "t", "measured_at": START, "bandwidth_bytes_per_second": 1e9}
            | {"latency_seconds": 1e-3}
        ),
        events.DeviceLost(node_id="n1", device_id="g1", reason="gone"),
    )
    for message in told:
        history.add(message)
        now = START + timedelta(seconds=history.state.positions.get("FLEET", 0))
        assert fleet_of(history.state, now, remembered=remembered) == fleet_of(history.state, now)
    now += timedelta(seconds=1)
    first, second = (fleet_of(history.state, now, remembered=remembered) for _ in range(2))
    assert first.nodes[0].devices[0] is second.nodes[0].devices[0]
    assert first.links[0] is second.links[0]
