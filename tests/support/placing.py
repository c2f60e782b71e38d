"""A fleet of one device, and a planner of one rule, for tests of what surrounds the planner."""

from collections.abc import Iterable, Sequence

from shardbus_placer.knowledge import Knowledge
from shardbus_placer.policy import Policy
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model import FrozenModel
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
)

TINY = ModelProfile(model_id="tiny", layers=4, layer_bytes=1000)


def attic() -> Sequence[FrozenModel]:
    return (
        events.NodeJoined(node_id="attic", boot_id="b", heartbeat_seconds=10),
        events.DeviceRegistered(
            node_id="attic", device=DeviceFacts(device_id="cuda:0", backend="cuda", memory_total_bytes=10_000)
        ),
    )


def placed_on(
    fleet: Fleet,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    *,
    held: object = None,
    horizon_tokens: float | None = None,
    variants: Iterable[ModelProfile] = (),
) -> Placed | Refused:
    """A planner of one rule: everything on the first device, if it is free."""
    key, _, device = next(iter(fleet.devices()))
    if device.memory_reserved_bytes:
        refusal = Refusal(code="insufficient_memory", message="taken")
        return Refused(model_id=model.model_id, strategy="greedy", strategy_reason="test", refusal=refusal)
    stage = Stage(devices=(key,), start_layer=0, end_layer=model.layers, memory_bytes={key: 4000}, seconds=1)
    return Placed(
        model_id=model.model_id,
        strategy="greedy",
        strategy_reason="test",
        stages=(stage,),
        objective=ObjectiveValue(name=request.objective, value=1, unit="seconds"),
        predicted=Prediction(seconds_per_token=1, tokens_per_second=1),
        solver=SolverReport(name="greedy", status="feasible", seconds=0),
    )


KNOWLEDGE = Knowledge({"tiny": TINY}, Policy(), placed_on)
