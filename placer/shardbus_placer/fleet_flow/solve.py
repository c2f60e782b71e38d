"""The best flow that can be found before the deadline, with what was proved about it.

Where every link carries more than the whole flow, links are left aside: teams are looked for, and the flow is what
the slowest team passes. Where links are slower, nodes fall into clusters; whole clusters are then taken together and
apart in every way, teams are looked for in each part, and what counts is the flow through the real network.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shardbus_placer.fleet_flow.arrangement import Arranger, held_of
from shardbus_placer.fleet_flow.certificate import Certificate
from shardbus_placer.fleet_flow.choice import best_choice
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.spending import Spending
from shardbus_placer.fleet_flow.teams import Courses, courses
from shardbus_placer.fleet_flow.traffic import Capacities, Traffic, traffic
from shardbus_placer.problem import Problem

MOST_CLUSTERS = 4
DEPTHS_TRIED = 3
EXCHANGES = 600
"""Flows through the real network that may be worked out for one way to take clusters together."""
CLOSED = 1e-7
LITTLE = 1e-6


@dataclass(frozen=True)
class Found:
    """A flow, if there is one, and the bound that holds for every plan."""

    traffic: Traffic | None
    bound: float
    by_solver: bool = False
    detail: str = ""
    """What went wrong with the solver."""
    slow_links: bool = False
    """Whether some link carries less than the whole flow."""


def solve(
    problem: Problem,
    rates: Rates,
    capacity: Capacities,
    certificate: Certificate,
    seconds_left: Callable[[], float],
) -> Found:
    """Return the best flow found, with the bound that holds for every plan."""
    depth = min(problem.max_stages, problem.layers)
    bound = certificate.bound(depth)
    units = best_choice(problem, rates, bound, depth)
    if not units or bound <= 0:
        return Found(None, bound)
    nodes = sorted({problem.units[index].node for index in units})
    if _open(capacity, nodes, bound):
        found = courses(rates, units, bound, depth, seconds_left)
        return _found(rates, capacity, found, bound, depth)
    return _over_slow_links(problem, rates, capacity, certificate, (units, bound, depth), seconds_left)


def _over_slow_links(
    problem: Problem,
    rates: Rates,
    capacity: Capacities,
    certificate: Certificate,
    task: tuple[Sequence[int], float, int],
    seconds_left: Callable[[], float],
) -> Found:
    units, bound, depth = task
    used = {problem.units[index].node for index in units}
    ways = [[[node for node in cluster if node in used] for cluster in way] for way in certificate.clusterings()]
    ways = [[cluster for cluster in way if cluster] for way in ways]
    clusters = next((way for way in ways if 1 < len(way) <= MOST_CLUSTERS), [sorted(used)])
    best: Traffic | None = None
    by_solver, detail = False, ""
    for parts, most in _tasks(clusters, depth):
        if best is not None and (seconds_left() <= 0 or best.value >= bound * (1 - CLOSED)):
            break
        chosen: list[Courses] = []
        for part in parts:
            members = [index for index in units if problem.units[index].node in set(part)]
            solo = len(parts) == 1
            ceiling = bound if solo else min(bound, certificate.within(part, most))
            if ceiling > 0:
                chosen.append(courses(rates, members, ceiling, most, lambda: seconds_left() / 3, with_program=solo))
        whole = Courses(
            tuple(course for part in chosen for course in part.courses), any(part.by_solver for part in chosen)
        )
        detail = detail or next((part.solver_failed for part in chosen if part.solver_failed), "")
        if not whole.courses or (best is not None and whole.rate <= best.value * (1 + LITTLE)):
            continue  # links can only take away from that
        arranger = Arranger(rates, capacity, clusters, most, Spending(EXCHANGES, seconds_left))
        _, through = arranger.arranged(whole.courses, units)
        if through.value > 0 and (best is None or through.value > best.value * (1 + LITTLE)):
            best, by_solver = through, whole.by_solver
    return Found(best, bound, by_solver, detail, slow_links=True)


def _tasks(clusters: Sequence[Sequence[int]], depth: int) -> Iterator[tuple[list[list[int]], int]]:
    """Return ways to take clusters together, each with a limit of stages: a shorter pipeline crosses fewer links."""
    ways = sorted(_partitions(list(clusters)), key=lambda way: (len(way) > 1, -len(way)))
    for way in ways:
        yield way, depth
    for fewer in range(1, DEPTHS_TRIED + 1):
        for way in ways:
            if depth - fewer > 0:
                yield way, depth - fewer


def _found(rates: Rates, capacity: Capacities, found: Courses, bound: float, depth: int) -> Found:
    if not found.courses:
        return Found(None, bound, detail=found.solver_failed)
    through = traffic(rates, capacity, held_of(found.courses), depth)
    return Found(through if through.value > 0 else None, bound, found.by_solver, found.solver_failed)


def _open(capacity: Capacities, nodes: Sequence[int], flow: float) -> bool:
    """Return whether every link there can be carries the whole flow."""
    return all(capacity.get((a, b), 0.0) >= flow for a in nodes for b in nodes)


def _partitions(clusters: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    if not clusters:
        yield []
        return
    first, *others = clusters
    for way in _partitions(others):
        yield [list(first), *way]
        for position, part in enumerate(way):
            yield [*way[:position], [*first, *part], *way[position + 1 :]]
