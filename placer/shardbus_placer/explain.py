"""Why each device is, or is not, in the plan: one sentence for a person, from figures that are already there."""

from collections.abc import Mapping, Sequence

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import DeviceVerdict
from shardbus_schemas.units import seconds_text

from shardbus_placer.candidates import Candidate, Survey
from shardbus_placer.cost import speed_factor
from shardbus_placer.cut import Cut, best_cut, stage_seconds
from shardbus_placer.policy import Policy
from shardbus_placer.problem import Problem, Unit
from shardbus_placer.score import Score

MOST_TRIALS = 48
"""How many plans with one device more are cut to say what that device would change."""


def verdicts(
    survey: Survey,
    scores: Mapping[DeviceKey, Score],
    policy: Policy,
    problem: Problem | None = None,
    cut: Cut | None = None,
) -> tuple[DeviceVerdict, ...]:
    """Return what was made of each device, by key; without a ``cut`` there is no plan."""
    said = {} if problem is None or cut is None else _chosen(problem, cut, survey)
    if problem is not None and cut is not None:
        said |= _left_out(problem, cut, [candidate for candidate in survey.candidates if candidate.key not in said])
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
        if _is_full(problem, unit, cut.bounds[index], cut.bounds[index + 1]):
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


def _is_full(problem: Problem, unit: Unit, start: int, end: int) -> bool:
    if end < problem.layers:
        return problem.memory.stage(start, end + 1) > unit.room_bytes
    return start > 0 and problem.memory.stage(start - 1, end) > unit.room_bytes


def _left_out(problem: Problem, cut: Cut, candidates: Sequence[Candidate]) -> dict[DeviceKey, str]:
    """Return for each unused device what a plan with it as one stage more would come to."""
    singles = {unit.devices[0]: unit for unit in problem.units if len(unit.devices) == 1}
    trials = len(candidates) * (len(cut.order) + 1)
    said: dict[DeviceKey, str] = {}
    for candidate in candidates:
        unit = singles.get(candidate.key)
        if unit is None:
            said[candidate.key] = "not needed: the model's sharding leaves it no stage"
            continue
        at_best = _with_one_more(problem, cut, unit) if trials <= MOST_TRIALS else None
        if at_best is None:
            said[candidate.key] = _compared(problem, cut, unit, joinable=trials > MOST_TRIALS)
            continue
        what = {"throughput": "the slowest stage", "latency": "each token"}.get(problem.objective)
        hop = max(problem.hop_after(at_best.order), default=0.0)
        if what is None:
            said[candidate.key] = f"not needed: with it the score would be {-at_best.cost:.4g}, now {-cut.cost:.4g}"
        elif at_best.cost > cut.cost:
            said[candidate.key] = (
                f"not needed: with it {what} would take {seconds_text(at_best.cost)} instead of "
                f"{seconds_text(cut.cost)}, hops of up to {seconds_text(hop)} included"
            )
        else:
            said[candidate.key] = f"not needed: {what} would not get any faster with it"
    return said


def _with_one_more(problem: Problem, cut: Cut, unit: Unit) -> Cut | None:
    found: Cut | None = None
    for index in range(len(cut.order) + 1):
        order = (*cut.order[:index], unit, *cut.order[index:])
        if problem.admits(order):
            tried = best_cut(problem, order)
            if tried is not None and (found is None or tried.cost < found.cost):
                found = tried
    return found


def _compared(problem: Problem, cut: Cut, unit: Unit, *, joinable: bool) -> str:
    ways = [
        seconds
        for other in cut.order
        for seconds in (problem.hops[other.node][unit.node], problem.hops[unit.node][other.node])
        if seconds is not None
    ]
    if not ways:
        return "not used: no link leads to it from the chosen devices, nor back"
    fastest = min(other.seconds[-1] for other in cut.order)
    slower = unit.seconds[-1] / fastest if fastest else 1.0
    speed = f"{slower:.1f}x the time per layer of the fastest chosen" if slower > 1 else "as fast as the chosen"
    reason = "not needed" if joinable else "not used: it cannot be one stage more under the request's conditions"
    return f"{reason}; {speed}, and a hop to or from it takes {seconds_text(min(ways))} at least"
