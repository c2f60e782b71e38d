"""Whether a plan keeps every promise, worked out again from the raw inputs.

Nothing here calls the planner's capacity or cost code: memory, coverage, links, conditions, times and the
objective are computed a second time, from the fleet, the model, the request and the policy's figures. An error
in the planner is then seen here, and not on a GPU.
"""

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest

from shardbus_placer.checks import flow, memory, movement, places, shape, times
from shardbus_placer.checks.claim import Claim
from shardbus_placer.movement import Held
from shardbus_placer.policy import Policy

_OF_A_PIPELINE = (
    shape.members,
    shape.coverage,
    memory.memory,
    places.places,
    shape.conditions,
    shape.tensor_groups,
    times.hops,
    times.stage_times,
    movement.movement,
    times.objective,
    times.prefill,
)
_OF_A_FLOW = (
    shape.members,
    memory.memory,
    places.places,
    shape.tensor_groups,
    times.stage_times,
    flow.ranges,
    shape.conditions,
    flow.amounts,
    flow.promises,
    movement.movement,
)


def verify(
    fleet: Fleet,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    placed: Placed,
    *,
    held: Held | None = None,
    horizon_tokens: float | None = None,
) -> tuple[str, ...]:
    """Return everything that is wrong with the plan, one sentence each; empty means it holds.

    ``held`` and ``horizon_tokens`` are what ``plan`` was given: what it says of moving is held against them.
    """
    claim = Claim(fleet, model, request, policy, placed, held, horizon_tokens)
    for check in _OF_A_FLOW if request.objective == "fleet_throughput" else _OF_A_PIPELINE:
        wrong = tuple(check(claim))
        if wrong:  # later checks rely on what earlier ones made sure of
            return wrong
    return ()
