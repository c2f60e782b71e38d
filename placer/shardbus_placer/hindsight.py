"""A past decision taken again: on the state that it saw, by today's planner, under its own rules or others. Pure."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Annotated, Literal, assert_never

from pydantic import Field
from shardbus_eventstore.state import FleetState
from shardbus_schemas import events
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import FrozenModel, Seconds
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName, Placed, RefusalCode, Refused

from shardbus_placer.knowledge import Knowledge
from shardbus_placer.naming import instance_id_of
from shardbus_placer.planning import planned
from shardbus_placer.solution import CLOSED
from shardbus_placer.wanted import Wanted

PlacementAnswer = events.InstancePlaced | events.PlacementPreviewed | events.PlacementRejected
"""What answers a request for a placement."""


def was_planned(answer: PlacementAnswer) -> bool:
    """Return whether a planner was asked: an unknown model or a lost race is answered before that."""
    return not isinstance(answer, events.PlacementRejected) or answer.result.strategy != "none"


def result_of(answer: PlacementAnswer) -> Placed | Refused:
    """Return what the planner said then."""
    match answer:
        case events.InstancePlaced() | events.PlacementPreviewed():
            return answer.plan
        case events.PlacementRejected():
            return answer.result
        case _:
            assert_never(answer)


def model_of(answer: PlacementAnswer, state: FleetState, knowledge: Knowledge) -> ModelProfile | None:
    """Return the model that was planned: as the answer has it, else as it was registered then, else the catalogue's."""
    if answer.model is not None:
        return answer.model
    name = answer.request.wanted_model_id
    registered = state.models.get(name)
    return registered.profile if registered else knowledge.catalogue.get(name)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a decision is taken again by."""

    knowledge: Knowledge
    """Today's planner, with the policy to try."""
    objective: ObjectiveName | None = None
    """In place of each request's own."""
    deadline_ms: float = 10_000
    """In place of each request's own where that is shorter: nobody waits, so time shall not decide."""


def redo(answer: PlacementAnswer, state: FleetState, as_of: datetime, rules: Rules) -> Placed | Refused | None:
    """Return what ``rules`` say to the request that ``answer`` answered; ``None`` if its model is not known any more.

    ``state`` and ``as_of`` are those that it was decided on. With the rules and the planner of then, the same plan.
    """
    model = model_of(answer, state, rules.knowledge)
    if model is None:
        return None
    request = answer.request
    changes: dict[str, object] = {"deadline_ms": max(request.deadline_ms, rules.deadline_ms)}
    if rules.objective is not None:
        changes["objective"] = rules.objective
    grant, deployment_id, barred, without = None, None, (), ()
    if isinstance(answer, events.InstancePlaced):
        grant, deployment_id, barred, without = answer.grant, answer.deployment_id, answer.barred, answer.gave_way
    name = instance_id_of(model.model_id, answer.command_id)
    wanted = Wanted(name, model, request.model_copy(update=changes), grant, deployment_id)
    return planned(wanted, state, as_of, rules.knowledge, barred=barred, without=without)


class HeldLayers(FrozenModel):
    """One stage of a plan: which devices hold which layers."""

    devices: tuple[DeviceKey, ...]
    start_layer: int
    end_layer: int
    """One past the last layer."""


class Verdict(FrozenModel):
    """What matters of an answer when two are compared."""

    refusal: RefusalCode | None = None
    """``None``: it was placed."""
    stages: tuple[HeldLayers, ...] = ()
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    seconds_per_token: Seconds | None = None
    proved: bool
    """Whether nothing better can exist; of a refusal, whether no plan can."""


DifferenceKind = Literal["identical", "other_plan", "now_granted", "now_refused", "other_refusal"]
"""``now_granted``: it was refused and would be placed; ``now_refused``: the reverse."""


class Difference(FrozenModel):
    """One decision and the same one taken again."""

    kind: DifferenceKind
    before: Verdict
    after: Verdict
    equally_good: bool = False
    """Under the same rules, another plan of the same value: either is right."""
    unproved: bool = False
    """It differs under the same rules, and the first answer had no proof, as where its deadline ended the search: more
    time alone may explain it."""


