"""All that was worked out about one request before any search, and how much of its deadline is left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest

from shardbus_placer.candidates import Survey
from shardbus_placer.links import Links
from shardbus_placer.movement import Held, Moves
from shardbus_placer.policy import Policy
from shardbus_placer.problem import Problem
from shardbus_placer.score import Score
from shardbus_placer.verify import verify

FINISH_SECONDS = 0.007
FINISH_SECONDS_PER_DEVICE = 0.00015
"""Kept back from the deadline for verifying and explaining the plan."""
VERIFY_SHARE = 0.4
"""Share of what is kept back that verifying may need; explaining stops short of it."""


@dataclass(frozen=True)
class Situation:
    """One request, the fleet as it is seen for it, and the clock."""

    fleet: Fleet
    model: ModelProfile
    request: PlacementRequest
    policy: Policy
    survey: Survey
    links: Links
    scores: dict[DeviceKey, Score]
    problem: Problem
    elapsed: Callable[[], float]
    """Seconds since the request came."""
    held: Held | None = None
    """What of the model lies where already; ``None`` where nobody said."""
    moves: Moves | None = None
    """What plans have to fetch then."""
    horizon_tokens: float | None = None
    """Over how many tokens that is spread in the objective; ``None`` where it is not part of it."""
    variants: Iterable[ModelProfile] = ()
    solve_seconds: float = 0.0
    """What searching and solving took, once they are over."""

    @property
    def seconds_left(self) -> float:
        """Wall time until the deadline, less what finishing takes."""
        return self._until_the_deadline - self._finish_seconds

    def out_of_time_to_explain(self) -> bool:
        """Return whether only the time that verifying takes is left."""
        return self._until_the_deadline < VERIFY_SHARE * self._finish_seconds

    def faults(self, placed: Placed) -> tuple[str, ...]:
        """Return what the verifier finds wrong with a plan."""
        return verify(
            self.fleet,
            self.model,
            self.request,
            self.policy,
            placed,
            held=self.held,
            horizon_tokens=self.horizon_tokens,
        )

    @property
    def _until_the_deadline(self) -> float:
        return self.request.deadline_ms / 1e3 - self.elapsed()

    @property
    def _finish_seconds(self) -> float:
        return FINISH_SECONDS + FINISH_SECONDS_PER_DEVICE * len(self.survey.candidates)
