"""A flow as an answer: stages side by side, who hands over to whom, what limits it, why each device is in or out."""

from collections.abc import Mapping, Sequence

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import (
    Binding,
    DeviceVerdict,
    Flow,
    ObjectiveValue,
    PlacementRequest,
    Prediction,
    Stage,
)

from shardbus_placer.candidates import Survey
from shardbus_placer.cost import speed_factor
from shardbus_placer.cut import Cut
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.traffic import Capacities, Held, Traffic
from shardbus_placer.links import Links
from shardbus_placer.policy import Policy
from shardbus_placer.problem import Problem
from shardbus_placer.score import Score
from shardbus_placer.solution import stages_of

CLOSED = 1e-7
FULL = 1 - 1e-6
"""Share of its rate, or of a link's capacity, from which on something is said to pass all it can."""
MOST_BINDING = 8


def stages_in(
    through: Traffic,
    problem: Problem,
    rates: Rates,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    survey: Survey,
) -> tuple[Stage, ...]:
    """Return the stages of all pipelines, by start layer and device, each with the rate it sustains."""
    candidates = {candidate.key: candidate for candidate in survey.candidates}
    found: list[Stage] = []
    for one in through.held:
        unit = problem.units[one.index]
        alone = Cut((unit,), (one.start, one.end), 0.0)
        (stage,) = stages_of(problem, alone, model=model, request=request, policy=policy, candidates=candidates)
        seconds = unit.stage_seconds(one.start, one.end, last=one.end == problem.layers)
        passes = rates.rate(one.index, one.start, one.end)
        found.append(stage.model_copy(update={"seconds": seconds, "tokens_per_second": passes}))
    return tuple(sorted(found, key=lambda stage: (stage.start_layer, stage.devices)))


def flows_in(through: Traffic, problem: Problem) -> tuple[Flow, ...]:
    """Return who hands over how much to whom, entries first and exits last."""

    def first(index: int | None) -> DeviceKey | None:
        return None if index is None else problem.units[index].devices[0]

    return tuple(
        Flow.model_validate({"from": first(a), "to": first(b), "tokens_per_second": amount})
        for (a, b), amount in through.flows.items()
    )


def objective_in(value: float, bound: float) -> ObjectiveValue:
    """Return the flow with its bound and gap."""
    bound = max(bound, value)
    gap = (bound - value) / value
    if gap <= CLOSED:
        bound, gap = value, 0.0
    return ObjectiveValue(name="fleet_throughput", value=value, unit="tokens/s", bound=bound, gap=gap)


def prediction_in(through: Traffic, problem: Problem, survey: Survey, links: Links) -> Prediction:
    """Return the rate, and the mean time of a token over all ways, each way counted by what flows along it."""
    held = {one.index: one for one in through.held}
    waited = 0.0
    for index, amount in through.passed.items():
        one, unit = held[index], problem.units[index]
        waited += amount * unit.stage_seconds(one.start, one.end, last=one.end == problem.layers)
    guessed: set[str] = set()
    for (a, b), amount in through.flows.items():
        if a is None or b is None:
            continue
        here, there = problem.units[a].node, problem.units[b].node
        waited += amount * (problem.hops[here][there] or 0.0)
        if here == there and problem.nodes[here] in links.guessed:
            guessed.add(problem.nodes[here])
    used = [device for one in through.held for device in problem.units[one.index].devices]
    assumptions = [f"{device}: {text}" for device in used for text in survey.assumptions[device]]
    assumptions += [
        f"{node}: the link between its devices is unknown, taken from the policy" for node in sorted(guessed)
    ]
    return Prediction(
        seconds_per_token=waited / through.value, tokens_per_second=through.value, assumptions=tuple(assumptions)
    )


