"""given(events) . when(command) . then(event)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.fold import fold
from shardbus_eventstore.snapshot.codec import load, save
from shardbus_eventstore.state import FleetState
from shardbus_placer.decider import decide
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.naming import instance_id_of
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas import commands, events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.registry import Received
from support.placing import KNOWLEDGE, TINY, attic

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def received(message: FrozenModel, sequence: int = 1, stream: str = "FLEET", **more: Any) -> Received[Any]:
    envelope = Envelope(f"{stream}:{sequence}@0", type(message).__name__, 1, NOW, "test")
    return Received(message, envelope, stream, sequence, NOW, **more)


def given(*told: FrozenModel) -> FleetState:
    return fold(FleetState(), [received(message, sequence) for sequence, message in enumerate(told, 1)])


def when(command: commands.Command, state: FleetState, **more: Any) -> events.FleetEvent | None:
    said = decide(received(command, 7, "COMMANDS", **more), state, NOW + timedelta(seconds=1), KNOWLEDGE)
    return said[-1] if said else None


def test_a_known_model_is_placed_on_the_fleet_that_the_events_describe() -> None:
    answer = when(commands.Place(model_id="tiny", command_id="c1"), given(*attic()))
    assert isinstance(answer, events.InstancePlaced)
    assert answer.instance_id == instance_id_of("tiny", "c1")
    assert answer.plan.stages[0].devices == ("attic/cuda:0",)
    assert answer.position.fleet_sequence == 2


def test_a_whole_fleet_s_flow_is_published_with_every_device_s_memory() -> None:
    cellar = (
        events.NodeJoined(node_id="cellar", boot_id="b", heartbeat_seconds=10),
        events.DeviceRegistered(
            node_id="cellar", device=DeviceFacts(device_id="cuda:0", backend="cuda", memory_total_bytes=10_000)
        ),
    )
    asked = commands.Place(
        model_id="tiny",
        command_id="c1",
        objective="fleet_throughput",
        runtime_overhead_bytes=0,
        deadline_ms=10_000.0,
    )
    knowledge = Knowledge({"tiny": TINY}, Policy(), plan)
    state = given(*attic(), *cellar)
    (answer,) = decide(received(asked, 7, "COMMANDS"), state, NOW + timedelta(seconds=1), knowledge)
    assert isinstance(answer, events.InstancePlaced)
    assert [stage.start_layer for stage in answer.plan.stages] == [0, 0]
    assert len(answer.plan.flows) == 4
    assert events.InstancePlaced.model_validate_json(answer.model_dump_json(by_alias=True)) == answer
    after = {device.memory_reserved_bytes for _, _, device in fleet_of(given(*attic(), *cellar, answer), NOW).devices()}
    assert after == {4000}


def test_a_command_without_an_id_is_named_after_its_place_in_the_stream() -> None:
    answer = when(commands.Place(model_id="tiny"), given(*attic()))
    assert isinstance(answer, events.InstancePlaced)
    assert answer.command_id == "COMMANDS:7@0"


def test_the_same_command_twice_is_answered_once() -> None:
    first = when(commands.Place(model_id="tiny", command_id="c1"), given(*attic()))
    assert first is not None
    assert when(commands.Place(model_id="tiny", command_id="c1"), given(*attic(), first)) is None


def test_what_was_promised_to_one_instance_is_not_promised_to_the_next() -> None:
    first = when(commands.Place(model_id="tiny", command_id="c1"), given(*attic()))
    assert first is not None
    second = when(commands.Place(model_id="tiny", command_id="c2"), given(*attic(), first))
    assert isinstance(second, events.PlacementRejected)
    assert second.result.refusal.code == "insufficient_memory"


def test_a_deleted_instance_gives_its_memory_back() -> None:
    first = when(commands.Place(model_id="tiny", command_id="c1"), given(*attic()))
    assert isinstance(first, events.InstancePlaced)
    deleted = when(commands.Delete(instance_id=first.instance_id, command_id="c2"), given(*attic(), first))
    assert isinstance(deleted, events.InstanceDeleted)
    again = when(commands.Place(model_id="tiny", command_id="c3"), given(*attic(), first, deleted))
    assert isinstance(again, events.InstancePlaced)


def test_deleting_what_is_not_there_is_refused_and_names_what_was_probably_meant() -> None:
    first = when(commands.Place(model_id="tiny", command_id="c1"), given(*attic()))
    assert isinstance(first, events.InstancePlaced)
    answer = when(commands.Delete(instance_id=first.instance_id[:-1], command_id="c2"), given(*attic(), first))
    assert isinstance(answer, events.CommandRejected)
    assert answer.code == "unknown_instance"
    assert first.instance_id in answer.message


def test_a_placer_that_began_with_a_snapshot_gives_the_same_answers() -> None:
    first = when(commands.Place(model_id="tiny", command_id="c1"), given(*attic()))
    assert isinstance(first, events.InstancePlaced)
    deleted = when(commands.Delete(instance_id=first.instance_id, command_id="c2"), given(*attic(), first))
    assert deleted is not None
    state = given(*attic(), first, deleted)
    resumed = load(save(state))
    assert first.instance_id not in resumed.instances
    for command in (
        commands.Delete(instance_id=first.instance_id, command_id="c3"),
        commands.Delete(instance_id="nobody", command_id="c4"),
        commands.Place(model_id="tiny", command_id="c5"),
        commands.Place(model_id="tiny", command_id="c1"),
    ):
        assert when(command, resumed) == when(command, state)


def test_an_answer_remembers_who_asked() -> None:
    for command in (
        commands.Place(model_id="tiny", command_id="c1"),
        commands.Place(model_id="tinny", command_id="c1"),
        commands.Delete(instance_id="nobody", command_id="c1"),
        commands.Drain(node_id="attic", command_id="c1"),
    ):
        answer = when(command, given(*attic()))
        assert answer is not None
        assert getattr(answer, "asked", None) == events.Asked(
            source="test", occurred_at=NOW, recorded_at=NOW, sequence=7
        )


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    answer = when(commands.Place(model_id="tinny", command_id="c1"), given(*attic()))
    assert isinstance(answer, events.PlacementRejected)
    assert answer.result.refusal.code == "unknown_model"
    assert "did you mean 'tiny'" in answer.result.refusal.message


def test_a_registered_model_goes_before_the_catalogue() -> None:
    own = TINY.model_copy(update={"layers": 2})
    registered = when(commands.RegisterModel(profile=own, command_id="c1"), given(*attic()))
    assert isinstance(registered, events.ModelRegistered)
    answer = when(commands.Place(model_id="tiny", command_id="c2"), given(*attic(), registered))
    assert isinstance(answer, events.InstancePlaced)
    assert answer.plan.stages[0].end_layer == 2


def test_an_inline_model_needs_no_catalogue_and_is_stored_once() -> None:
    own = ModelProfile(model_id="mine", layers=3, layer_bytes=10)
    answer = when(commands.Place(model=own, command_id="c1"), given(*attic()))
    assert isinstance(answer, events.InstancePlaced)
    assert answer.model == own
    assert answer.request.model is None
    assert answer.request.model_id == "mine"


def test_a_dry_run_reserves_nothing() -> None:
    preview = when(commands.Place(model_id="tiny", command_id="c1", dry_run=True), given(*attic()))
    assert isinstance(preview, events.PlacementPreviewed)
    answer = when(commands.Place(model_id="tiny", command_id="c2"), given(*attic(), preview))
    assert isinstance(answer, events.InstancePlaced)


def test_a_request_with_an_access_token_is_refused_and_the_token_is_not_repeated() -> None:
    answer = when(commands.Place(model_id="tiny", command_id="c1", access_token="s3cret"), given(*attic()))
    assert isinstance(answer, events.PlacementRejected)
    assert answer.result.refusal.code == "access_invalid"
    assert "s3cret" not in repr(answer) + answer.model_dump_json()
    assert answer.request.access_token is None


def test_unknown_fields_are_survived_and_named_in_the_answer() -> None:
    answer = when(
        commands.Place(model_id="tiny", command_id="c1"),
        given(*attic()),
        unknown_fields=("contxt (did you mean 'context_tokens'?)",),
    )
    assert isinstance(answer, events.InstancePlaced)
    assert "contxt" in answer.plan.notes[0]


def test_a_drain_is_answered_by_what_nodes_take_from_then_on() -> None:
    answer = when(commands.Drain(node_id="attic", command_id="c1"), given(*attic()))
    assert isinstance(answer, events.Cordoned)
    assert answer.drain
    refused = when(commands.Place(model_id="tiny", command_id="c2"), given(*attic(), answer))
    assert isinstance(refused, events.InstancePlaced)  # this planner looks at no status; the real one does
