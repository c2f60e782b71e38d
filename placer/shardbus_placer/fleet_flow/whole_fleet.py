"""The answer for the objective ``fleet_throughput``: the best verified flow found before the deadline."""

from collections.abc import Callable

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refusal, Refused, SolverReport, Strategy

from shardbus_placer import solver_pulp
from shardbus_placer.explain import verdicts
from shardbus_placer.fleet_flow import answer
from shardbus_placer.fleet_flow.certificate import Certificate
from shardbus_placer.fleet_flow.growth import grown, nodes_in, spread
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.solve import Found, solve
from shardbus_placer.fleet_flow.spending import Spending
from shardbus_placer.fleet_flow.traffic import Capacities, Held, Traffic, capacities, traffic
from shardbus_placer.policy import Policy
from shardbus_placer.situation import Situation

JOININGS = 400
"""Flows that may be worked out to let further units join."""
LEAST_MS = 5.0
"""What the search for a single pipeline gets at the least when nothing else was found."""
Planner = Callable[[Fleet, ModelProfile, PlacementRequest, Policy], Placed | Refused]


def place_whole_fleet(situation: Situation, seconds_left: Callable[[], float], plan: Planner) -> Placed | Refused:
    """Return the plan with the highest flow found, or why there is none.

    ``plan`` answers the same request for a single pipeline: whether the model can be placed at all, and a plan to
    fall back on where nothing better was found.
    """
    problem, request = situation.problem, situation.request
    rates = Rates(problem, request.concurrency)
    capacity = capacities(problem, situation.links, situation.model)
    found = solve(problem, rates, capacity, Certificate(rates, capacity), seconds_left)
    everyone = range(len(problem.units))
    spending = Spending(JOININGS, seconds_left)
    if found.traffic is not None:
        through = found.traffic
        if found.slow_links and through.value < found.bound:
            through = grown(problem, rates, capacity, through, everyone, spending)
        through = spread(problem, rates, capacity, through, everyone, spending)
        if len(nodes_in(problem, through)) >= problem.min_nodes:
            placed = _placed(situation, seconds_left, rates, capacity, found, through)
            if not situation.faults(placed):
                return placed
    return _around_one_pipeline(situation, seconds_left, rates, capacity, found, plan)


def _around_one_pipeline(
    situation: Situation,
    seconds_left: Callable[[], float],
    rates: Rates,
    capacity: Capacities,
    found: Found,
    plan: Planner,
) -> Placed | Refused:
    """Return the plan that grows around one pipeline, or the refusal if there is not even that."""
    request, problem = situation.request, situation.problem
    spending = Spending(JOININGS, seconds_left)
    for min_nodes in dict.fromkeys((request.min_nodes, 1)):
        if min_nodes > problem.layers:
            continue
        left = max(LEAST_MS, seconds_left() * 1e3)
        alone = plan(
            situation.fleet,
            situation.model,
            request.model_copy(update={"objective": "throughput", "min_nodes": min_nodes, "deadline_ms": left}),
            situation.policy,
        )
        if isinstance(alone, Refused):
            if min_nodes == 1:
                return alone  # no route through any flow could hold the model
            continue
        index = {unit.devices: position for position, unit in enumerate(problem.units)}
        held = [Held(index[stage.devices], stage.start_layer, stage.end_layer, 0) for stage in alone.stages]
        begun = traffic(rates, capacity, held, len(held))
        everyone = range(len(problem.units))
        wide = spread(problem, rates, capacity, begun, everyone, spending)
        for candidate in (grown(problem, rates, capacity, wide, everyone, spending), wide):
            if len(nodes_in(problem, candidate)) >= problem.min_nodes:
                placed = _placed(situation, seconds_left, rates, capacity, found, candidate)
                if not situation.faults(placed):
                    return placed
    # One pipeline cannot spread so far; that devices side by side cannot either was not proved.
    refusal = Refusal(
        code="not_enough_nodes",
        message=f"no flow was found that takes part of {request.min_nodes} nodes at least",
        reasons=situation.survey.reasons,
        remedy="lower min_nodes",
        proved=False,
    )
    return Refused(
        model_id=situation.model.model_id,
        strategy="greedy",
        strategy_reason="whole fleet: one pipeline was found, or none, but none over so many nodes",
        refusal=refusal,
        devices=verdicts(situation.survey, situation.scores, situation.policy),
    )


def _placed(
    situation: Situation,
    seconds_left: Callable[[], float],
    rates: Rates,
    capacity: Capacities,
    found: Found,
    through: Traffic,
) -> Placed:
    problem, request = situation.problem, situation.request
    objective = answer.objective_in(through.value, found.bound)
    strategy: Strategy = "ilp" if found.by_solver else "greedy"
    how = (
        "the pattern program chose the teams"
        if found.by_solver
        else "teams were cut from a line of all devices and bettered by small changes"
    )
    deep = "one stage" if through.depth == 1 else f"{through.depth} stages on the longest way"
    reason = f"whole fleet: {how}; {deep}"
    if found.detail:
        reason += f"; the solver failed ({found.detail})"
    if objective.gap:
        late = seconds_left() <= 0
        reason += "; the deadline passed before the gap was closed" if late else "; a gap to the bound remains"
    stages = answer.stages_in(through, problem, rates, situation.model, request, situation.policy, situation.survey)
    return Placed(
        model_id=situation.model.model_id,
        strategy=strategy,
        strategy_reason=reason,
        stages=stages,
        flows=answer.flows_in(through, problem),
        objective=objective,
        predicted=answer.prediction_in(through, problem, situation.survey, situation.links),
        movement=None if situation.moves is None else situation.moves.movement(stages),
        binding=answer.binding_in(through, problem, rates, capacity),
        solver=SolverReport(
            name=solver_pulp.solver_name() if found.by_solver else "greedy",
            status="optimal" if objective.gap == 0 else "feasible",
            seconds=max(0.0, situation.elapsed()),
        ),
        devices=answer.verdicts_in(through, problem, rates, situation.survey, situation.scores, situation.policy),
        notes=_notes(request, through),
    )


def _notes(request: PlacementRequest, through: Traffic) -> tuple[str, ...]:
    sequences = f"{request.concurrency} sequence{'s' if request.concurrency > 1 else ''}"
    notes = [f"each device decodes {sequences} a step, and holds the cache of so many"]
    if through.depth > 1:
        notes.append(f"the rate needs up to {through.depth} such groups under way at once, one in each stage of a way")
    return tuple(notes)
