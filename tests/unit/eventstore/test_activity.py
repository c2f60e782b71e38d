"""The fleet at work: how old each figure is, what went wrong, and that nothing is made up."""

from datetime import timedelta

from shardbus_eventstore.activity import activity_of
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    NodeJoined,
    NodeLeft,
)
from support.histories import KEY, START, History, reading

JOINED = NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10)
REGISTERED = DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1", name="RTX 3090"))


def test_a_device_says_when_its_figures_were_told_and_its_node_when_it_was_heard() -> None:
    history = History()
    history.add(JOINED, REGISTERED, seconds=0)
    history.add(DeviceGPUStateUpdated(node_id="n1", states=(reading(memory_used_bytes=5),)), seconds=3)
    history.add(DeviceGPUStateUpdated(node_id="n1", states=()), seconds=9)
    at = START + timedelta(seconds=10)
    activity = activity_of(history.state, at, {KEY: (42.0, 99.0)})
    [node] = activity.nodes
    [device] = node.devices
    assert (activity.at, activity.telemetry_sequence, activity.fleet_sequence) == (at, 2, 2)
    assert node.heard_at == START + timedelta(seconds=9)
    assert device.told_at == START + timedelta(seconds=3)
    assert (device.device.memory_used_bytes, device.device.status) == (5, "ok")
    assert (device.utilization_mean_percent, device.utilization_peak_percent) == (42.0, 99.0)


def test_of_a_device_that_never_told_anything_nothing_is_known() -> None:
    history = History()
    history.add(JOINED, REGISTERED, seconds=0)
    [node] = activity_of(history.state, START, {}).nodes
    [device] = node.devices
    assert (node.heard_at, device.told_at, device.utilization_mean_percent, device.last_fault) == (None,) * 4
    assert (device.faults, device.instances) == (0, ())


def test_faults_and_losses_are_carried_with_their_times() -> None:
    fault = DeviceFaulted(
        node_id="n1", device_id="g1", kind="xid", code=79, message="fell off", is_critical=True, occurred_at=START
    )
    history = History()
    history.add(JOINED, REGISTERED, fault, seconds=0)
    history.add(DeviceLost(node_id="n1", device_id="g1", reason="fell off the bus"), seconds=4)
    history.add(NodeLeft(node_id="n1", boot_id="b1"), seconds=5)
    [node] = activity_of(history.state, START, {}).nodes
    [device] = node.devices
    assert (device.faults, device.last_fault) == (1, fault)
    assert (device.lost_reason, device.lost_at) == ("fell off the bus", START + timedelta(seconds=4))
    assert (node.left_reason, node.left_at) == ("stopped", START + timedelta(seconds=5))
