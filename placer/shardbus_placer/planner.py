"""Where a model goes: the decision tree from a fleet and a request to a verified plan, or to the reasons why not.

No telemetry or a homogeneous fleet: greedy. A heterogeneous fleet: the integer program. Deadline or solver
failure: the best greedy plan. Whoever made it, a plan passes the verifier or is no answer; and only a proof
that there is none refuses.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refusal, Refused, SolverReport, Strategy

from shardbus_placer import refusal, solver_pulp
from shardbus_placer.binding import binding_of
from shardbus_placer.candidates import Candidate, survey
from shardbus_placer.cut import Cut
from shardbus_placer.explain import verdicts
from shardbus_placer.fleet_flow.whole_fleet import place_whole_fleet
from shardbus_placer.in_hand import plan_in_hand
from shardbus_placer.links import links_of
from shardbus_placer.movement import NOTHING, Held, Moves
from shardbus_placer.optimise import Outcome, optimise, proves
from shardbus_placer.plea import Plea
from shardbus_placer.policy import Policy
from shardbus_placer.prefill import hops_with_prefill, stages_with_prefill
from shardbus_placer.problem import device_scores, formulate, with_movement
from shardbus_placer.remedy import remedied
from shardbus_placer.runner_up import best_rival, is_better, runner_up_of
from shardbus_placer.settle import settle
from shardbus_placer.situation import Situation
from shardbus_placer.solution import hops_of, movement_in, objective_of, prediction_of, stages_of
from shardbus_placer.standing import NOTHING_STANDS, standing

GREEDY_SHARE = 0.3
"""Share of the deadline that the search for a plan in hand may take when the machine is slow."""
IN_SECONDS = ("latency", "throughput")
"""Objectives that seconds of moving can be added to."""
FLOW_SECONDS = 0.006
"""Kept back besides for working out who hands over to whom under ``fleet_throughput``."""


def plan(
    fleet: Fleet,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    *,
    held: Held | None = None,
    horizon_tokens: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    variants: Iterable[ModelProfile] = (),
) -> Placed | Refused:
    """Return where ``model`` goes on ``fleet`` under ``request``, or why it cannot.

    ``held`` says which of its layers lie where already (``movement.held_by`` reads it from a plan); the answer then
    says what is to be moved. With ``horizon_tokens``, for how many tokens the plan is expected to stand, ``latency``
    and ``throughput`` count the seconds that moving takes, spread over so many tokens. Without it, and for the other
    objectives, which are not in seconds, of equally good plans the one that moves the least is taken.
    ``ValueError``: the horizon is not positive.
    ``variants`` are the same model stored otherwise; they are looked at only to name one that fits in a refusal.

    Pure but for ``clock``, which is read for the deadline and the report of time spent only: with a deadline
    that is not reached, equal inputs give equal plans. Loading the solver, once per process, is not counted.
    """
    solver_pulp.warm_up()
    began = clock()

    def elapsed() -> float:
        return clock() - began

    surveyed = survey(fleet, model, request, policy)
    links = links_of(fleet, policy)
    scores = device_scores(surveyed, links, policy)
    horizon = _counted_horizon(request, held, horizon_tokens)
    problem = formulate(surveyed, links, model, request, scores, held if held and horizon else NOTHING)
    moves = None if held is None else Moves(held, links, model, problem.memory, policy)
    if moves is not None and horizon is not None:
        problem = with_movement(problem, moves, horizon)
    situation = Situation(
        fleet,
        model,
        request,
        policy,
        surveyed,
        links,
        scores,
        problem,
        elapsed,
        held=held,
        moves=moves,
        horizon_tokens=horizon,
        variants=variants,
    )
    impossible = refusal.at_sight(fleet, model, request, surveyed, problem)
    if impossible is not None:
        return _refused(situation, impossible, "greedy", "the request was refused before any search", None)

    if request.objective == "fleet_throughput":
        return place_whole_fleet(
            situation, lambda: situation.seconds_left - FLOW_SECONDS, functools.partial(plan, clock=clock)
        )

    easy, reason = _easy(situation)
    if horizon is not None:
        reason += f"; what is fetched counts, spread over {horizon:g} tokens"
    searching = elapsed()
    late = GREEDY_SHARE * request.deadline_ms / 1e3
    begin_with = NOTHING_STANDS if horizon is None or moves is None else standing(problem, moves.holders)
    state, bound = plan_in_hand(problem, lambda: elapsed() > late, begin_with)
    greedy = state.best
    if easy and greedy is not None and proves(greedy, bound):
        situation = replace(situation, solve_seconds=max(0.0, elapsed() - searching))
        answer = _placed(situation, greedy, bound, "greedy", reason, ("greedy", "feasible"))
        if not situation.faults(answer):
            return answer
    if easy:
        lacking = "no greedy plan holds" if greedy is None else "counting does not prove the greedy plan the best"
        reason = f"{reason}; but {lacking}, so the integer program was asked"
    outcome = optimise(problem, state, bound, lambda: situation.seconds_left)
    situation = replace(situation, solve_seconds=max(0.0, elapsed() - searching))
    return _answer(situation, outcome, greedy, reason)


def _counted_horizon(request: PlacementRequest, held: Held | None, horizon_tokens: float | None) -> float | None:
    """Return over how many tokens moving is spread in the objective, ``None`` where it is not part of it."""
    if horizon_tokens is not None and not horizon_tokens > 0:
        raise ValueError(f"horizon_tokens must be positive, not {horizon_tokens}")
    counted = held is not None and request.objective in IN_SECONDS and horizon_tokens != math.inf
    return horizon_tokens if counted else None


def _answer(situation: Situation, outcome: Outcome, greedy: Cut | None, reason: str) -> Placed | Refused:
    """Return the solver's plan if it verifies, else the greedy one, else the refusal."""
    limit = f"{situation.request.deadline_ms:g} ms"
    late = f"the deadline of {limit} passed before "
    said = {
        "optimal": "the solver finished",
        "deadline": late + "the solver had an answer",
        "failed": f"the solver failed ({outcome.detail})",
        "feasible": late + "the proof was complete" if situation.seconds_left <= 0 else "a gap to the bound remains",
    }
    stopped = said.get(outcome.status, "")
    if outcome.cut is not None:
        strategy: Strategy = "ilp" if outcome.by_solver else "greedy"
        why = reason if outcome.status == "optimal" else f"{reason}; {stopped}"
        if strategy == "greedy":
            why += ", so this is the best greedy plan"
        found = _placed(situation, outcome.cut, outcome.bound, strategy, why, (outcome.solver, outcome.status))
        if not (wrong := situation.faults(found)):
            return found
        if greedy is not None and greedy is not outcome.cut:
            why = f"{reason}; the solver's plan did not verify ({wrong[0]}), so this is the best greedy plan"
            fallback = _placed(situation, greedy, None, "greedy", why, (outcome.solver, "failed"))
            if not situation.faults(fallback):
                return fallback
        stopped = f"the plan that was found did not verify: {wrong[0]}"
    proved = outcome.status == "infeasible"
    found_reasons = refusal.after_search(
        situation.request,
        situation.survey,
        situation.problem,
        proved=proved,
        seconds_left=lambda: situation.seconds_left,
    )
    why = f"{reason}; {'the solver proved that no plan exists' if proved else stopped}"
    return _refused(situation, found_reasons, "ilp", why, (outcome.solver, outcome.status))


