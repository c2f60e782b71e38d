"""Answers of a placer, as short as can be."""

from typing import Any

from shardbus_schemas import events
from shardbus_schemas.ids import CommandId, DeviceKey, InstanceId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import (
    DeviceVerdict,
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

TINY = ModelProfile(model_id="tiny", layers=2, layer_bytes=100)


def plan_on(*devices: str, memory: int = 200) -> Placed:
    """Return a plan that holds one layer after the other on ``devices``."""
    keys = [DeviceKey(device) for device in devices]
    return Placed(
        model_id="tiny",
        strategy="greedy",
        strategy_reason="test",
        stages=tuple(
            Stage(devices=(key,), start_layer=index, end_layer=index + 1, memory_bytes={key: memory}, seconds=0.1)
            for index, key in enumerate(keys)
        ),
        objective=ObjectiveValue(name="throughput", value=0.1, unit="seconds"),
        predicted=Prediction(seconds_per_token=0.1, tokens_per_second=10),
        solver=SolverReport(name="greedy", status="feasible", seconds=0),
        devices=tuple(DeviceVerdict(device=key, score=1, chosen=True, why="it fits") for key in keys),
    )


def placed_event(instance: str, *devices: str, command: str | None = None, **more: Any) -> events.InstancePlaced:
    """Return the placement of ``instance`` on ``devices``, by the command ``command-<instance>``."""
    return events.InstancePlaced(
        instance_id=InstanceId(instance),
        command_id=CommandId(command or f"command-{instance}"),
        model=TINY,
        request=PlacementRequest(model_id="tiny"),
        plan=plan_on(*(devices or ("n1/g1",))),
        **({"position": StatePosition()} | more),
    )


def refused_event(command: str, **more: Any) -> events.PlacementRejected:
    """Return the refusal of a placement."""
    refusal = Refusal(code="insufficient_memory", message="1 byte is missing", missing_bytes=1)
    return events.PlacementRejected(
        command_id=CommandId(command),
        model_id="tiny",
        request=PlacementRequest(model_id="tiny"),
        result=Refused(model_id="tiny", strategy="greedy", strategy_reason="test", refusal=refusal),
        **({"position": StatePosition()} | more),
    )
