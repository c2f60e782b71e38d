"""What an explanation claims, asked of the planner again: without what binds, the best plan is better."""

from typing import get_args

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetLink
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import Binding, Placed, PlacementRequest
from support.small_cases import Case, Conditions, Links, Shape, small_case

POLICY = Policy(tensor_link=LinkFigures(bandwidth_bytes_per_second=100.0, latency_seconds=0.01))
INSTANT = {"bandwidth_bytes_per_second": 1e18, "latency_seconds": 0.0}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = Shape(
        devices=draw(st.sampled_from([(1, 1), (2, 1), (1, 1, 1), (2, 2), (1, 1, 1, 1), (3, 2), (2, 1, 1, 1)])),
        layers=draw(st.integers(2, 10)),
        objective=draw(st.sampled_from(["throughput", "latency", "score"])),
        equal_layers=draw(st.booleans()),
        links=draw(st.sampled_from(get_args(Links))),
        ends=draw(st.booleans()),
        measured=draw(st.integers(0, 4)) == 0,
        sharding=draw(st.sampled_from(["pipeline", "pipeline", "auto", "tensor"])),
        conditions=draw(st.sampled_from(["none", "none", *get_args(Conditions)])),
    )
    return small_case(shape, draw(st.integers(0, 2**32 - 1)))


def cost(answer: Placed) -> float:
    return -answer.objective.value if answer.objective.name == "score" else answer.objective.value


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_without_what_binds_the_best_plan_is_better_and_the_runner_up_is_not(case: Case) -> None:
    answer = plan(case.fleet, case.model, case.request, POLICY)
    if not isinstance(answer, Placed):
        return
    for binding in answer.binding:
        event(f"{case.request.objective}: {binding.kind}")
        relaxed = without(case, answer, binding)
        if relaxed is None:
            continue
        better = plan(relaxed.fleet, relaxed.model, relaxed.request, POLICY)
        assert isinstance(better, Placed)
        assert cost(better) < cost(answer), binding.why
    second = answer.runner_up
    event(f"runner-up: {second is not None}")
    if second is not None:
        sign = -1 if case.request.objective == "score" else 1
        assert sign * second.value >= cost(answer)
        assert sum(second.layers) == case.model.layers
        assert [stage.devices for stage in answer.stages] != list(second.devices)
        assert second.why


def without(case: Case, answer: Placed, binding: Binding) -> Case | None:
    """The case without what binds; ``None`` for the slowest stage, which is no limit, and where scores would shift."""
    if binding.why.startswith("the slowest stage") or "for a token" in binding.why or len(answer.stages) == 1:
        return None
    match binding.kind:
        case "memory" if case.request.objective != "score":
            assert binding.device is not None
            stage = next(stage for stage in answer.stages if binding.device in stage.devices)
            return Case(_roomy(case.fleet, stage.devices), case.model, case.request)
        case "link":
            assert binding.device is not None
            assert binding.to_device is not None
            return Case(_instant(case.fleet, binding.device, binding.to_device), case.model, case.request)
        case "condition":
            return Case(case.fleet, case.model, _dropped(case.request, binding.why))
        case _:
            return None


def _roomy(fleet: Fleet, devices: tuple[DeviceKey, ...]) -> Fleet:
    nodes = [
        node.model_copy(
            update={
                "devices": tuple(
                    device.model_copy(update={"memory_total_bytes": (device.memory_total_bytes or 0) + 10_000})
                    if DeviceKey.of(node.node_id, device.device_id) in devices
                    else device
                    for device in node.devices
                )
            }
        )
        for node in fleet.nodes
    ]
    return fleet.model_copy(update={"nodes": tuple(nodes)})


def _instant(fleet: Fleet, here: DeviceKey, there: DeviceKey) -> Fleet:
    a, b = here.node_id, there.node_id
    if a == b:
        figures = LinkFigures.model_validate(INSTANT)
        nodes = [
            node.model_copy(update={"device_link": figures}) if node.node_id == a else node for node in fleet.nodes
        ]
        return fleet.model_copy(update={"nodes": tuple(nodes)})
    others = tuple(link for link in fleet.links if (link.from_node, link.to_node) != (a, b))
    instant = FleetLink.model_validate({"from": a, "to": b, **INSTANT})
    return fleet.model_copy(update={"links": (*others, instant)})


def _dropped(request: PlacementRequest, why: str) -> PlacementRequest:
    if why.startswith("the pin of"):
        device = why.partition(" layers on ")[2].partition(" binds")[0].removeprefix("the group ").split("+")
        return request.model_copy(update={"pin": {name: n for name, n in request.pin.items() if name not in device}})
    name = why.partition("=")[0]
    return request.model_copy(update={name: 1 if name == "min_nodes" else None})
