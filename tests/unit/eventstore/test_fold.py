"""The fold, as given events, when one more comes, then this state."""

from datetime import timedelta

import pytest
from shardbus_eventstore.fold import fold, fold_with_changes
from shardbus_eventstore.intake import examine
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined, NodeLeft
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import (
    ObjectiveValue,
    Placed,
    PlacementRequest,
    Prediction,
    Refusal,
    Refused,
    SolverReport,
    Stage,
    StatePosition,
)
from support.histories import KEY, START, History, reading, stored

TINY = ModelProfile(model_id="tiny", layers=2, layer_bytes=100)
JOINED = NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10)
REGISTERED = events.DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1", name="RTX 3090"))


def plan(device: DeviceKey = KEY, memory: int = 200) -> Placed:
    stage = Stage(devices=(device,), start_layer=0, end_layer=2, memory_bytes={device: memory}, seconds=0.1)
    return Placed(
        model_id="tiny",
        strategy="greedy",
        strategy_reason="one device",
        stages=(stage,),
        objective=ObjectiveValue(name="throughput", value=0.1, unit="seconds"),
        predicted=Prediction(seconds_per_token=0.1, tokens_per_second=10),
        solver=SolverReport(name="greedy", status="feasible", seconds=0),
    )


def placed(instance: str = "i1", command: str = "c1", **request: object) -> events.InstancePlaced:
    return events.InstancePlaced(
        instance_id=instance,
        command_id=command,
        model=TINY,
        request=PlacementRequest.model_validate({"model_id": "tiny"} | request),
        plan=plan(),
        position=StatePosition(),
    )


def tick(number: int | None, boot: str | None = "b1", **options: object) -> DeviceGPUStateUpdated:
    return DeviceGPUStateUpdated.model_validate(
        {"node_id": "n1", "boot_id": boot, "tick": number, "states": (reading(),)} | options
    )


def test_a_reading_replaces_the_one_before() -> None:
    history = History()
    history.add(tick(1), tick(2, states=(reading(memory_used_bytes=7),)))
    record = history.state.device_states[KEY]
    assert (record.reading.memory_used_bytes, record.sequence) == (7, 2)
    assert history.state.positions == {TELEMETRY: 2}


@pytest.mark.parametrize("number", [1, 2])
def test_a_tick_that_came_before_is_dropped_and_counted(number: int) -> None:
    history = History()
    history.add(tick(2))
    taken = history.add(tick(number, states=(reading(memory_used_bytes=9),)))
    assert history.state.device_states[KEY].reading.memory_used_bytes is None
    assert history.state.node_heard["n1"].repeated_ticks == 1
    assert history.state.node_heard["n1"].recorded_at == stored(JOINED, 1).recorded_at, "it is no sign of life"
    assert history.state.ignored == {TELEMETRY: 1}
    assert taken.changes.readings == ()


def test_a_new_boot_counts_from_the_beginning() -> None:
    history = History()
    history.add(tick(40), tick(0, boot="b2", states=(reading(memory_used_bytes=9),)))
    assert history.state.device_states[KEY].reading.memory_used_bytes == 9
    assert (history.state.node_heard["n1"].boot_id, history.state.node_heard["n1"].tick) == ("b2", 0)


def test_ticks_that_never_came_are_counted() -> None:
    history = History()
    history.add(tick(1), tick(5), tick(6))
    assert history.state.node_heard["n1"].missed_ticks == 3


def test_a_producer_that_does_not_count_is_heard_all_the_same() -> None:
    history = History()
    history.add(tick(3), tick(None, boot=None, states=(reading(memory_used_bytes=9),)), tick(3))
    assert history.state.device_states[KEY].reading.memory_used_bytes == 9
    assert history.state.node_heard["n1"].repeated_ticks == 1


def test_a_heartbeat_is_remembered() -> None:
    history = History()
    history.add(tick(1, heartbeat=True), tick(2))
    assert history.state.node_heard["n1"].heartbeat_sequence == 1


