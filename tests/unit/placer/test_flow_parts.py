"""The parts of the search for a flow, each on its own."""

import math
import random

import networkx as nx
import pytest
from shardbus_placer.candidates import survey
from shardbus_placer.fleet_flow.certificate import Certificate, components
from shardbus_placer.fleet_flow.cutting import best_cut
from shardbus_placer.fleet_flow.grouping import grouped, in_line
from shardbus_placer.fleet_flow.patterns import Classes, patterns
from shardbus_placer.fleet_flow.program import pipeline_at
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.routes import route_bound
from shardbus_placer.fleet_flow.search import course_of, lifted
from shardbus_placer.links import links_of
from shardbus_placer.maximum_flow import Network
from shardbus_placer.problem import device_scores, formulate
from shardbus_schemas.devices import MeasuredSpeed
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from support.planning import PLAIN, asked, device, fleet, model

TEN = model(10, 10)


def rates_of(where: Fleet, what: ModelProfile = TEN, concurrency: int = 1) -> Rates:
    request = asked(what, objective="fleet_throughput", concurrency=concurrency)
    surveyed, links = survey(where, what, request, PLAIN), links_of(where, PLAIN)
    return Rates(formulate(surveyed, links, what, request, device_scores(surveyed, links, PLAIN)), concurrency)


def open_links(rates: Rates) -> dict[tuple[int, int], float]:
    nodes = range(len(rates.problem.nodes))
    return {(a, b): math.inf for a in nodes for b in nodes}


def always() -> bool:
    return True


