"""What the placer decides with, besides the state."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from shardbus_schemas.access import Grant, Operation
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused

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
class NotAdmitted:
    """Why a command is not for who sent it."""

    code: Literal["access_required", "access_invalid", "access_expired", "access_denied"]
    message: str
    remedy: str


Admission = Callable[[str | None, Operation, datetime], Grant | NotAdmitted | None]
"""A command's access token, what it asks for, and the time: what is granted. ``None``: everything."""


def owner_only(token: str | None, operation: Operation, now: datetime) -> NotAdmitted | None:  # noqa: ARG001 -- an Admission
    """Admit who sends no token, as the owner of the fleet; a token cannot be checked without keys."""
    if token is None:
        return None
    return NotAdmitted(
        "access_invalid",
        "this placer cannot check access tokens, so it grants nothing to a request that carries one",
        "send the request without access_token",
    )


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the placer decides with, besides the state."""

    catalogue: Mapping[str, ModelProfile]
    policy: Policy
    plan: Planner
    rules: LifeRules = field(default_factory=LifeRules)
    admit: Admission = owner_only
