"""More tokens per second or fewer stages: the plans of a whole fleet among which nobody can choose for you."""

from collections.abc import Callable
from math import ceil

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused

from shardbus_placer import planner
from shardbus_placer.policy import Policy

LITTLE = 1e-6
"""Relative: what a deeper plan must bring more to be worth its depth."""
Planner = Callable[[Fleet, ModelProfile, PlacementRequest, Policy], Placed | Refused]


def front(
    fleet: Fleet,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    *,
    plan: Planner = planner.plan,
) -> tuple[Placed, ...] | Refused:
    """Return the plans that no other beats in both flow and depth, the shallowest first; or why there is none.

    Each depth is a request of its own, with its own deadline, bound and gap. Depths go up to that of the plan found
    without a limit, or to the request's ``max_stages``.
    """
    request = request.model_copy(update={"objective": "fleet_throughput"})
    deepest = plan(fleet, model, request, policy)
    if isinstance(deepest, Refused):
        return deepest
    roomiest = max(verdict.max_layers for verdict in deepest.devices)
    found: list[Placed] = []
    for depth in range(max(1, ceil(model.layers / roomiest)) if roomiest else 1, deepest.depth):
        shallower = plan(fleet, model, request.model_copy(update={"max_stages": depth}), policy)
        if isinstance(shallower, Placed):
            found.append(shallower)
    return _undominated([*found, deepest])


def _undominated(plans: list[Placed]) -> tuple[Placed, ...]:
    kept: list[Placed] = []
    for placed in sorted(plans, key=lambda placed: (placed.depth, -placed.objective.value)):
        if not kept or placed.objective.value > kept[-1].objective.value * (1 + LITTLE):
            kept.append(placed)
    return tuple(kept)