def _placed(
    situation: Situation,
    cut: Cut,
    bound: float | None,
    strategy: Strategy,
    reason: str,
    solver: tuple[str, str],
) -> Placed:
    candidates = {candidate.key: candidate for candidate in situation.survey.candidates}
    model, request, policy, problem = situation.model, situation.request, situation.policy, situation.problem
    late = situation.out_of_time_to_explain
    cut = cut if late() else settle(problem, cut, situation.moves)
    rival = best_rival(problem, cut, late)
    if rival is not None and is_better(rival, cut):
        cut, rival = settle(problem, rival, situation.moves), cut
    stages = stages_of(problem, cut, model=model, request=request, policy=policy, candidates=candidates)
    hops = hops_of(problem, cut, situation.links)
    stages = stages_with_prefill(stages, model=model, request=request, links=situation.links, candidates=candidates)
    hops = hops_with_prefill(hops, model=model, request=request, links=situation.links)
    predicted = prediction_of(
        stages, hops, model=model, request=request, links=situation.links, survey=situation.survey
    )
    return Placed(
        model_id=model.model_id,
        strategy=strategy,
        strategy_reason=reason,
        stages=stages,
        hops=hops,
        objective=objective_of(problem, cut.cost, bound),
        predicted=predicted,
        movement=movement_in(situation, stages, cut),
        binding=binding_of(problem, cut, late),
        runner_up=runner_up_of(problem, cut, rival),
        devices=verdicts(situation.survey, situation.scores, policy, problem, cut, late),
        solver=SolverReport(
            name=solver[0],
            status=solver[1],
            seconds=max(0.0, situation.elapsed()),
            solve_seconds=situation.solve_seconds,
        ),
    )


