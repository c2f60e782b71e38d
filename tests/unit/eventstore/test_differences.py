"""What a person is told of two moments."""

from typing import Any

import pytest
from shardbus_eventstore.differences import Difference, differences
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, GPUBandwidthMeasured, NodeJoined, NodeLeft
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import PlacementRequest, StatePosition
from support.answers import TINY, placed_event, plan_on, refused_event
from support.histories import START, History, reading

GIB = 2**30


def joined(boot: str = "b1", **more: Any) -> NodeJoined:
    return NodeJoined(node_id="n1", boot_id=boot, heartbeat_seconds=10, **more)


def registered(device: str = "g1", **facts: Any) -> events.DeviceRegistered:
    return events.DeviceRegistered(node_id="n1", device=DeviceFacts(device_id=device, **facts))


def tick(number: int, **readings: Any) -> DeviceGPUStateUpdated:
    return DeviceGPUStateUpdated(node_id="n1", boot_id="b1", tick=number, states=(reading(**readings),))


def link(bandwidth: float, latency: float = 0.001) -> GPUBandwidthMeasured:
    return GPUBandwidthMeasured.model_validate(
        {
            "from": "n1",
            "to": "n2",
            "bandwidth_bytes_per_second": bandwidth,
            "latency_seconds": latency,
            "measured_at": START,
        }
    )


REGISTERED = registered(name="RTX 3090")
MOVED = events.InstanceReplaced(
    instance_id="i1", command_id="c2", plan=plan_on("n1/g2"), reason="better", position=StatePosition()
)
LOST = events.InstanceLost(instance_id="i1", devices=("n1/g1",), reason="gone")
DELETED = events.InstanceDeleted(instance_id="i1", command_id="c3", reason="enough")
FAULT = events.DeviceFaulted(
    node_id="n1", device_id="g1", kind="xid", code=79, message="fell off the bus", occurred_at=START
)


def found(before: list[FrozenModel], since: list[FrozenModel]) -> list[Difference]:
    history = History()
    if before:
        history.add(*before, seconds=0)
    was = history.state
    history.add(*since, seconds=1)
    return list(differences(was, START, history.state, START))


def told(*rows: tuple[Any, ...]) -> list[Difference]:
    names = ("kind", "name", "change", "before", "after")
    return [Difference(**dict(zip(names, row, strict=False))) for row in rows]


KEY = "n1/g1"
DRAINED = events.Cordoned(node_id="n1", drain=True, reason="new power supply")
CORDONED = events.Cordoned(node_id="n1", reason="smells")
READY = events.ShardReported(instance_id="i1", node_id="n1", device_id="g1", state="ready", occurred_at=START)
FAILED = READY.model_copy(update={"state": "failed", "message": "out of memory"})
ELSEWHERE = READY.model_copy(update={"device_id": "g7"})


def pending(reason: str, **more: Any) -> events.InstancePending:
    refused = refused_event("c").result
    return events.InstancePending(
        instance_id="i1", cause="drained", reason=reason, result=refused, position=StatePosition(), **more
    )


def scaled(replicas: int) -> events.DeploymentScaled:
    request = PlacementRequest(model_id="tiny")
    return events.DeploymentScaled(deployment_id="d", replicas=replicas, model=TINY, request=request, command_id="c9")