def compare(before: Placed | Refused, after: Placed | Refused, *, same_rules: bool = True) -> Difference:
    """Return what differs: stages and reasons. Times, notes and wording are no difference.

    Under other rules a value says something else, and another answer needs no excuse.
    """
    one, other = verdict_of(before), verdict_of(after)
    kind = _kind(one, other)
    return Difference(
        kind=kind,
        before=one,
        after=other,
        equally_good=same_rules and kind == "other_plan" and _equally_good(before, after),
        unproved=same_rules and kind != "identical" and not one.proved,
    )


def verdict_of(result: Placed | Refused) -> Verdict:
    """Return what matters of an answer."""
    if isinstance(result, Refused):
        # A refusal at sight is counted, one after a search is proved by the solver; both say so themselves.
        return Verdict(refusal=result.refusal.code, proved=result.refusal.proved)
    return Verdict(
        stages=tuple(
            HeldLayers(devices=stage.devices, start_layer=stage.start_layer, end_layer=stage.end_layer)
            for stage in result.stages
        ),
        tokens_per_second=result.predicted.tokens_per_second,
        seconds_per_token=result.predicted.seconds_per_token,
        proved=result.objective.gap is not None and result.objective.gap <= CLOSED,
    )


def _kind(before: Verdict, after: Verdict) -> DifferenceKind:
    if before.refusal is None and after.refusal is None:
        return "identical" if before.stages == after.stages else "other_plan"
    if before.refusal is None:
        return "now_refused"
    if after.refusal is None:
        return "now_granted"
    return "identical" if before.refusal == after.refusal else "other_refusal"


def _equally_good(before: Placed | Refused, after: Placed | Refused) -> bool:
    if isinstance(before, Refused) or isinstance(after, Refused):
        return False
    one, other = before.objective, after.objective
    return one.name == other.name and abs(one.value - other.value) <= CLOSED * max(abs(one.value), abs(other.value))


class Change(FrozenModel):
    """How one predicted figure differs, over all decisions that are placed both times."""

    total_before: float
    total_after: float
    median_change: float
    """Relative, by decision: 0.1 is 10 % more."""


class Summary(FrozenModel):
    """What taking many decisions again came to."""

    decisions: int
    """How many were taken again."""
    kinds: dict[DifferenceKind, int]
    equally_good: int
    unproved_before: int
    """Of those that differ: how many had no proof then."""
    unproved_after: int
    """Of all: how many have none now."""
    tokens_per_second: Change | None = None
    seconds_per_token: Change | None = None
    left_out: dict[str, int]
    """Reason to how many decisions could not be taken again."""


@dataclass(slots=True)
class _Tally:
    """One figure before and after, over many decisions."""

    before: float = 0.0
    after: float = 0.0
    changes: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, before: float, after: float) -> None:
        self.before += before
        self.after += after
        if before > 0:
            self.changes.append(after / before - 1)

    @property
    def change(self) -> Change | None:
        if not self.changes:
            return None
        return Change(total_before=self.before, total_after=self.after, median_change=median(self.changes))


@dataclass(slots=True)
class Reckoning:
    """Adds differences up: two numbers are kept for each decision, and nothing else."""

    kinds: Counter[DifferenceKind] = field(default_factory=Counter[DifferenceKind])
    left_out: Counter[str] = field(default_factory=Counter[str])
    _equally_good: int = 0
    _unproved_before: int = 0
    _unproved_after: int = 0
    _rate: _Tally = field(default_factory=_Tally)
    _wait: _Tally = field(default_factory=_Tally)

    def add(self, difference: Difference) -> None:
        """Count one decision."""
        before, after = difference.before, difference.after
        self.kinds[difference.kind] += 1
        self._equally_good += difference.equally_good
        self._unproved_before += difference.unproved
        self._unproved_after += not after.proved
        if before.tokens_per_second is not None and after.tokens_per_second is not None:
            self._rate.add(before.tokens_per_second, after.tokens_per_second)
        if before.seconds_per_token is not None and after.seconds_per_token is not None:
            self._wait.add(before.seconds_per_token, after.seconds_per_token)

    @property
    def summary(self) -> Summary:
        """What it came to so far."""
        return Summary(
            decisions=self.kinds.total(),
            kinds=dict(self.kinds),
            equally_good=self._equally_good,
            unproved_before=self._unproved_before,
            unproved_after=self._unproved_after,
            tokens_per_second=self._rate.change,
            seconds_per_token=self._wait.change,
            left_out=dict(self.left_out),
        )