def _refused(
    situation: Situation, why: Refusal, strategy: Strategy, reason: str, solver: tuple[str, str] | None
) -> Refused:
    report = None
    plea = Plea(situation.fleet, situation.model, situation.request, situation.policy)
    why = remedied(why, plea, situation.survey, refusal.at_sight, lambda: situation.seconds_left, situation.variants)
    if solver is not None:
        report = SolverReport(name=solver[0], status=solver[1], seconds=max(0.0, situation.elapsed()))
    return Refused(
        model_id=situation.model.model_id,
        strategy=strategy,
        strategy_reason=reason,
        refusal=why,
        solver=report,
        devices=verdicts(situation.survey, situation.scores, situation.policy),
    )


def _easy(situation: Situation) -> tuple[bool, str]:
    """Return whether the greedy search is enough, and which branch of the decision tree that is."""
    candidates = situation.survey.candidates
    if not any(_has_reading(candidate) for candidate in candidates):
        return True, "no telemetry: no usable device has a reading of its memory or load, so greedy"
    difference = _difference(situation)
    if difference is None:
        return True, "homogeneous: all usable devices and links are alike, so greedy"
    return False, f"heterogeneous: {difference}, so the integer program"


def _has_reading(candidate: Candidate) -> bool:
    device = candidate.device
    return device.memory_used_bytes is not None or device.compute_utilization_percent is not None


def _difference(situation: Situation) -> str | None:
    """Return the first thing in which two usable devices, or two links, differ beyond the tolerance."""
    candidates, tolerance = situation.survey.candidates, situation.policy.tolerance
    first = candidates[0]
    for other in candidates[1:]:
        names = f"{first.key} and {other.key}"
        if (first.device.name, first.device.backend) != (other.device.name, other.device.backend):
            return f"{names} differ in kind"
        measures = (
            ("memory", first.device.memory_total_bytes or 0, other.device.memory_total_bytes or 0),
            ("free memory", first.room_bytes, other.room_bytes),
            ("speed", first.seconds[-1], other.seconds[-1]),
        )
        for what, a, b in measures:
            if abs(a - b) > tolerance * max(abs(a), abs(b)):
                return f"{names} differ in {what}"
        if first.seconds_by_count != other.seconds_by_count:
            return f"{names} differ in measured speed"
    hops = situation.problem.hops
    between = [seconds for a, row in enumerate(hops) for b, seconds in enumerate(row) if a != b]
    if any(seconds is None for seconds in between) and any(seconds is not None for seconds in between):
        return "not all nodes have a link to each other"
    inside = [row[node] for node, row in enumerate(hops)] if len(candidates) > len(hops) else []
    for what, links in (("links between nodes", between), ("links inside nodes", inside)):
        known = [seconds for seconds in links if seconds is not None]
        if known and max(known) - min(known) > tolerance * max(known):
            return f"{what} differ"
    return None
