"""The whole-fleet flow against every flow there is, on tiny random fleets."""

from dataclasses import dataclass

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures, MeasuredSpeed
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from support.flow_brute_force import FlowBruteForce, flow_of_plan

POLICY = Policy()
PATIENT_MS = 20_000.0
NEAR = 1e-6


@dataclass(frozen=True)
class Case:
    fleet: Fleet
    model: ModelProfile
    request: PlacementRequest


@st.composite
def links(draw: st.DrawFn) -> LinkFigures:
    return LinkFigures(
        bandwidth_bytes_per_second=draw(st.sampled_from([2.0, 10.0, 1000.0])),
        latency_seconds=draw(st.sampled_from([0.0, 0.2])),
    )


@st.composite
def devices(draw: st.DrawFn, index: int) -> FleetDevice:
    measured: tuple[MeasuredSpeed, ...] = ()
    if draw(st.integers(0, 5)) == 0:
        rates = draw(st.lists(st.sampled_from([1.0, 3.0, 7.0, 20.0]), min_size=1, max_size=4))
        measured = (MeasuredSpeed(model_id="small", tokens_per_second_by_layers=tuple(rates)),)
    return FleetDevice(
        device_id=f"d{index}",
        name=draw(st.sampled_from(["a", "b"])),
        memory_total_bytes=draw(st.sampled_from([8, 15, 22, 40])),
        memory_used_bytes=0,
        memory_bandwidth_bytes_per_second=draw(st.sampled_from([50.0, 100.0, 333.0])),
        measured=measured,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    layers = draw(st.sampled_from([1, 2, 3, 4, 4]))
    uneven = st.lists(st.integers(1, 9), min_size=layers, max_size=layers).map(tuple)
    model = ModelProfile(
        model_id="small",
        layers=layers,
        layer_bytes=draw(st.one_of(st.integers(4, 9), st.integers(4, 9), st.integers(4, 9), uneven)),
        embedding_bytes=draw(st.sampled_from([0, 0, 5])),
        head_bytes=draw(st.sampled_from([0, 0, 5])),
        activation_bytes_per_token=draw(st.sampled_from([0, 1, 1])),
    )
    counts = draw(st.sampled_from([(1,), (1, 1), (2, 1), (1, 1, 1), (1, 1, 1), (2, 2), (1, 1, 1, 1)]))
    nodes = tuple(
        FleetNode(
            node_id=f"n{number}",
            devices=tuple(draw(devices(index)) for index in range(count)),
            device_link=draw(st.none() | links()),
        )
        for number, count in enumerate(counts)
    )
    declared = [
        FleetLink.model_validate({"from": a.node_id, "to": b.node_id, **draw(links()).model_dump()})
        for a in nodes
        for b in nodes
        if a is not b and draw(st.integers(0, 3)) == 0
    ]
    default = draw(st.sampled_from([None, LinkFigures(bandwidth_bytes_per_second=1e4, latency_seconds=0.01)]))
    max_nodes = draw(st.sampled_from([None, None, None, 1, 2]))
    request = PlacementRequest(
        model=model,
        objective="fleet_throughput",
        context_tokens=0,
        concurrency=draw(st.sampled_from([1, 3])),
        min_nodes=min(draw(st.sampled_from([1, 1, 1, 2])), max_nodes or 9),
        max_nodes=max_nodes,
        max_devices=draw(st.sampled_from([None, None, None, 1, 2])),
        max_stages=draw(st.sampled_from([None, None, 1, 2, 3])),
        headroom_fraction=0.0,
        runtime_overhead_bytes=0,
        deadline_ms=PATIENT_MS,
    )
    return Case(Fleet(nodes=nodes, links=tuple(declared), default_link=default), model, request)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_a_flow_is_never_better_than_the_best_nor_its_bound_worse(case: Case) -> None:
    fleet, model, request = case.fleet, case.model, case.request
    best = FlowBruteForce(fleet, model, request, POLICY).best()
    answer = plan(fleet, model, request, POLICY)
    if answer.status == "refused":
        event(f"refused: {answer.refusal.code}, {'proved' if answer.refusal.proved else 'not proved'}")
        assert best == 0 or (not answer.refusal.proved and request.min_nodes > 1)
        return
    assert verify(fleet, model, request, POLICY, answer) == ()
    value, bound, gap = answer.objective.value, answer.objective.bound, answer.objective.gap
    event("best" if value >= best * (1 - NEAR) else "nine tenths" if value >= best * 0.9 else "less")
    event("proved" if gap == 0 else "gap")
    assert bound is not None
    assert gap is not None
    assert value <= best * (1 + NEAR), "better than possible"
    assert bound >= best * (1 - NEAR), "the bound cuts off a real plan"
    if gap == 0:
        assert value >= best * (1 - NEAR), "said to be optimal, but is not"
    if request.max_stages is None and all(len(node.devices) == 1 for node in fleet.nodes):
        assert abs(flow_of_plan(fleet, model, answer, POLICY) - value) <= NEAR * value


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.randoms(use_true_random=False))
def test_equal_requests_get_equal_flows_in_whatever_order_the_fleet_is_told(case: Case, random: object) -> None:
    assert hasattr(random, "shuffle")
    nodes = list(case.fleet.nodes)
    random.shuffle(nodes)  # type: ignore[attr-defined]
    told_otherwise = case.fleet.model_copy(update={"nodes": tuple(nodes), "links": tuple(reversed(case.fleet.links))})
    first = plan(case.fleet, case.model, case.request, POLICY)
    second = plan(told_otherwise, case.model, case.request, POLICY)
    assert first.model_dump(exclude={"solver"}) == second.model_dump(exclude={"solver"})
