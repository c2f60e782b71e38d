"""What the placer decides with, besides the state."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused

from shardbus_placer.access.check import Access
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.movement import Held
from shardbus_placer.policy import Policy


class Planner(Protocol):
    """``planner.plan``, or another policy's."""

    def __call__(
        self,
        fleet: Fleet,
        model: ModelProfile,
        request: PlacementRequest,
        policy: Policy,
        *,
        held: Held | None = None,
        horizon_tokens: float | None = None,
        variants: Iterable[ModelProfile] = (),
    ) -> Placed | Refused:
        """Return where ``model`` goes, or why it cannot, naming one of ``variants`` that fits."""
        ...


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the placer decides with, besides the state."""

    catalogue: Mapping[str, ModelProfile]
    policy: Policy
    plan: Planner
    rules: LifeRules = field(default_factory=LifeRules)
    access: Access = field(default_factory=lambda: Access({}))
    """What access tokens are checked with at this moment."""
