"""A cut as an answer: stages, hops, objective and prediction in the words of the bus."""

import math
from collections.abc import Mapping, Sequence

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Hop, Movement, ObjectiveValue, PlacementRequest, Prediction, Stage

from shardbus_placer import capacity, tensor
from shardbus_placer.candidates import Candidate, Survey
from shardbus_placer.cut import Cut, stage_seconds
from shardbus_placer.links import Links
from shardbus_placer.policy import Policy
from shardbus_placer.prediction import predict
from shardbus_placer.problem import Problem
from shardbus_placer.situation import Situation

CLOSED = 1e-7
"""Relative distance between value and bound below which the value is proved optimal."""
UNITS = {"throughput": "seconds", "latency": "seconds", "score": "score"}


def stages_of(
    problem: Problem,
    cut: Cut,
    *,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    candidates: Mapping[DeviceKey, Candidate],
) -> tuple[Stage, ...]:
    """Return the stages of a cut, each with what every device must hold."""
    activations = capacity.activation_bytes(model, request, policy)
    stages: list[Stage] = []
    for index, (unit, seconds) in enumerate(zip(cut.order, stage_seconds(cut.order, cut.bounds), strict=True)):
        start, end = cut.bounds[index], cut.bounds[index + 1]
        part = tensor.largest_share(model, len(unit.devices))
        assert part is not None  # or it would be no unit
        share = tensor.share_bytes(problem.memory.stage(start, end), part)
        stages.append(
            Stage(
                devices=unit.devices,
                start_layer=start,
                end_layer=end,
                memory_bytes={
                    key: share + activations + capacity.overhead_bytes(candidates[key].device, request, policy)
                    for key in unit.devices
                },
                seconds=seconds,
            )
        )
    return tuple(stages)


def hops_of(problem: Problem, cut: Cut, links: Links) -> tuple[Hop, ...]:
    """Return the hops between consecutive stages."""
    return tuple(
        Hop.model_validate(
            {
                "from": a.devices[0],
                "to": b.devices[0],
                "seconds": seconds,
                "known": a.node != b.node or problem.nodes[a.node] not in links.guessed,
            }
        )
        for a, b, seconds in zip(cut.order, cut.order[1:], problem.hop_after(cut.order), strict=False)
    )


def objective_of(problem: Problem, cost: float, bound: float | None) -> ObjectiveValue:
    """Return the objective in physical units, with the bound and the gap that were proved."""
    sign = -1.0 if problem.objective == "score" else 1.0
    gap = None
    if bound is not None:
        bound = min(bound, cost)
        gap = (cost - bound) / abs(cost) if cost else 0.0
        if gap <= CLOSED:
            bound, gap = cost, 0.0
    return ObjectiveValue(
        name=problem.objective,
        value=sign * cost,
        unit=UNITS[problem.objective],
        bound=None if bound is None else sign * bound,
        gap=gap,
    )


def movement_in(situation: Situation, stages: Sequence[Stage], cut: Cut) -> Movement | None:
    """Return what a plan has to fetch, ``None`` where nobody said what lies where."""
    if situation.moves is None:
        return None
    moved = math.fsum(unit.moved(*cut.bounds[i : i + 2]) for i, unit in enumerate(cut.order))
    steady = None if situation.horizon_tokens is None else cut.cost - moved
    return situation.moves.movement(stages, steady, situation.horizon_tokens)


def prediction_of(
    stages: Sequence[Stage],
    hops: Sequence[Hop],
    *,
    model: ModelProfile,
    request: PlacementRequest,
    links: Links,
    survey: Survey,
) -> Prediction:
    """Return the plan's speeds, with all that had to be assumed about the devices and links it uses."""
    used = [device for stage in stages for device in stage.devices]
    assumptions = [f"{device}: {text}" for device in used for text in survey.assumptions[device]]
    guessed = sorted({hop.from_device.node_id for hop in hops if not hop.known})
    assumptions += [f"{node}: the link between its devices is unknown, taken from the policy" for node in guessed]
    candidates = {candidate.key: candidate for candidate in survey.candidates}
    return predict(
        stages, hops, model=model, request=request, links=links, candidates=candidates, assumptions=assumptions
    )