@pytest.mark.parametrize(
    ("before", "since", "rows"),
    [
        ([], [joined()], [("node", "n1", "joined")]),
        ([joined()], [NodeLeft(node_id="n1", boot_id="b1")], [("node", "n1", "left", None, "stopped")]),
        ([joined()], [joined("b2")], [("node", "n1", "restarted", "b1", "b2")]),
        ([joined()], [joined(labels={"room": "attic"})], [("node", "n1", "labels", {}, {"room": "attic"})]),
        ([joined()], [REGISTERED], [("device", KEY, "registered", None, "RTX 3090")]),
        (
            [joined(), REGISTERED],
            [events.DeviceLost(node_id="n1", device_id="g1", reason="XID 79")],
            [("device", KEY, "lost", None, "XID 79")],
        ),
        (
            [joined(), REGISTERED, events.DeviceLost(node_id="n1", device_id="g1", reason="XID 79")],
            [REGISTERED],
            [("device", KEY, "returned", "XID 79")],
        ),
        (
            [joined(), REGISTERED],
            [registered(name="RTX 3090", driver="570.1")],
            [("device", KEY, "driver", None, "570.1")],
        ),
        ([joined(), REGISTERED], [FAULT], [("device", KEY, "faults", 0, "1, the last: fell off the bus")]),
        ([], [link(1e9)], [("link", "n1 > n2", "measured", None, 1e9)]),
        ([link(1e9)], [link(0.95e9)], []),
        ([link(1e9)], [link(0.5e9)], [("link", "n1 > n2", "bandwidth_bytes_per_second", 1e9, 0.5e9)]),
        ([link(1e9)], [link(1e9, 0.002)], [("link", "n1 > n2", "latency_seconds", 0.001, 0.002)]),
        ([], [placed_event("i1")], [("instance", "i1", "placed", None, "n1/g1 [0-0]")]),
        ([placed_event("i1")], [MOVED], [("instance", "i1", "moved", "n1/g1 [0-0]", "n1/g2 [0-0]")]),
        ([placed_event("i1")], [DELETED], [("instance", "i1", "deleted", "n1/g1 [0-0]", "enough")]),
        ([placed_event("i1")], [LOST], [("instance", "i1", "lost", "n1/g1 [0-0]", "gone")]),
        ([placed_event("i1"), LOST], [MOVED], [("instance", "i1", "placed", None, "n1/g2 [0-0]")]),
        ([], [placed_event("i1"), DELETED], []),
        ([placed_event("i1")], [pending("n1 left")], [("instance", "i1", "pending", "n1/g1 [0-0]", "n1 left")]),
        (
            [placed_event("i1"), pending("n1 left")],
            [pending("still full")],
            [("instance", "i1", "still pending", "n1 left", "still full")],
        ),
        ([placed_event("i1"), pending("n1 left")], [pending("n1 left")], []),
        ([placed_event("i1"), pending("n1 left")], [MOVED], [("instance", "i1", "placed", None, "n1/g2 [0-0]")]),
        ([], [DRAINED], [("cordon", "n1", "drained", None, "new power supply")]),
        ([CORDONED], [DRAINED], [("cordon", "n1", "drained", "cordoned", "new power supply")]),
        ([DRAINED], [events.Uncordoned(node_id="n1")], [("cordon", "n1", "uncordoned", "drained")]),
        ([], [DRAINED, events.Uncordoned(node_id="n1")], []),
        ([placed_event("i1")], [READY], [("shard", "i1 on n1/g1", "ready")]),
        ([placed_event("i1"), READY], [FAILED], [("shard", "i1 on n1/g1", "failed", "ready", "out of memory")]),
        ([placed_event("i1"), READY], [READY, ELSEWHERE], []),
        ([], [scaled(2)], [("deployment", "d", "replicas", None, 2)]),
        ([scaled(2)], [scaled(3)], [("deployment", "d", "replicas", 2, 3)]),
        ([scaled(2)], [scaled(2)], []),
        ([], [events.ModelRegistered(profile=TINY)], [("model", "tiny", "registered")]),
        (
            [events.ModelRegistered(profile=TINY)],
            [events.ModelRegistered(profile=TINY.model_copy(update={"layers": 3}))],
            [("model", "tiny", "replaced")],
        ),
        ([events.ModelRegistered(profile=TINY)], [events.ModelRegistered(profile=TINY)], []),
    ],
)
def test_each_kind_of_change_is_told(
    before: list[FrozenModel], since: list[FrozenModel], rows: list[tuple[Any, ...]]
) -> None:
    assert found(before, since) == told(*rows)


@pytest.mark.parametrize(
    ("was", "now", "changes"),
    [
        ({"memory_used_bytes": GIB}, {"memory_used_bytes": GIB + 10**8}, []),
        ({"memory_used_bytes": GIB}, {"memory_used_bytes": 3 * GIB}, ["memory_used_bytes"]),
        (
            {"memory_used_bytes": GIB, "memory_total_bytes": 4 * GIB},
            {"memory_used_bytes": GIB + 10**8, "memory_total_bytes": 4 * GIB},
            ["memory_used_bytes"],
        ),
        ({"thermal_temperature_c": 60.0}, {"thermal_temperature_c": 64.0}, []),
        ({"thermal_temperature_c": 60.0}, {"thermal_temperature_c": 66.0}, ["thermal_temperature_c"]),
        ({"compute_utilization_percent": 10.0}, {"compute_utilization_percent": 95.0}, ["compute_utilization_percent"]),
        ({"power_watts": None}, {"power_watts": 3.0}, ["power_watts"]),
        ({"health": "ok"}, {"health": "failed"}, ["health"]),
        ({"throttle_reasons": ()}, {"throttle_reasons": ("power_cap",)}, ["throttle_reasons"]),
    ],
)
def test_a_reading_is_told_if_it_moved_notably(was: dict[str, Any], now: dict[str, Any], changes: list[str]) -> None:
    before = [joined(), REGISTERED, tick(1, **was)]
    assert [one.change for one in found(before, [tick(2, **now)]) if one.kind == "reading"] == changes


def test_a_device_that_fell_silent_is_told_as_its_status() -> None:
    history = History()
    history.add(joined(), REGISTERED, tick(1), seconds=0)
    later = START.replace(minute=5)
    assert differences(history.state, START, history.state, later) == tuple(
        told(("device", KEY, "status", "ok", "stale"))
    )