@pytest.mark.parametrize("seed", range(30))
def test_the_maximal_flow_is_that_of_networkx(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(2, 9)
    network, graph = Network(count), nx.DiGraph()
    graph.add_nodes_from(range(count))
    edges: dict[tuple[int, int], tuple[int, float]] = {}
    for _ in range(draw.randint(1, 25)):
        a, b = draw.randrange(count), draw.randrange(count)
        if a != b and (a, b) not in edges:
            capacity = draw.choice([0.5, 1.0, 3.25, 7.0])
            edges[a, b] = network.edge(a, b, capacity), capacity
            graph.add_edge(a, b, capacity=capacity)
    value = network.maximise(0, 1, 1e-12)
    assert value == pytest.approx(nx.maximum_flow_value(graph, 0, 1))
    for vertex in range(2, count):
        entered = sum(network.flow(edge) for (_, b), (edge, _) in edges.items() if b == vertex)
        left = sum(network.flow(edge) for (a, _), (edge, _) in edges.items() if a == vertex)
        assert entered == pytest.approx(left)
    assert all(-1e-9 <= network.flow(edge) <= capacity + 1e-9 for edge, capacity in edges.values())


def test_the_capped_bound_is_met_where_layers_can_be_cut_to_measure() -> None:
    rates = rates_of(fleet(a=device("0", 50), b=device("0", 50, 50.0), c=device("0", 50, 50.0)))
    assert Certificate(rates, open_links(rates)).bound(10) == pytest.approx(2.0, rel=1e-6)


def test_a_limit_of_depth_lowers_the_bound() -> None:
    # Two slow devices with room for all of the model, two fast ones with room for half of it.
    where = fleet(a=device("0", 50), b=device("0", 50), c=device("0", 100, 10.0), d=device("0", 100, 10.0))
    rates = rates_of(where)
    certificate = Certificate(rates, open_links(rates))
    best_flat, best_deep = 2 * 0.1, 2.0 + 2 * 0.1
    assert best_flat <= certificate.bound(1) * (1 + 1e-9) < certificate.bound(2)
    assert certificate.bound(2) == pytest.approx(best_deep, rel=1e-6)


def test_nothing_flows_where_the_model_does_not_fit() -> None:
    rates = rates_of(fleet(a=device("0", 40), b=device("0", 50)))
    assert Certificate(rates, open_links(rates)).bound(10) == 0


@pytest.mark.parametrize("layers", range(1, 40))
def test_a_device_that_holds_all_passes_what_it_passes_whatever_rounding_does(layers: int) -> None:
    speed = (MeasuredSpeed(model_id="small", tokens_per_second_by_layers=(1.0,)),)
    where = fleet(a=device("0", 1000, 35.0), b=device("0", 1000, 35.0, measured=speed))
    rates = rates_of(where, model(layers, 4, head_bytes=5))
    certificate = Certificate(rates, open_links(rates))
    for index in (0, 1):
        assert certificate.within([index], 10) >= rates.rate(index, 0, layers) * (1 - 1e-9)


def test_links_that_all_must_cross_bound_the_flow() -> None:
    rates = rates_of(fleet(a=device("0", 60), b=device("0", 60)))
    capacity = {(0, 0): math.inf, (1, 1): math.inf, (0, 1): 0.3, (1, 0): 0.1}
    assert Certificate(rates, capacity).bound(10) == pytest.approx(0.4, rel=1e-6)


def test_components_are_what_hangs_together() -> None:
    assert components(5, [(0, 3), (3, 4)]) == [[0, 3, 4], [1], [2]]


def test_a_cut_gives_the_slowest_team_as_little_as_can_be() -> None:
    rates = rates_of(fleet(a=device("0", 100, 30.0), b=device("0", 100, 70.0)))
    assert best_cut(rates, ((0,), (1,))) == (pytest.approx(1.0), (0, 3, 10))


def test_a_cut_finds_numbers_of_layers_that_are_measured_fast() -> None:
    speed = (MeasuredSpeed(model_id="small", tokens_per_second_by_layers=(9.0, 1.0, 9.0, 1.0, 1.0, 1.0, 7.0)),)
    rates = rates_of(fleet(a=device("0", 100, measured=speed), b=device("0", 100, measured=speed)))
    assert best_cut(rates, ((0,), (1,))) in {(7.0, (0, 3, 10)), (7.0, (0, 7, 10))}


def test_a_line_is_cut_into_as_few_teams_as_hold_all_layers_at_the_rate() -> None:
    rates = rates_of(fleet(**{name: device("0", 50) for name in "abcd"}))
    line = in_line(rates, range(4))
    teams = grouped(rates, line, 4.0, 4, 0)
    assert teams is not None
    assert sorted(len(team) for team in teams) == [2, 2]
    assert grouped(rates, line, 4.1, 4, 0) is None
    assert grouped(rates, line, 1.0, 1, 0) is None


def test_small_changes_find_what_a_cut_line_does_not() -> None:
    # By room the line is a, b, c, d; good teams are a with d, and b with c.
    where = fleet(a=device("0", 60, 80.0), b=device("0", 59, 60.0), c=device("0", 58, 40.0), d=device("0", 57, 20.0))
    rates = rates_of(where)
    begun = course_of(rates, ((0, 1), (2, 3)))
    assert begun is not None
    assert begun.rate == pytest.approx(60 / 50)
    best = lifted(rates, begun, (), 2.0, 2, always)
    assert best.rate == pytest.approx(2.0)
    assert set(best.teams) == {(0, 3), (1, 2)}


def test_patterns_are_teams_that_just_pass_the_rate() -> None:
    rates = rates_of(fleet(a=device("0", 50), b=device("0", 50, 50.0), c=device("0", 50, 50.0)))
    classes = Classes.of(rates, range(3))
    found, complete = patterns(rates, classes, 2.0, always)
    assert complete
    said = {(pattern.layers, pattern.counts) for pattern in found if pattern.place == 1}
    # With fewer layers a team is faster than wanted, and together they have no work to waste.
    assert said == {(5, ((0, 1),)), (5, ((1, 2),))}


def test_the_pattern_program_finds_teams_or_proves_that_there_are_none() -> None:
    rates = rates_of(fleet(a=device("0", 50), b=device("0", 50, 50.0), c=device("0", 50, 50.0)))
    classes = Classes.of(rates, range(3))
    choices, _ = patterns(rates, classes, 1.9, always)
    teams, _ = pipeline_at(rates, classes, choices, 10, 10.0)
    assert teams is not None
    assert set(teams) == {(0,), (1, 2)}
    alone, solution = pipeline_at(rates, classes, choices, 1, 10.0)
    assert alone is None
    assert solution.status == "infeasible"


def test_a_bound_by_routes_sees_that_strong_devices_are_on_every_short_way() -> None:
    # Two stages hold ten layers only with a or b in them; alone each passes at most one token a second with six layers.
    where = fleet(
        a=device("0", 60, 60.0), b=device("0", 60, 60.0), **{name: device("0", 40, 100.0) for name in ("c", "d", "e")}
    )
    rates = rates_of(where)
    capped = Certificate(rates, open_links(rates)).bound(2)
    by_routes = route_bound(rates, capped, 2, lambda: 10.0)
    best = 2.0  # a and b side by side, and c, d and e after them
    assert capped > best * 1.005
    assert best <= by_routes * (1 + 1e-9)
    assert by_routes == pytest.approx(best, rel=1e-6)


def test_there_is_no_route_where_no_few_stages_hold_the_model() -> None:
    rates = rates_of(fleet(a=device("0", 40), b=device("0", 40), c=device("0", 40)))
    assert route_bound(rates, 5.0, 2, lambda: 10.0) == 0
    assert route_bound(rates, 5.0, 3, lambda: 10.0) > 0
