"""Units and nodes that may stand for each other are counted together, and what comes of it is a real plan."""

from shardbus_placer.candidates import survey
from shardbus_placer.kinds import Kinds, kinds_of
from shardbus_placer.links import links_of
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.problem import device_scores, formulate
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.placement import PlacementRequest
from support import speed_fleets
from support.planning import PLAIN, asked, device, fleet, link, model, placed

SLOW = LinkFigures(bandwidth_bytes_per_second=1000.0, latency_seconds=0.05)


def kinds_in(where: Fleet) -> Kinds:
    what = model(40)
    request = asked(what)
    surveyed, links = survey(where, what, request, PLAIN), links_of(where, PLAIN)
    return kinds_of(formulate(surveyed, links, what, request, device_scores(surveyed, links, PLAIN)))


def racks(count: int, bandwidth: float = 100.0) -> dict[str, tuple[object, ...]]:
    return {f"n{node:02d}": tuple(device(str(index), 100, bandwidth) for index in range(4)) for node in range(count)}


def test_alike_nodes_and_their_devices_are_one_kind_each() -> None:
    found = kinds_in(fleet(SLOW, **racks(12), other=device("0", 100, 300.0)))
    assert sorted(node.count for node in found.nodes) == [1, 12]
    assert sorted(kind.on_node for kind in found.units) == [1, 4]


def test_a_link_of_its_own_makes_a_node_a_kind_of_its_own() -> None:
    found = kinds_in(fleet(SLOW, (link("n00", "n01", 0.001),), **racks(4)))
    assert sorted(node.count for node in found.nodes) == [1, 1, 2]


def test_a_walk_over_alike_nodes_is_one_walk_and_proved_so() -> None:
    where = speed_fleets.few_kinds(128, 1)
    what = speed_fleets.model_of_80_layers(where, 1)
    request = PlacementRequest(model=what, objective="throughput", sharding="pipeline", deadline_ms=10_000)
    answer = placed(plan(where, what, request, Policy()))
    assert answer.objective.gap == 0
    assert answer.solver.status == "optimal"
