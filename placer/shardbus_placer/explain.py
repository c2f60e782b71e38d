"""Why each device is, or is not, in the plan: one sentence for a person, from figures that are already there."""

import math
from collections.abc import Callable, Mapping, Sequence

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import DeviceVerdict
from shardbus_schemas.units import seconds_text

from shardbus_placer.binding import is_full
from shardbus_placer.candidates import Candidate, Survey
from shardbus_placer.cost import speed_factor
from shardbus_placer.cut import Cut, best_cut, stage_seconds
from shardbus_placer.policy import Policy
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.runner_up import EQUAL, inserted, kind_of, tries_within
from shardbus_placer.score import Score

MOST_STEPS = 300
"""How many stages may be cut in all to say what one device more would change."""
SEARCHED = 8
"""Cuts that it takes to find the slowest stage's time of one order."""


def verdicts(
    survey: Survey,
    scores: Mapping[DeviceKey, Score],
    policy: Policy,
    problem: Problem | None = None,
    cut: Cut | None = None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> tuple[DeviceVerdict, ...]:
    """Return what was made of each device, by key; without a ``cut`` there is no plan."""
    said = {} if problem is None or cut is None else _chosen(problem, cut, survey)
    if problem is not None and cut is not None:
        said |= _left_out(problem, cut, [one.key for one in survey.candidates if one.key not in said], out_of_time)
    holding: set[DeviceKey] = set() if cut is None else {device for unit in cut.order for device in unit.devices}
    found = [
        DeviceVerdict(
            device=candidate.key,
            score=scores[candidate.key].total,
            parts=scores[candidate.key].parts,
            chosen=candidate.key in holding,
            why=said.get(candidate.key, _could_hold(candidate)) + _slowed(candidate, policy),
            usable_bytes=candidate.usable_bytes,
            max_layers=candidate.max_layers,
        )
        for candidate in survey.candidates
    ]
    found += [
        DeviceVerdict(device=barred.key, score=0, chosen=False, why=barred.why, usable_bytes=barred.usable_bytes)
        for barred in survey.barred
    ]
    return tuple(sorted(found, key=lambda verdict: verdict.device))


def _could_hold(candidate: Candidate) -> str:
    return f"could hold {candidate.max_layers} layers on its own"


def _slowed(candidate: Candidate, policy: Policy) -> str:
    factor, reasons = speed_factor(candidate.device, policy)
    return f" (slowed to {factor:.0%}: {', '.join(reasons)})" if reasons else ""


def _chosen(problem: Problem, cut: Cut, survey: Survey) -> dict[DeviceKey, str]:
    seconds = stage_seconds(cut.order, cut.bounds)
    hops = problem.hop_after(cut.order)
    slowest = max(range(len(seconds)), key=lambda index: seconds[index] + hops[index])
    by_key = {candidate.key: candidate for candidate in survey.candidates}
    per_layer = {key: candidate.seconds[-1] for key, candidate in by_key.items()}
    fastest, roomiest = min(per_layer.values()), max(candidate.room_bytes for candidate in by_key.values())
    said: dict[DeviceKey, str] = {}
    for index, unit in enumerate(cut.order):
        count = cut.bounds[index + 1] - cut.bounds[index]
        holds = f"holds {count} of {problem.layers} layers"
        if len(unit.devices) > 1:
            holds += f", split over {len(unit.devices)} devices"
            holds += f" of {len(unit.nodes)} nodes" * (len(unit.nodes) > 1)
        if is_full(problem, unit, *cut.bounds[index : index + 2]):
            holds += ", as many as fit"
        if len(cut.order) > 1 and index == slowest and problem.objective == "throughput":
            holds += f", and sets the pace with {seconds_text(seconds[index] + hops[index])}"
        for device in unit.devices:
            merits: list[str] = []
            if unit.pin is not None:
                merits.append("pinned")
            if per_layer[device] <= fastest:
                merits.append("fastest memory")
            if by_key[device].room_bytes >= roomiest and len(by_key) > 1:
                merits.append("most room")
            said[device] = "; ".join([*merits, holds])
    return said


def _left_out(
    problem: Problem, cut: Cut, left_out: Sequence[DeviceKey], out_of_time: Callable[[], bool]
) -> dict[DeviceKey, str]:
    """Return for each unused device what a plan with it as one stage more would come to, as far as that is tried."""
    singles = {unit.devices[0]: unit for unit in problem.units if len(unit.devices) == 1}
    alone = {key: singles[key] for key in left_out if key in singles}
    steps = MOST_STEPS // (SEARCHED if problem.objective == "throughput" else 1)
    tries = tries_within(steps, problem, cut)
    by_kind: dict[object, str] = {}
    for unit in sorted(alone.values(), key=lambda unit: (unit.seconds[-1], unit.devices)):
        kind = kind_of(unit)
        if kind not in by_kind:
            tried = tries > 0 and not out_of_time()
            tries -= tried
            by_kind[kind] = (_with_one_more(problem, cut, unit) if tried else None) or _compared(problem, cut, unit)
    grouped = "not needed: the model's sharding leaves it no stage"
    return {key: by_kind[kind_of(alone[key])] if key in alone else grouped for key in left_out}


def _with_one_more(problem: Problem, cut: Cut, unit: Unit) -> str | None:
    """Return what the plan with this unit as one stage more would come to, or ``None`` if it cannot be one."""
    found: Cut | None = None
    for order in inserted(problem, cut.order, unit):
        if problem.admits(order):
            found = best_cut(problem, order, found.cost if found else math.inf, fine=False) or found
    if found is None:
        return None
    if found.cost <= cut.cost * (1 + EQUAL):
        return f"not needed: {_what(problem)} would not get any better with it"
    if problem.objective == "score":
        return f"not needed: with it the score would be {-found.cost:.4g}, now {-cut.cost:.4g}"
    hop = max(problem.hop_after(found.order))
    return (
        f"not needed: with it {_what(problem)} would take {seconds_text(found.cost)} instead of "
        f"{seconds_text(cut.cost)}, hops of up to {seconds_text(hop)} included{problem.counted_in}"
    )


def _what(problem: Problem) -> str:
    return {"throughput": "the slowest stage", "latency": "each token"}.get(problem.objective, "the score")


def _compared(problem: Problem, cut: Cut, unit: Unit) -> str:
    nodes = {other.node for other in cut.order}
    ways = [
        seconds
        for node in nodes
        for seconds in (problem.hops[node][unit.node], problem.hops[unit.node][node])
        if seconds is not None
    ]
    if not ways:
        return "not used: no link leads to it from the chosen devices, nor back"
    fastest = min(other.seconds[-1] for other in cut.order)
    slower = unit.seconds[-1] / fastest if fastest else 1.0
    speed = f"{slower:.1f}x the time per layer of the fastest chosen" if slower > 1 else "as fast as the chosen"
    reason = "not needed"
    if not any(problem.admits(order) for order in inserted(problem, cut.order, unit)):
        reason = "not used: it cannot be one stage more under the request's conditions"
    return f"{reason}; {speed}, and a hop to or from it takes {seconds_text(min(ways))} at least"