def test_the_farewell_of_an_earlier_boot_does_not_send_the_new_one_away() -> None:
    history = History()
    history.add(JOINED, JOINED.model_copy(update={"boot_id": "b2"}), NodeLeft(node_id="n1", boot_id="b1"))
    assert history.state.nodes["n1"].left_at is None
    history.add(NodeLeft(node_id="n1", boot_id="b2", reason="maintenance"))
    assert history.state.nodes["n1"].left_reason == "maintenance"
    history.add(JOINED)
    assert history.state.nodes["n1"].left_at is None


def test_a_lost_device_is_back_once_it_is_registered_again() -> None:
    history = History()
    history.add(JOINED, REGISTERED, events.DeviceLost(node_id="n1", device_id="g1", reason="fell off the bus"))
    assert history.state.devices[KEY].lost_reason == "fell off the bus"
    assert history.state.devices[KEY].facts.name == "RTX 3090"
    history.add(REGISTERED)
    assert history.state.devices[KEY].lost_at is None


def test_faults_are_counted_the_last_is_kept_and_a_new_registration_forgets_none() -> None:
    history = History()
    first, last = (
        events.DeviceFaulted(node_id="n1", device_id="g1", kind="xid", code=code, message="m", occurred_at=START)
        for code in (31, 79)
    )
    history.add(JOINED, REGISTERED, first, last, REGISTERED)
    assert (history.state.devices[KEY].faults, history.state.devices[KEY].last_fault) == (2, last)


def test_what_the_interfaces_promise_replaces_no_fresh_probe() -> None:
    def measured(method: str, bandwidth: float, hours: float) -> events.GPUBandwidthMeasured:
        return events.GPUBandwidthMeasured.model_validate(
            {
                "from": "n1",
                "to": "n2",
                "bandwidth_bytes_per_second": bandwidth,
                "latency_seconds": 0.001,
                "method": method,
                "measured_at": START + timedelta(hours=hours),
            }
        )

    history = History()
    for method, bandwidth, hours, believed in (
        ("passive", 1e9, 0, 1e9),
        ("probe", 1e8, 1, 1e8),
        ("passive", 1e9, 2, 1e8),
        ("probe", 2e8, 3, 2e8),
        ("passive", 1e9, 28, 1e9),  # the probe is older than a day
    ):
        history.add(measured(method, bandwidth, hours), seconds=hours * 3600)
        assert history.state.links["n1", "n2"].measured.bandwidth_bytes_per_second == believed


def test_an_instance_lives_from_its_placement_to_its_deletion() -> None:
    history = History()
    history.add(placed())
    assert history.state.instances["i1"].status == "placed"
    history.add(events.InstanceLost(instance_id="i1", devices=(KEY,), reason="gone"))
    assert (history.state.instances["i1"].status, history.state.instances["i1"].reason) == ("lost", "gone")
    elsewhere = plan(DeviceKey.of("n2", "g1"))
    history.add(
        events.InstanceReplaced(
            instance_id="i1", command_id="c2", plan=elsewhere, reason="lost", position=StatePosition()
        )
    )
    assert (history.state.instances["i1"].status, history.state.instances["i1"].plan) == ("placed", elsewhere)
    history.add(events.InstanceDeleted(instance_id="i1", command_id="c3"))
    instance = history.state.instances["i1"]
    assert (instance.status, instance.created_sequence, instance.updated_sequence) == ("deleted", 1, 4)
    assert {command: decision.outcome for command, decision in history.decisions.items()} == {
        "c1": "InstancePlaced",
        "c2": "InstanceReplaced",
        "c3": "InstanceDeleted",
    }
    assert history.decisions["c1"].event == placed()
    assert history.state.decisions == {"c1": 1, "c2": 3, "c3": 4}


