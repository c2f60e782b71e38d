"""A past decision taken again: on the state that it saw, by today's planner, under its own rules or others. Pure."""

from array import array
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import median
from typing import Annotated, Literal, assert_never

from pydantic import Field
from shardbus_eventstore.state import FleetState
from shardbus_schemas import events
from shardbus_schemas.ids import DeviceKey, InstanceId
from shardbus_schemas.model import FrozenModel, Seconds
from shardbus_schemas.placement import ObjectiveName, Placed, RefusalCode, Refused

from shardbus_placer.finding import Found, within_grant
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.naming import instance_id_of
from shardbus_placer.planning import planned
from shardbus_placer.solution import CLOSED
from shardbus_placer.wanted import Wanted, wanted_of

PlacementAnswer = (
    events.InstancePlaced
    | events.InstanceReplaced
    | events.InstancePending
    | events.PlacementPreviewed
    | events.PlacementRejected
)
"""What says where a model goes, or that it has no place: to a command, or because a placer saw to it."""


def was_planned(answer: PlacementAnswer) -> bool:
    """Return whether a planner was asked, and can be asked the same again.

    An unknown model, a lost race, or who gives way is answered before that; and what the access token of a refused
    request permitted, no event says.
    """
    if isinstance(answer, events.PlacementRejected) and answer.result.refusal.code == "quota_exceeded":
        return False
    return result_of(answer).strategy != "none"


def result_of(answer: PlacementAnswer) -> Placed | Refused:
    """Return what the planner said then."""
    match answer:
        case events.InstancePlaced() | events.InstanceReplaced() | events.PlacementPreviewed():
            return answer.plan
        case events.PlacementRejected() | events.InstancePending():
            return answer.result
        case _:
            assert_never(answer)


def wanted_by(answer: PlacementAnswer, state: FleetState, knowledge: Knowledge) -> Wanted | None:
    """Return what was to be placed, as the answer has it or as ``state`` had it; ``None`` if neither does.

    A model that the answer does not have is the one that was registered then, else the catalogue's.
    """
    match answer:
        case events.InstanceReplaced() | events.InstancePending():
            if isinstance(answer, events.InstancePending) and answer.model is not None and answer.request is not None:
                grant, deployment_id = answer.grant, answer.deployment_id
                return Wanted(answer.instance_id, answer.model, answer.request, grant, deployment_id)
            record = state.instances.get(answer.instance_id)
            return None if record is None else wanted_of(record)
        case events.InstancePlaced():
            return Wanted(answer.instance_id, answer.model, answer.request, answer.grant, answer.deployment_id)
        case events.PlacementPreviewed() | events.PlacementRejected():
            name = answer.request.wanted_model_id
            registered = state.models.get(name)
            known = registered.profile if registered else knowledge.catalogue.get(name)
            model = answer.model or known
            if model is None:
                return None
            return Wanted(instance_id_of(model.model_id, answer.command_id), model, answer.request)


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
    """Return what ``rules`` say to what ``answer`` is about; ``None`` if that, or its model, is not known any more.

    ``state`` and ``as_of`` are those that it was decided on. With the rules and the planner of then, the same plan:
    what was barred is barred, what gave way is gone, and of an instance that had a place as little moves as then.
    """
    wanted = wanted_by(answer, state, rules.knowledge)
    if wanted is None:
        return None
    changes: dict[str, object] = {"deadline_ms": max(wanted.request.deadline_ms, rules.deadline_ms)}
    if rules.objective is not None:
        changes["objective"] = rules.objective
    barred, without, horizon = _given(answer, rules)
    again = replace(wanted, request=wanted.request.model_copy(update=changes))
    result = planned(again, state, as_of, rules.knowledge, barred=barred, without=without, horizon_tokens=horizon)
    return within_grant(again, Found(result), state).result


def _given(answer: PlacementAnswer, rules: Rules) -> tuple[Collection[str], Collection[InstanceId], float | None]:
    """Return what was barred, what gave way, and for how many tokens a plan was expected to stand."""
    match answer:
        case events.InstancePlaced():
            return answer.barred, answer.gave_way, None
        case events.InstanceReplaced():
            movement = answer.plan.movement
            return answer.barred, answer.gave_way, None if movement is None else movement.horizon_tokens
        case events.InstancePending():
            # Its refusal does not say; a plan that is found in its place is one of a repair.
            return answer.barred, (), rules.knowledge.rules.repair_horizon_tokens
        case events.PlacementPreviewed() | events.PlacementRejected():
            return (), (), None


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
