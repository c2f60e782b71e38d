"""The judge of the placers' race: what it must notice, in streams of a few messages."""

from collections.abc import Sequence
from typing import Any

from chaos.verdict_of_race import judge
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import CommandId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import StatePosition
from support.answers import placed_event
from support.histories import stored

JOINED = events.NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10)
REGISTERED = events.DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1", memory_total_bytes=300))


def placed(instance: str, seen: int, **more: Any) -> events.InstancePlaced:
    """Return a placement of 200 bytes, decided at a sequence of FLEET."""
    return placed_event(instance, "n1/g1", command=instance, position=StatePosition(fleet_sequence=seen), **more)


def problems(*told: FrozenModel, asked: Sequence[str]) -> Sequence[str]:
    messages = [stored(message, sequence) for sequence, message in enumerate((JOINED, REGISTERED, *told), 1)]
    return judge(messages, [CommandId(name) for name in asked]).problems


def test_what_is_as_it_should_be_is_no_problem() -> None:
    gone = events.InstanceDeleted(instance_id="i1", command_id="c2")
    assert not problems(placed("i1", 2), gone, placed("i2", 4), asked=["i1", "c2", "i2"])


def test_a_command_without_an_answer_and_one_with_two_are_noticed() -> None:
    refused = events.CommandRejected(
        command_id="c1", command_type="Move", code="nothing_to_do", message="nothing gains by it"
    )
    assert problems(refused, refused, asked=["c1", "c2"]) == [
        "c2 was never answered",
        "c1 was answered 2 times",
    ]


def test_memory_promised_twice_is_noticed_where_it_begins() -> None:
    gone = events.InstanceDeleted(instance_id="i1", command_id="c")
    found = problems(placed("i1", 2), placed("i2", 3), gone, asked=["i1", "i2", "c"])
    assert found == ["n1/g1 has 300 bytes, and at 4 400 are promised on it"]


def test_a_decision_on_a_ledger_that_had_moved_on_is_noticed() -> None:
    gone = events.InstanceDeleted(instance_id="i1", command_id="c")
    (found,) = problems(placed("i1", 2), gone, placed("i2", 3), asked=["i1", "i2", "c"])
    assert found == "InstancePlaced at 5 was decided at 3, and InstanceDeleted came between, at 4"


def test_replicas_that_are_missing_and_instances_made_twice_are_noticed() -> None:
    model = placed("i1", 2).model
    scaled = events.DeploymentScaled(
        deployment_id="d", replicas=2, model=model, request=placed("i1", 2).request, command_id="s"
    )
    gone = events.InstanceDeleted(instance_id="i1", command_id="c")
    assert problems(placed("i1", 2), gone, placed("i1", 4, deployment_id="d"), scaled, asked=["s", "c"]) == [
        "i1 was placed as new 2 times",
        "deployment d has 1 replicas instead of 2",
    ]