def test_the_first_answer_to_a_command_stays() -> None:
    history = History()
    refused = Refused(
        model_id="tiny",
        strategy="none",
        strategy_reason="test",
        refusal=Refusal(code="unknown_model", message="no"),
    )
    rejected = events.PlacementRejected(
        command_id="c1",
        model_id="tiny",
        request=PlacementRequest(model_id="tiny"),
        result=refused,
        position=StatePosition(),
    )
    history.add(rejected, placed())
    assert history.decisions["c1"].outcome == "PlacementRejected"
    assert history.decisions["c1"].instance_id is None
    assert history.state.decisions == {"c1": 1}


@pytest.mark.parametrize(
    "event",
    [
        NodeLeft(node_id="n9", boot_id="b"),
        events.DeviceLost(node_id="n9", device_id="g", reason="r"),
        events.DeviceFaulted(node_id="n9", device_id="g", kind="driver", message="m", occurred_at=START),
        events.InstanceDeleted(instance_id="i9"),
        events.InstanceLost(instance_id="i9", devices=(), reason="r"),
        events.InstanceReplaced(instance_id="i9", plan=plan(), reason="r", position=StatePosition()),
    ],
    ids=lambda event: event.TYPE,
)
def test_what_is_said_about_something_unknown_is_ignored_and_counted(event: events.FleetEvent) -> None:
    history = History()
    history.add(event)
    assert history.state == FleetState(positions={FLEET: 1}, ignored={FLEET: 1})


def test_a_placement_that_is_published_twice_is_one() -> None:
    history = History()
    history.add(placed(), placed())
    assert history.state.instances["i1"].updated_sequence == 1
    assert history.state.ignored == {FLEET: 1}


def test_who_asked_is_never_kept() -> None:
    asked = placed().model_copy(update={"request": PlacementRequest(model_id="tiny", access_token="secret")})
    received = examine([stored(placed(), 1)]).received[0]
    with_token = type(received)(asked, received.envelope, FLEET, 1, START)
    state, changes = fold_with_changes(FleetState(), [with_token])
    assert state.instances["i1"].request.access_token is None
    assert [decision.event for decision in changes.decisions] == [placed()]


def test_a_message_at_or_before_the_position_changes_nothing() -> None:
    history = History()
    history.add(JOINED, REGISTERED, placed())
    again = examine(history.streams[FLEET]).received
    assert fold(history.state, again) == history.state


def test_a_message_buried_twice_is_one_dead_letter() -> None:
    history = History()
    letter = events.DeadLettered(
        stream=TELEMETRY,
        sequence=4,
        subject="s",
        code="not_json",
        reason="r",
        recorded_at=START,
        payload_base64="",
        seen_by="projector",
    )
    history.add(letter, letter)
    assert [record.sequence for record in history.state.dead_letters.values()] == [1]
    assert history.state.positions == {DEAD: 2}


def test_a_letter_that_could_be_read_later_is_noted_once_whatever_came_first() -> None:
    history = History()
    retried = events.DeadLetterRetried(
        stream=TELEMETRY, sequence=4, recorded_at=START, seen_by="projector", outcome="folded"
    )
    history.add(retried, retried.model_copy(update={"outcome": "published", "published_sequence": 9}))
    ((key, done),) = history.state.retried_letters.items()
    assert key == (TELEMETRY, 4, START, "projector")
    assert (done.sequence, done.retried.outcome) == (1, "folded")
    assert (history.state.positions, history.state.ignored) == ({DEAD: 2}, {})


def test_a_fold_leaves_the_state_before_as_it_was() -> None:
    history = History()
    history.add(JOINED, REGISTERED, placed(), tick(1))
    before, nodes, readings = history.state, dict(history.state.nodes), dict(history.state.device_states)
    history.add(
        JOINED.model_copy(update={"node_id": "n2"}), tick(2, states=(reading(memory_used_bytes=3), reading("g2")))
    )
    assert (before.nodes, before.device_states) == (nodes, readings)
    assert history.state.instances is before.instances, "what a batch does not touch is not copied"
