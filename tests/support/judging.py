"""What a plan is worth, whoever made it: by formulas written apart from the planner's, the same for everyone."""

from dataclasses import dataclass

from shardbus_placer.policy import Policy
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from support.brute_force import BruteForce
from support.peers import Shards


@dataclass(frozen=True)
class Judgement:
    """What one plan comes to."""

    value: float
    """The request's objective: seconds per token, or of the slowest stage with its hop."""
    overcommitted: tuple[DeviceKey, ...]
    """Devices that would have to hold more than they have free."""


def judge(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, shards: Shards) -> Judgement:
    """Return what a plan of single devices is worth."""
    referee = BruteForce(fleet, model, request, policy)
    order = tuple((key,) for key, _, _ in shards)
    bounds = (0, *(end for _, _, end in shards))
    full = tuple(key for key, start, end in shards if referee.needed(key, start, end, 1) > referee.free(key))
    return Judgement(referee._objective(order, bounds, {}), full)
