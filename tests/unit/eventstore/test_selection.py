"""Which events are about what: by subject on the server, and by what they say."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from shardbus_eventstore.selection import Selection
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas import events, subjects
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, GPUBandwidthMeasured, NodeJoined
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import PlacementRequest, StatePosition
from support.answers import TINY, placed_event, refused_event
from support.histories import START, reading, stored

EVENTS = (
    NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10),
    NodeJoined(node_id="n2", boot_id="b1", heartbeat_seconds=10),
    events.DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1")),
    events.DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g2")),
    placed_event("i1", "n1/g1"),
    placed_event("i2", "n1/g2", "n2/g1"),
    refused_event("c9"),
    events.InstanceLost(instance_id="i2", devices=("n2/g1",), reason="gone"),
    events.DeviceLost(node_id="n1", device_id="g2", reason="gone"),
    events.InstanceDeleted(instance_id="i1", command_id="c8"),
    events.InstanceDeleted(instance_id="i3", command_id="c7"),
    events.Cordoned(node_id="n2", drain=True),
    events.Cordoned(node_id="n1", device_id="g1"),
    events.ShardReported(instance_id="i2", node_id="n2", device_id="g1", state="ready", occurred_at=START),
    events.InstancePending(
        instance_id="i2",
        cause="drained",
        reason="n2 is drained",
        result=refused_event("c").result,
        position=StatePosition(),
    ),
    events.DeploymentScaled(
        deployment_id="d", replicas=1, model=TINY, request=PlacementRequest(model_id="tiny"), command_id="c6"
    ),
    placed_event("i4", "n1/g9", deployment_id="d"),
    events.InstanceDeleted(instance_id="i4", command_id="c5"),
    placed_event("i5", "n9/g9", deployment_id="other"),
)
LINK = {"bandwidth_bytes_per_second": 1e9, "latency_seconds": 0.001, "measured_at": START}
READINGS = (
    DeviceGPUStateUpdated(node_id="n1", states=(reading("g1", "n1"),)),
    DeviceGPUStateUpdated(node_id="n1", states=(reading("g2", "n1"),)),
    DeviceGPUStateUpdated(node_id="n2", states=(reading("g1", "n2"),)),
    GPUBandwidthMeasured.model_validate({"from": "n1", "to": "n2", **LINK}),
    GPUBandwidthMeasured.model_validate({"from": "n3", "to": "n2", **LINK}),
)


def chosen(stream: str, batch: Sequence[Stored], **asked: Any) -> list[int]:
    selection = Selection(stream, **asked)
    patterns = selection.subjects()
    if patterns is None:
        return []
    there = [one for one in batch if not patterns or any(subjects.matches(each, one.subject) for each in patterns)]
    return [one.sequence for one in there if selection.wants(one)]


def _stored(messages: Sequence[Any]) -> list[Stored]:
    return [stored(message, sequence) for sequence, message in enumerate(messages, 1)]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, list(range(1, 20))),
        ({"types": ["NodeJoined"]}, [1, 2]),
        ({"types": ["NodeJoined", "PlacementRejected"]}, [1, 2, 7]),
        ({"node": "n1"}, [1, 3, 4, 5, 6, 8, 9, 10, 13, 15, 17, 18]),
        ({"node": "n2"}, [2, 6, 8, 12, 14, 15]),
        ({"device": DeviceKey("n1/g1")}, [1, 3, 5, 10, 13]),
        ({"device": DeviceKey("n1/g2")}, [1, 4, 6, 8, 9, 15]),
        ({"device": DeviceKey("n2/g1")}, [2, 6, 8, 12, 14, 15]),
        ({"device": DeviceKey("n1/g2"), "types": ["DeviceLost"]}, [9]),
        ({"instance": "i2"}, [6, 8, 14, 15]),
        ({"instance": "i2", "node": "n2"}, [6, 8, 14, 15]),
        ({"instance": "i2", "types": ["InstanceLost"]}, [8]),
        ({"instance": "i2", "types": ["NodeJoined"]}, []),
        ({"deployment": "d"}, [16, 17, 18]),
        ({"deployment": "d", "node": "n1"}, [17, 18]),
        ({"deployment": "e"}, []),
        ({"correlation": "c9"}, [7]),
        ({"correlation": "command-i1"}, [5]),
        ({"correlation": "event-3"}, [3]),
        ({"node": "n2", "device": DeviceKey("n1/g1")}, []),
    ],
)
def test_events_of_the_fleet_are_chosen(asked: dict[str, Any], found: list[int]) -> None:
    assert chosen(FLEET, _stored(EVENTS), **asked) == found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"node": "n1"}, [1, 2, 4]),
        ({"device": DeviceKey("n1/g1")}, [1]),
        ({"types": ["GPUBandwidthMeasured"]}, [4, 5]),
        ({"node": "n2", "types": ["GPUBandwidthMeasured"]}, [4, 5]),
        ({"instance": "i1"}, []),
    ],
)
def test_readings_are_chosen(asked: dict[str, Any], found: list[int]) -> None:
    assert chosen(TELEMETRY, _stored(READINGS), **asked) == found


def test_the_server_is_asked_for_as_little_as_subjects_can_tell() -> None:
    ledger = subjects.INSTANCES_ALL
    assert Selection(FLEET).subjects() == ()
    assert Selection(FLEET, types=["FromTheFuture"]).subjects() == ()
    about = (subjects.event("node", "n1"), subjects.event("cordon", "n1"), ledger, subjects.any_event("shard"))
    assert Selection(FLEET, node="n1").subjects() == about
    assert Selection(FLEET, node="n1", types=["InstancePlaced"]).subjects() == [ledger]
    assert Selection(FLEET, node="n1", types=["NodeJoined"]).subjects() == [subjects.event("node", "n1")]
    assert Selection(FLEET, instance="i1", types=["InstancePlaced"]).subjects() == [subjects.event("instance", "i1")]
    assert Selection(TELEMETRY, device=DeviceKey("n1/g1")).subjects() == (subjects.telemetry("n1"),)
    assert Selection(DEAD, node="n1").subjects() is None


def test_what_caused_a_message_finds_it_and_what_cannot_be_read_is_about_nothing() -> None:
    one = stored(EVENTS[0], 1)
    caused = replace(one, headers={**one.headers, "ce-correlationid": "c1", "ce-causationid": "e1"})
    assert Selection(FLEET, correlation="c1").wants(caused)
    assert Selection(FLEET, correlation="e1").wants(caused)
    assert not Selection(FLEET, correlation="b1").wants(caused), "its boot is mentioned, but did not cause it"
    assert not Selection(FLEET, node="n1").wants(replace(one, payload=b"nonsense"))
