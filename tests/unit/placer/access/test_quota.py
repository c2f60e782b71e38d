"""What a grant permits of devices, memory and instances."""

from dataclasses import dataclass, field

import pytest
from shardbus_placer.access.check import AccessProblem
from shardbus_placer.access.quota import (
    memory_problem,
    narrowed,
    owner_problem,
    permits,
    promised_bytes,
    target_problem,
)
from shardbus_schemas.access import Grant
from shardbus_schemas.commands import Place
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetNode
from shardbus_schemas.ids import DeviceKey, InstanceId
from shardbus_schemas.placement import (
    ObjectiveValue,
    Placed,
    PlacementRequest,
    Prediction,
    SolverReport,
    Stage,
)

ALICE = Grant(subject="alice", devices=("attic", "desk/cuda:0"), memory_bytes=100)
ALL = Grant(subject="alice")
FLEET = Fleet(
    nodes=tuple(
        FleetNode(node_id=node, devices=tuple(FleetDevice(device_id=device) for device in ("cuda:0", "cuda:1")))
        for node in ("attic", "desk", "office")
    )
)
FIRST = InstanceId("i")


def plan(**memory: int) -> Placed:
    """Return a plan that holds so many bytes on each node's one device."""
    stages = tuple(
        Stage(
            devices=(DeviceKey(f"{node}/gpu"),),
            start_layer=at,
            end_layer=at + 1,
            memory_bytes={DeviceKey(f"{node}/gpu"): count},
            seconds=1,
        )
        for at, (node, count) in enumerate(memory.items())
    )
    return Placed(
        model_id="tiny",
        strategy="greedy",
        strategy_reason="test",
        stages=stages,
        objective=ObjectiveValue(name="latency", value=1, unit="seconds"),
        predicted=Prediction(seconds_per_token=1, tokens_per_second=1),
        solver=SolverReport(name="greedy", status="feasible", seconds=0),
    )


@dataclass(frozen=True)
class Held:
    instance_id: InstanceId = FIRST
    grant: Grant | None = ALICE
    status: str = "placed"
    plan: Placed | None = field(default_factory=lambda: plan(attic=10, desk=20))


def asked(include: tuple[str, ...] = (), **others: object) -> PlacementRequest:
    return PlacementRequest.model_validate({"model_id": "tiny", "include": include, **others})


@pytest.mark.parametrize(
    ("include", "planned"),
    [
        ((), ("attic", "desk/cuda:0")),
        (("attic",), ("attic",)),
        (("attic/cuda:1",), ("attic/cuda:1",)),
        (("desk",), ("desk/cuda:0",)),
        (("desk/cuda:0",), ("desk/cuda:0",)),
        (("desk", "desk/cuda:0", "attic"), ("desk/cuda:0", "attic")),
    ],
)
def test_a_request_is_planned_on_what_it_names_of_what_is_granted(
    include: tuple[str, ...], planned: tuple[str, ...]
) -> None:
    answer = narrowed(asked(include), ALICE, FLEET)
    assert isinstance(answer, PlacementRequest)
    assert answer == asked(planned)


@pytest.mark.parametrize(
    ("include", "pin", "named"),
    [
        (("office",), {}, "office"),
        (("desk/cuda:1",), {}, "desk/cuda:1"),
        (("attic", "office", "cellar/x"), {}, "office, cellar/x"),
        (("attic2",), {}, "attic2"),
        (("Attic",), {}, "Attic"),
        ((), {"office/gpu": 2}, "office/gpu"),
        ((), {"desk/cuda:1": 2, "attic/cuda:0": 1}, "desk/cuda:1"),
        (("office",), {"office": 1}, "office"),
    ],
)
def test_what_is_asked_for_outside_of_the_grant_is_named(
    include: tuple[str, ...], pin: dict[str, int], named: str
) -> None:
    problem = narrowed(asked(include, pin=pin), ALICE, FLEET)
    assert isinstance(problem, AccessProblem)
    assert problem.code == "access_denied"
    assert problem.message == (f"the access token of alice does not permit {named}; it permits attic, desk/cuda:0")


def test_a_grant_of_no_device_is_not_one_of_all() -> None:
    problem = narrowed(asked(), Grant(subject="alice", devices=()), FLEET)
    assert isinstance(problem, AccessProblem)
    assert problem.code == "access_denied"


