"""What is wanted, as rows: where it is or why it is nowhere, and what its runtimes say."""

from typing import Any

import pytest
from shardbus_console.commands.scale import deployment_row, scale_command
from shardbus_console.cordon_view import cordon_rows
from shardbus_console.exits import CommandError
from shardbus_console.instance_view import instance_lines, instance_row, print_instance, shard_rows
from shardbus_eventstore.cordoned import CordonedDevice
from shardbus_eventstore.read_model.queries import DeploymentView, InstanceView, ShardView
from shardbus_schemas.ids import DeviceKey
from support.histories import START
from support.wanted import REQUEST, plan, refused


def shard(device: str, state: str = "wanted", **more: Any) -> ShardView:
    told = {"state_since": None, "memory_used_bytes": None, "message": None, "failures": 0, **more}
    return ShardView(
        stage=0,
        device=DeviceKey(device),
        start_layer=0,
        end_layer=2,
        memory_bytes=2048,
        seconds=0.1,
        state=state,
        **told,
    )


def view(**more: Any) -> InstanceView:
    fields: dict[str, Any] = {
        "instance_id": "one",
        "command_id": "c",
        "model_id": "tiny",
        "status": "placed",
        "strategy": "greedy",
        "request": REQUEST,
        "plan": plan("attic/g0"),
        "shards": (shard("attic/g0"),),
        "created_at": START,
        "updated_at": START,
        "reason": None,
    }
    return InstanceView(**(fields | more))


PENDING = view(
    status="pending", plan=plan("attic/g0"), shards=(), reason="attic is drained", refusal=refused("desk is full")
)


def test_what_is_placed_says_where_and_how_much_of_it_is_ready() -> None:
    row = instance_row(view(deployment_id="chat", request=REQUEST.model_copy(update={"priority": 3})))
    assert row["on"] == "attic/g0 [0-1]"
    assert (row["status"], row["shards"], row["replica of"], row["priority"]) == ("placed", "0/1 ready", "chat", 3)


def test_what_waits_says_why_and_not_where_it_was() -> None:
    row = instance_row(PENDING)
    assert (row["status"], row["shards"], row["on"], row["tokens/s"]) == ("pending", "", "attic is drained", "")
    lines = instance_lines(view(**dict(PENDING) | {"gave_way_to": "two", "asked_by": "ann", "deployment_id": "chat"}))
    assert lines[0] == "one is pending since 2026-11-20 10:00:00 UTC: attic is drained"
    assert lines[1:4] == ["a replica of chat", "asked for by ann", "it gave way to two"]
    assert lines[4] == "refused (insufficient_memory): desk is full"


def test_one_that_waits_is_shown_without_the_plan_that_it_lost(capsys: pytest.CaptureFixture[str]) -> None:
    print_instance(PENDING)
    shown = capsys.readouterr().out
    assert "desk is full" in shown
    assert "attic/g0" not in shown


def test_each_shard_says_what_its_runtime_does() -> None:
    told = shard("attic/g0", "failed", state_since=START, memory_used_bytes=1024, message="out of memory", failures=2)
    assert shard_rows(view(shards=(told, shard("attic/g1")))) == [
        {
            "device": "attic/g0",
            "layers": "0-1",
            "state": "failed",
            "since": "2026-11-20 10:00:00",
            "promised": "2 KiB",
            "used": "1 KiB",
            "failures": 2,
            "message": "out of memory",
        },
        {
            "device": "attic/g1",
            "layers": "0-1",
            "state": "wanted",
            "since": "",
            "promised": "2 KiB",
            "used": "",
            "failures": "",
            "message": "",
        },
    ]


def test_a_deployment_says_how_many_are_wanted_placed_and_waiting() -> None:
    row = deployment_row(
        DeploymentView(
            deployment_id="chat",
            model_id="tiny",
            replicas=3,
            placed=2,
            pending=1,
            spread_by="site",
            created_at=START,
            updated_at=START,
        )
    )
    assert (row["wanted"], row["placed"], row["pending"], row["spread by"]) == (3, 2, 1, "site")


def test_a_node_drains_until_its_last_device_is_drained() -> None:
    def cordoned(target: str, standing: Any) -> CordonedDevice:
        return CordonedDevice(standing=standing, target=target, reason="dust", since=START)

    rows = cordon_rows(
        {
            DeviceKey("attic/g0"): cordoned("attic", "drained"),
            DeviceKey("attic/g1"): cordoned("attic", "draining"),
            DeviceKey("desk/g0"): cordoned("desk/g0", "cordoned"),
        }
    )
    assert [(row["target"], row["standing"], row["reason"]) for row in rows] == [
        ("attic", "draining", "dust"),
        ("desk/g0", "cordoned", "dust"),
    ]


def test_a_wrong_condition_of_a_deployment_is_said() -> None:
    with pytest.raises(CommandError, match="max_nodes 1 is less than min_nodes 2"):
        scale_command({"model_id": "tiny", "replicas": 2, "min_nodes": 2, "max_nodes": 1})
    assert scale_command({"model_id": "tiny", "replicas": 2, "spread_by": None}).spread_by is None
