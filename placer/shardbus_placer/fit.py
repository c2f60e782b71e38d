"""Which models a fleet can hold, how fast each would run, and how much is missing for the others."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import ModelId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, RefusalCode

from shardbus_placer import capacity
from shardbus_placer.candidates import survey
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy

CONTEXT_STEP = 1024
"""The longest context is sought in multiples of so many tokens."""
LONGEST_CONTEXT = 1 << 20
"""How far it is sought for a model that does not say its own limit."""
SHORT = "memory is short"
"""Why most models do not fit."""


class Fit(FrozenModel):
    """One model on one fleet."""

    model_id: ModelId
    parameters: int | None = None
    weight_bytes: int
    fits: bool | None
    """``None``: the deadline passed before an answer."""
    tokens_per_second: float | None = None
    seconds_per_token: float | None = None
    devices: int = 0
    nodes: int = 0
    memory_bytes: int | None = None
    """What all devices together would hold."""
    gap: float | None = None
    """0 is proved optimal; ``None``: nothing proved."""
    longest_context_tokens: int | None = None
    """At most the model's own limit; ``None`` unless asked for."""
    missing_bytes: int | None = None
    """``None`` where memory is not what is missing."""
    code: RefusalCode | None = None
    why: str = ""
    """Why it does not fit."""
    instead_of: ModelId | None = None
    """The published model that does not fit, and that this smaller one stands in for."""


def fit(
    fleet: Fleet,
    groups: Iterable[Sequence[ModelProfile]],
    request: PlacementRequest,
    policy: Policy,
    *,
    longest_context: bool = False,
) -> Iterator[Fit]:
    """Yield the first model of each group; where it does not fit, also the largest of its group that does.

    A group is a model as published, then the same in other quantisations. The request's own model does not matter.
    """
    for group in groups:
        first, *others = group
        found = fit_one(fleet, first, request, policy, longest_context=longest_context)
        yield found
        if found.fits is False:
            smaller = sorted(
                (profile for profile in others if profile.weight_bytes < first.weight_bytes),
                key=lambda profile: (-profile.weight_bytes, profile.model_id),
            )
            for profile in smaller:
                tried = fit_one(fleet, profile, request, policy, longest_context=longest_context)
                if tried.fits:
                    yield tried.model_copy(update={"instead_of": first.model_id})
                    break


def fit_one(
    fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, *, longest_context: bool = False
) -> Fit:
    """Return whether ``model`` fits and how fast it would be, or how much is missing."""
    request = request.model_copy(update={"model_id": None, "model": model})
    fit_of = partial(Fit, model_id=model.model_id, parameters=model.parameters, weight_bytes=model.weight_bytes)
    required, available = _counted(fleet, model, request, policy)
    if available and required > available:  # counting is a proof, and spares the search for remedies
        return fit_of(fits=False, missing_bytes=required - available, code="insufficient_memory", why=SHORT)
    answer = plan(fleet, model, request, policy)
    if isinstance(answer, Placed):
        return fit_of(
            fits=True,
            tokens_per_second=answer.predicted.tokens_per_second,
            seconds_per_token=answer.predicted.seconds_per_token,
            devices=len(answer.memory_by_device),
            nodes=len(answer.nodes),
            memory_bytes=sum(answer.memory_by_device.values()),
            gap=answer.objective.gap,
            longest_context_tokens=_longest_context(fleet, model, request, policy) if longest_context else None,
        )
    refusal = answer.refusal
    missing = required - available if required > available else refusal.missing_bytes
    return fit_of(
        fits=False if refusal.proved else None,
        missing_bytes=missing,
        code=refusal.code,
        why=SHORT if refusal.code == "insufficient_memory" else refusal.message,
    )


def ranked(fits: Iterable[Fit]) -> list[Fit]:
    """Return the models that fit, the largest first; then those that do not, the nearest first."""

    def place(one: Fit) -> tuple[int, float, float, str]:
        if one.fits:
            return 0, -float(one.parameters or 0), -float(one.weight_bytes), one.model_id
        missing = float("inf") if one.missing_bytes is None else float(one.missing_bytes)
        return 1 if one.fits is None else 2, missing, float(one.weight_bytes), one.model_id

    return sorted(fits, key=place)


def _counted(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> tuple[int, int]:
    """Return the bytes of all layers with their cache and ends, and what all usable devices have room for."""
    surveyed = survey(fleet, model, request, policy)
    room = sum(max(0, candidate.room_bytes) for candidate in surveyed.candidates)
    return capacity.layer_memory(model, request).stage(0, model.layers), room


def _longest_context(fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy) -> int:
    """Return the longest context that fits, in steps, by halving; the request's own is known to fit."""

    def holds(tokens: int) -> bool:
        asked = request.model_copy(update={"context_tokens": tokens})
        required, available = _counted(fleet, model, asked, policy)
        return required <= available and isinstance(plan(fleet, model, asked, policy), Placed)

    low, high = request.context_tokens, model.max_context_tokens or LONGEST_CONTEXT
    if high <= low or holds(high):
        return max(low, high)
    while high - low > CONTEXT_STEP:
        middle = (low + high) // 2 // CONTEXT_STEP * CONTEXT_STEP
        if middle <= low:
            break
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