def test_a_device_of_the_grant_that_is_not_there_bars_nobody_from_the_others() -> None:
    grant = Grant(subject="alice", devices=("cellar", "attic", "desk/cuda:7"))
    assert narrowed(asked(), grant, FLEET) == asked(("attic",))


def test_a_grant_of_nothing_that_is_there_says_so() -> None:
    problem = narrowed(asked(), Grant(subject="alice", devices=("cellar",)), FLEET)
    assert isinstance(problem, AccessProblem)
    assert problem.message == "the access token of alice permits cellar, and nothing of it is in the fleet"


def test_what_the_request_misspells_within_the_grant_is_left_for_the_planner_to_say() -> None:
    assert narrowed(asked(("attic/cuda:9",)), ALICE, FLEET) == asked(("attic/cuda:9",))


def test_a_grant_of_all_changes_nothing() -> None:
    request = asked(("office",), pin={"office/gpu": 1})
    assert narrowed(request, ALL, FLEET) is request


def test_a_narrowed_command_stays_a_command() -> None:
    place = Place(model_id="tiny", command_id="c", priority=3, exclude=("attic/cuda:1",))
    assert narrowed(place, ALICE, FLEET) == place.model_copy(update={"include": ("attic", "desk/cuda:0")})


@pytest.mark.parametrize(
    ("name", "permitted"),
    [("attic", True), ("attic/x", True), ("desk", False), ("desk/cuda:0", True), ("desk/cuda:1", False), ("x", False)],
)
def test_a_node_is_permitted_with_its_devices_but_not_by_one_of_them(name: str, *, permitted: bool) -> None:
    assert permits(ALICE, name) is permitted
    assert permits(ALL, name)
    problem = target_problem(ALICE, name)
    assert (problem is None) is permitted
    assert problem is None or (problem.code, name in problem.message) == ("access_denied", True)


@pytest.mark.parametrize(
    ("grant", "said"),
    [(None, "was placed without an access token"), (Grant(subject="bob"), "belongs to bob")],
)
def test_an_instance_of_somebody_else_is_out_of_reach(grant: Grant | None, said: str) -> None:
    problem = owner_problem(ALICE, Held(grant=grant))
    assert problem is not None
    assert problem.code == "access_denied"
    assert said in problem.message


def test_ones_own_instance_is_in_reach_of_every_token_of_ones_own() -> None:
    assert owner_problem(ALICE, Held(grant=Grant(subject="alice", issuer="another", token_id="t2"))) is None


def test_what_is_promised_is_what_a_subjects_placed_instances_hold() -> None:
    held = [
        Held(),
        Held(InstanceId("other-token"), grant=Grant(subject="alice", token_id="t2"), plan=plan(attic=5)),
        Held(InstanceId("bobs"), grant=Grant(subject="bob")),
        Held(InstanceId("owners"), grant=None),
        Held(InstanceId("waiting"), status="pending", plan=None),
        Held(InstanceId("gone"), status="deleted"),
        Held(InstanceId("lost"), status="lost"),
    ]
    assert promised_bytes("alice", held) == 35
    assert promised_bytes("bob", held) == 30
    assert promised_bytes("carol", held) == 0
    assert promised_bytes("alice", held, but_for=InstanceId("i")) == 5


@pytest.mark.parametrize(("promised", "fits"), [(0, True), (70, True), (71, False), (100, False), (5000, False)])
def test_a_plan_fits_beside_what_is_promised_or_the_numbers_say_why_not(promised: int, *, fits: bool) -> None:
    problem = memory_problem(ALICE, plan(attic=10, desk=20), promised)
    if fits:
        assert problem is None
        return
    assert problem is not None
    left = max(0, 100 - promised)
    assert problem.code == "quota_exceeded"
    assert (problem.required_bytes, problem.available_bytes, problem.missing_bytes) == (30, left, 30 - left)
    assert problem.message.startswith(f"tiny takes 30 B, and alice has {left} B left: ")
    assert problem.message.endswith("of 100 B are promised to its instances")
    assert "delete an instance" in problem.remedy


def test_nobody_is_told_to_delete_what_he_has_not() -> None:
    problem = memory_problem(ALICE, plan(attic=101), 0)
    assert problem is not None
    assert "delete" not in problem.remedy


def test_without_a_limit_everything_fits() -> None:
    assert memory_problem(ALL, plan(attic=2**50), 2**60) is None


def test_a_limit_of_nothing_is_a_limit() -> None:
    assert memory_problem(Grant(subject="alice", memory_bytes=0), plan(attic=1), 0) is not None
