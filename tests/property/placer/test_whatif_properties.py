"""What holds of any comparison, on small random fleets: a change can be judged by the two proved optima."""

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.changes import AddDevice, RemoveDevice
from shardbus_placer.planner import plan
from shardbus_placer.policy import BackendPolicy, Policy
from shardbus_placer.whatif import what_if
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest
from support.planning import LINK, device, fleet, model

POLICY = Policy(
    backends={}, other_backend=BackendPolicy(headroom_fraction=0.0, runtime_overhead_bytes=0), activation_tokens=0
)
RELATIVE = 1e-6
PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def devices(draw: st.DrawFn, name: str) -> FleetDevice:
    return device(name, draw(st.integers(5, 60)), draw(st.sampled_from([50.0, 100.0, 333.0])))


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    nodes = {
        f"n{number}": tuple(draw(devices(f"d{index}")) for index in range(draw(st.integers(1, 2))))
        for number in range(draw(st.integers(1, 3)))
    }
    return fleet(default_link=draw(st.sampled_from([None, LINK])), **nodes)


@st.composite
def models(draw: st.DrawFn) -> ModelProfile:
    return model(layers=draw(st.integers(1, 8)), size=draw(st.integers(1, 9)), activation_bytes_per_token=10)


def asking(what: ModelProfile, objective: str) -> PlacementRequest:
    return PlacementRequest.model_validate(
        {"model": what, "objective": objective, "context_tokens": 0, "deadline_ms": 20_000.0}
    )


def assert_no_worse(before: Placed, after: Placed) -> None:
    """The old plan is still possible: no bound may cut it off, and no proved optimum be worse."""
    most = before.objective.value * (1 + RELATIVE)
    event(f"proved: {after.objective.gap == 0}")
    assert after.objective.bound is None or after.objective.bound <= most
    assert after.objective.gap != 0 or after.objective.value <= most


OBJECTIVES = st.sampled_from(["latency", "throughput"])


@PATIENT
@given(fleets(), models(), OBJECTIVES)
def test_without_a_change_both_plans_are_one(where: Fleet, what: ModelProfile, objective: str) -> None:
    same = what_if(where, (), what, asking(what, objective), POLICY)
    assert same.before == same.after
    assert same.moves == ()
    again = plan(where, what, asking(what, objective), POLICY)
    assert again.model_dump(exclude={"solver"}) == same.before.model_dump(exclude={"solver"})


@PATIENT
@given(fleets(), models(), OBJECTIVES, st.data())
def test_removing_a_device_that_holds_nothing_worsens_nothing(
    where: Fleet, what: ModelProfile, objective: str, data: st.DataObject
) -> None:
    before = plan(where, what, asking(what, objective), POLICY)
    held = before.memory_by_device if isinstance(before, Placed) else {}
    unused = [key for key, _, _ in where.devices() if key not in held]
    assume(isinstance(before, Placed) and unused)
    change = RemoveDevice(data.draw(st.sampled_from(unused)))
    after = what_if(where, [change], what, asking(what, objective), POLICY).after
    assert isinstance(before, Placed)
    assert isinstance(after, Placed)
    assert_no_worse(before, after)


@PATIENT
@given(fleets(), models(), OBJECTIVES, st.data())
def test_adding_a_device_never_worsens_a_proved_optimum(
    where: Fleet, what: ModelProfile, objective: str, data: st.DataObject
) -> None:
    node = NodeId(data.draw(st.sampled_from([*(str(one.node_id) for one in where.nodes), "new"])))
    compared = what_if(where, [AddDevice(node, data.draw(devices("more")))], what, asking(what, objective), POLICY)
    if isinstance(compared.before, Placed):
        assert isinstance(compared.after, Placed)
        assert_no_worse(compared.before, compared.after)
    moved = sum(move.layers for move in compared.moves)
    assert moved <= what.layers