def binding_in(through: Traffic, problem: Problem, rates: Rates, capacity: Capacities) -> tuple[Binding, ...]:
    """Return the layer ranges and links that pass all they can."""
    passed = through.passed
    ranges: dict[tuple[int, int], list[Held]] = {}
    for one in through.held:
        ranges.setdefault((one.start, one.end), []).append(one)
    found: list[Binding] = []
    for (start, end), members in ranges.items():
        able = sum(rates.rate(one.index, start, end) for one in members)
        if sum(passed[one.index] for one in members) >= FULL * able:
            devices = sum(len(problem.units[one.index].devices) for one in members)
            side = f"{devices} devices" if devices > 1 else "one device"
            why = f"layers {start} to {end - 1} on {side} pass {able:.4g} tokens/s, all they can"
            found.append(Binding(kind="stage", device=problem.units[members[0].index].devices[0], why=why))
    over: dict[tuple[int, int], float] = {}
    ends: dict[tuple[int, int], tuple[DeviceKey, DeviceKey]] = {}
    for (a, b), amount in through.flows.items():
        if a is not None and b is not None and problem.units[a].node != problem.units[b].node:
            link = problem.units[a].node, problem.units[b].node
            over[link] = over.get(link, 0.0) + amount
            ends.setdefault(link, (problem.units[a].devices[0], problem.units[b].devices[0]))
    for link, amount in over.items():
        if amount >= FULL * capacity[link]:
            here, there = (problem.nodes[node] for node in link)
            why = f"the link from {here} to {there} carries {amount:.4g} tokens/s, all it can"
            found.append(Binding(kind="link", device=ends[link][0], to_device=ends[link][1], why=why))
    return tuple(found[:MOST_BINDING])


def verdicts_in(
    through: Traffic,
    problem: Problem,
    rates: Rates,
    survey: Survey,
    scores: Mapping[DeviceKey, Score],
    policy: Policy,
) -> tuple[DeviceVerdict, ...]:
    """Return what was made of each device, by key."""
    said = {
        device: _holds(one, through, problem, rates)
        for one in through.held
        for device in problem.units[one.index].devices
    }
    shortest = min(one.end - one.start for one in through.held)
    found: list[DeviceVerdict] = []
    for candidate in survey.candidates:
        why = said.get(candidate.key) or _left_out(candidate.max_layers, shortest, through, problem)
        _, reasons = speed_factor(candidate.device, policy)
        if reasons:
            why += f" (slowed to {candidate.speed_factor:.0%}: {', '.join(reasons)})"
        score = scores[candidate.key]
        found.append(
            DeviceVerdict(
                device=candidate.key,
                score=score.total,
                parts=score.parts,
                chosen=candidate.key in said,
                why=why,
                usable_bytes=candidate.usable_bytes,
                max_layers=candidate.max_layers,
            )
        )
    found += [
        DeviceVerdict(device=barred.key, score=0, chosen=False, why=barred.why, usable_bytes=barred.usable_bytes)
        for barred in survey.barred
    ]
    return tuple(sorted(found, key=lambda verdict: verdict.device))


def _holds(one: Held, through: Traffic, problem: Problem, rates: Rates) -> str:
    passes, able = through.passed[one.index], rates.rate(one.index, one.start, one.end)
    beside = sum(1 for other in through.held if (other.start, other.end) == (one.start, one.end)) - 1
    text = f"holds {one.end - one.start} of {problem.layers} layers"
    if len(problem.units[one.index].devices) > 1:
        text += f", split over {len(problem.units[one.index].devices)} devices"
    if beside:
        text += f", beside {beside} {'other' if beside == 1 else 'others'}"
    return f"{text}; passes {passes:.4g} of {able:.4g} tokens/s"


def _left_out(most: int, shortest: int, through: Traffic, problem: Problem) -> str:
    used: Sequence[DeviceKey] = [device for one in through.held for device in problem.units[one.index].devices]
    if len(used) >= problem.max_devices:
        return f"left out: max_devices is {problem.max_devices}, and the chosen do more"
    if len({device.node_id for device in used}) >= problem.max_nodes:
        return f"left out: max_nodes is {problem.max_nodes}, and the chosen do more"
    if most < shortest:
        return f"not used: it has room for {most} layers, and every chosen stage holds {shortest} or more"
    return "not needed: no place was found where more tokens would get through with it"
