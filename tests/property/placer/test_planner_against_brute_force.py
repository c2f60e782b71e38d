"""The planner against every plan there is, on small random fleets."""

from dataclasses import dataclass

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures, MeasuredSpeed
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import ObjectiveName, PlacementRequest
from support.brute_force import BruteForce

POLICY = Policy()
PATIENT_MS = 20_000.0
"""Long enough that the deadline never decides: here correctness is asked for."""


@dataclass(frozen=True)
class Case:
    fleet: Fleet
    model: ModelProfile
    request: PlacementRequest


@st.composite
def links(draw: st.DrawFn) -> LinkFigures:
    return LinkFigures(
        bandwidth_bytes_per_second=draw(st.sampled_from([10.0, 100.0, 1000.0])),
        latency_seconds=draw(st.sampled_from([0.0, 0.01, 0.2])),
    )


@st.composite
def devices(draw: st.DrawFn, index: int, layers: int, *, alike: bool) -> FleetDevice:
    if alike:
        return FleetDevice(
            device_id=f"d{index}",
            name="twin",
            memory_total_bytes=40,
            memory_used_bytes=draw(st.integers(0, 20)),
            memory_bandwidth_bytes_per_second=100.0,
        )
    measured: tuple[MeasuredSpeed, ...] = ()
    if draw(st.integers(0, 7)) == 0:
        rates = draw(st.lists(st.sampled_from([1.0, 3.0, 7.0, 20.0]), min_size=1, max_size=layers + 1))
        measured = (MeasuredSpeed(model_id="small", tokens_per_second_by_layers=tuple(rates)),)
    unplugged = draw(st.integers(0, 9)) == 0
    return FleetDevice(
        device_id=f"d{index}",
        backend=draw(st.sampled_from(["cuda", "cuda", "metal"])),
        memory_total_bytes=draw(st.one_of(st.integers(8, 40), st.integers(0, 60))),
        memory_used_bytes=draw(st.sampled_from([0, 0, 3, None])),
        memory_reserved_bytes=draw(st.sampled_from([0, 0, 2])),
        memory_bandwidth_bytes_per_second=draw(st.sampled_from([None, 50.0, 100.0, 100.0, 333.0])),
        compute_utilization_percent=draw(st.sampled_from([None, 0.0, 50.0])),
        is_thermal_throttling=draw(st.sampled_from([None, False, True])),
        is_plugged_in=False if unplugged else None,
        battery_percent=draw(st.sampled_from([10.0, 80.0])) if unplugged else None,
        status="lost" if draw(st.integers(0, 15)) == 0 else "ok",
        measured=measured,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    layers = draw(st.sampled_from([1, 3, 4, 5, 6, 6]))
    sizes = draw(
        st.one_of(
            st.integers(1, 9),
            st.lists(st.integers(0, 14), min_size=layers, max_size=layers).map(tuple),
        )
    )
    held = sizes if isinstance(sizes, tuple) else (sizes,) * layers
    active = draw(st.sampled_from([None, tuple(size // 2 for size in held)]))
    tensor = draw(st.booleans())
    model = ModelProfile(
        model_id="small",
        layers=layers,
        layer_bytes=sizes,
        active_layer_bytes=active,
        embedding_bytes=draw(st.sampled_from([0, 0, 5, 12])),
        head_bytes=draw(st.sampled_from([0, 0, 5, 12])),
        tied_embedding=draw(st.booleans()),
        kv_bytes_per_token_per_layer=draw(st.sampled_from([0, 1])),
        attention_window_tokens=draw(
            st.sampled_from([None, tuple(1 if layer % 2 else None for layer in range(layers))])
        ),
        activation_bytes_per_token=draw(st.sampled_from([0, 1, 10])),
        supports_tensor=tensor,
        hidden_size=8,
        num_attention_heads=draw(st.sampled_from([4, 6])),
        num_key_value_heads=2,
        backends=draw(st.sampled_from([None, None, ("cuda",)])),
    )
    node_count = draw(st.sampled_from([1, 2, 3, 3, 4, 4]))
    nodes: list[FleetNode] = []
    left = 5
    for number in range(node_count):
        count = draw(st.integers(min(1, left), min(3, left)))
        left -= count
        alike = draw(st.integers(0, 3)) == 0
        nodes.append(
            FleetNode(
                node_id=f"n{number}",
                devices=tuple(draw(devices(index, layers, alike=alike)) for index in range(count)),
                device_link=draw(st.none() | links()),
            )
        )
    default = draw(st.none() | links())
    declared = [
        FleetLink.model_validate({"from": a.node_id, "to": b.node_id, **draw(links()).model_dump()})
        for a in nodes
        for b in nodes
        if a is not b and draw(st.integers(0, 3)) > 0
    ]
    fleet = Fleet(nodes=tuple(nodes), links=tuple(declared), default_link=default)
    keys = [key for key, _, _ in fleet.devices()]
    names = [*keys, *(node.node_id for node in nodes)]
    some = st.lists(st.sampled_from(names), max_size=2, unique=True).map(tuple)
    pin: dict[str, int] = {}
    if keys and draw(st.integers(0, 7)) == 0:
        pin = {str(draw(st.sampled_from(keys))): draw(st.integers(1, layers))}
    max_nodes = draw(st.sampled_from([None, None, None, None, None, 1, 2]))
    objective: ObjectiveName = draw(st.sampled_from(["throughput", "latency", "score"]))
    request = PlacementRequest(
        model=model,
        objective=objective,
        sharding=draw(st.sampled_from(["auto", "auto", "auto", "pipeline", "pipeline", "tensor"])),
        context_tokens=draw(st.sampled_from([0, 1, 3])),
        concurrency=draw(st.sampled_from([1, 1, 3])),
        min_nodes=min(draw(st.sampled_from([1, 1, 1, 2])), max_nodes or 9),
        max_nodes=max_nodes,
        max_devices=draw(st.sampled_from([None, None, None, None, None, 1, 2, 3])),
        max_stages=draw(st.sampled_from([None, None, None, None, None, 1, 2])),
        include=draw(some) if draw(st.integers(0, 5)) == 0 else (),
        exclude=draw(some) if draw(st.integers(0, 5)) == 0 else (),
        pin=pin,
        headroom_fraction=draw(st.sampled_from([0.0, 0.0, 0.1])),
        headroom_bytes=0,
        runtime_overhead_bytes=draw(st.sampled_from([0, 0, 1])),
        deadline_ms=PATIENT_MS,
    )
    return Case(fleet, model, request)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_a_plan_is_found_exactly_when_one_exists_and_an_optimal_one_is_the_best(case: Case) -> None:
    fleet, model, request = case.fleet, case.model, case.request
    everything = BruteForce(fleet, model, request, POLICY)
    answer = plan(fleet, model, request, POLICY)
    if answer.status == "refused":
        event(f"refused: {answer.refusal.code}")
        first = next(everything.plans(), None)
        assert first is None, f"refused ({answer.refusal}) but {first} is a plan"
        assert answer.refusal.proved
        return
    event(f"placed: {answer.strategy}, {answer.solver.status}, {len(answer.stages)} stages")
    assert verify(fleet, model, request, POLICY, answer) == ()
    for stage in answer.stages:
        for device in stage.devices:
            held = everything.needed(device, stage.start_layer, stage.end_layer, len(stage.devices))
            assert held == stage.memory_bytes[device] <= everything.free(device)
    scores = {str(verdict.device): verdict.score for verdict in answer.devices}
    best = everything.best(scores)
    assert best is not None
    tolerance = 1e-6 * max(abs(best), 1e-12)
    sign = -1 if request.objective == "score" else 1
    if answer.objective.gap == 0:
        assert abs(answer.objective.value - best) <= tolerance
    assert sign * answer.objective.value >= sign * best - tolerance, "better than possible"
    if answer.objective.bound is not None:
        assert sign * answer.objective.bound <= sign * best + tolerance, "the bound cuts off a real plan"
    if answer.strategy == "ilp":
        assert answer.solver.status == "optimal", "nothing this small may stay unproved"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.randoms(use_true_random=False))
def test_equal_requests_get_equal_plans_in_whatever_order_the_fleet_is_told(case: Case, random: object) -> None:
    assert hasattr(random, "shuffle")
    nodes = list(case.fleet.nodes)
    random.shuffle(nodes)  # type: ignore[attr-defined]
    shuffled = [node.model_copy(update={"devices": tuple(reversed(node.devices))}) for node in nodes]
    told_otherwise = case.fleet.model_copy(
        update={"nodes": tuple(shuffled), "links": tuple(reversed(case.fleet.links))}
    )
    first = plan(case.fleet, case.model, case.request, POLICY)
    second = plan(told_otherwise, case.model, case.request, POLICY)
    apart = {"solver"}
    assert first.model_dump(exclude=apart) == second.model_dump(exclude=apart)
    assert DeviceKey("n0/d0")  # keys are text
