"""Events of instances by hand: placed, moved, waiting, and what their runtimes say."""

from typing import Any

from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import CommandId, DeploymentId, DeviceKey, InstanceId
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
from support.histories import START

MODEL = ModelProfile(model_id="tiny", layers=4, layer_bytes=1000)
REQUEST = PlacementRequest(model_id="tiny")


def node(name: str, *devices: str) -> tuple[events.NodeJoined | events.DeviceRegistered, ...]:
    """Return what a node's agent says when it starts; ``GPU-1=cuda:0`` is a device with its label."""
    facts = [DeviceFacts(device_id=part[0], label=part[2] or None) for part in (one.partition("=") for one in devices)]
    return (
        events.NodeJoined(node_id=name, boot_id="b", heartbeat_seconds=10),
        *(events.DeviceRegistered(node_id=name, device=each) for each in facts),
    )


def plan(*devices: str) -> Placed:
    """Return a plan with a stage of two layers for each device."""
    stages = tuple(
        Stage(
            devices=(DeviceKey(device),),
            start_layer=2 * index,
            end_layer=2 * index + 2,
            memory_bytes={DeviceKey(device): 2000},
            seconds=0.01,
        )
        for index, device in enumerate(devices)
    )
    return Placed(
        model_id="tiny",
        strategy="greedy",
        strategy_reason="test",
        stages=stages,
        objective=ObjectiveValue(name="latency", value=1, unit="seconds"),
        predicted=Prediction(seconds_per_token=1, tokens_per_second=1),
        solver=SolverReport(name="greedy", status="feasible", seconds=0),
    )


def refused(message: str = "no room") -> Refused:
    """Return why there is no place."""
    refusal = Refusal(code="insufficient_memory", message=message)
    return Refused(model_id="tiny", strategy="greedy", strategy_reason="test", refusal=refusal)


def placed(instance: str, *devices: str, command: str = "c", deployment: str | None = None) -> events.InstancePlaced:
    """Return that an instance was placed on these devices."""
    return events.InstancePlaced(
        instance_id=InstanceId(instance),
        command_id=CommandId(f"{command}-{instance}"),
        model=MODEL,
        request=REQUEST,
        plan=plan(*devices),
        position=StatePosition(),
        deployment_id=None if deployment is None else DeploymentId(deployment),
    )


def moved(instance: str, *devices: str) -> events.InstanceReplaced:
    """Return that an instance has another plan."""
    return events.InstanceReplaced(
        instance_id=InstanceId(instance), plan=plan(*devices), reason="moved", position=StatePosition(), cause="moved"
    )


def waits(instance: str, why: str = "no room", *, deployment: str | None = None) -> events.InstancePending:
    """Return that an instance has no place; of a new one, too."""
    return events.InstancePending(
        instance_id=InstanceId(instance),
        command_id=CommandId(f"p-{instance}"),
        reason=why,
        cause="no_room",
        result=refused(why),
        position=StatePosition(),
        model=MODEL,
        request=REQUEST,
        deployment_id=None if deployment is None else DeploymentId(deployment),
    )


def deleted(instance: str) -> events.InstanceDeleted:
    """Return that an instance is not wanted any more."""
    return events.InstanceDeleted(instance_id=InstanceId(instance))


def said(instance: str, device: str, state: events.ShardState, **more: Any) -> events.ShardReported:
    """Return what a runtime says of its shard."""
    key = DeviceKey(device)
    return events.ShardReported(
        instance_id=InstanceId(instance),
        node_id=key.node_id,
        device_id=key.device_id,
        state=state,
        occurred_at=START,
        **more,
    )


def scaled(deployment: str, replicas: int) -> events.DeploymentScaled:
    """Return that so many replicas are wanted."""
    return events.DeploymentScaled(
        deployment_id=DeploymentId(deployment),
        replicas=replicas,
        model=MODEL,
        request=REQUEST,
        command_id=CommandId(f"s-{deployment}-{replicas}"),
    )
