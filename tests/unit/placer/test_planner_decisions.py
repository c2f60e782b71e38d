"""Which branch of the decision tree answers, what is claimed, and that the deadline holds."""

import threading
import time
from collections.abc import Callable

import pytest
from shardbus_placer import exhaustion, solver_pulp
from shardbus_placer.formulation import LinearModel
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.solver_pulp import Solution
from shardbus_schemas.fleet import Fleet, FleetNode
from support.planning import PLAIN, ask, asked, device, fleet, layers, link, model, placed, refused
from support.waiting import until_sync

MIXED = fleet(a=device("0", 1000, 100.0), b=device("0", 1000, 300.0), c=device("0", 1000, 70.0))


def test_no_telemetry_is_greedy() -> None:
    where = fleet(a=device("0", 100, memory_used_bytes=None), b=device("0", 50, 300.0, memory_used_bytes=None))
    answer = placed(ask(where, model(10, 10)))
    assert answer.strategy == "greedy"
    assert "no telemetry" in answer.strategy_reason


def test_a_homogeneous_fleet_is_greedy() -> None:
    answer = placed(ask(fleet(a=device("0", 100), b=device("0", 103)), model(10, 10)))
    assert answer.strategy == "greedy"
    assert "homogeneous" in answer.strategy_reason


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"name": "other"}, "kind"),
        ({"memory_total_bytes": 200}, "memory"),
        ({"memory_used_bytes": 20}, "free memory"),
        ({"memory_bandwidth_bytes_per_second": 120.0}, "speed"),
        ({"is_thermal_throttling": True}, "speed"),
    ],
)
def test_a_difference_beyond_the_tolerance_asks_the_integer_program(other: dict[str, object], said: str) -> None:
    where = fleet(a=device("0", 100), b=device("0", 100).model_copy(update=other))
    answer = placed(ask(where, model(10, 10)))
    assert answer.strategy == "ilp"
    assert f"differ in {said}" in answer.strategy_reason
    assert (answer.solver.name, answer.solver.status, answer.objective.gap) == ("HiGHS", "optimal", 0)


def test_different_links_ask_the_integer_program() -> None:
    ways = (link("a", "b", 0.5), link("b", "a", 0.1))
    answer = placed(ask(fleet(None, ways, a=device("0", 60), b=device("0", 60)), model(10, 10)))
    assert "links between nodes differ" in answer.strategy_reason
    assert [hop.seconds for hop in answer.hops] == [0.1]


def test_a_homogeneous_fleet_where_greedy_fails_asks_the_integer_program() -> None:
    answer = refused(ask(fleet(a=device("0", 30), b=device("0", 30)), model(4, (20, 20, 10, 10))))
    assert answer.refusal.proved
    assert answer.strategy == "ilp"
    assert "homogeneous" in answer.strategy_reason
    assert "no greedy plan holds, so the integer program was asked" in answer.strategy_reason


def solver_is(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Solution]) -> None:
    """Put another solver in HiGHS' place."""

    class Engine:
        def solve(self, model: LinearModel, seconds: float, *, relaxed: bool) -> Solution:
            return answer()

    monkeypatch.setattr(solver_pulp, "_backend", lambda: ("HiGHS", Engine))


def test_a_failed_solver_leaves_the_best_greedy_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    solver_is(monkeypatch, lambda: Solution("failed", "HiGHS", detail="it broke"))
    answer = placed(ask(MIXED, model(10, 10), objective="latency"))
    assert answer.strategy == "greedy"
    assert "it broke" in answer.strategy_reason
    assert answer.solver.status == "failed"


def test_a_solver_that_breaks_inside_is_a_failed_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> Solution:
        raise RuntimeError("out of order")

    solver_is(monkeypatch, explode)
    answer = placed(ask(MIXED, model(10, 10), objective="latency"))
    assert answer.strategy == "greedy"
    assert "RuntimeError: out of order" in answer.strategy_reason


def test_a_solver_that_does_not_return_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang() -> Solution:
        released.wait()
        return Solution("infeasible", "HiGHS")

    ask(MIXED, model(10, 10))
    solver_is(monkeypatch, hang)
    began = time.monotonic()
    answer = placed(ask(MIXED, model(10, 10), objective="latency", deadline_ms=150.0))
    assert time.monotonic() - began < 0.6
    assert answer.strategy == "greedy"
    assert "the deadline of 150 ms passed" in answer.strategy_reason
    for _ in range(solver_pulp.MOST_STUCK):
        answer = placed(ask(MIXED, model(10, 10), objective="latency", deadline_ms=50.0))
    assert "earlier solves have not come back" in answer.strategy_reason, "threads must not pile up"
    released.set()
    until_sync(lambda: not solver_pulp._running)


def test_a_lying_solver_is_caught_by_the_verifier_or_by_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    solver_is(monkeypatch, lambda: Solution("deadline", "HiGHS", bound=-1e9))
    monkeypatch.setattr(exhaustion, "MOST_ORDERS", 0)
    two_stages = fleet(a=device("0", 60, 100.0), b=device("0", 60, 300.0))
    answer = placed(ask(two_stages, model(10, 10), objective="latency"))
    assert answer.objective.value == pytest.approx(0.61)
    assert answer.objective.bound == pytest.approx(0.6), "what counting knows, and no less"
    assert answer.solver.status == "deadline"


def test_infeasible_is_refused_only_with_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    # In sum there is room, and in whole layers too; only the order of large and small layers rules it out.
    where = fleet(a=device("0", 30), b=device("0", 30, 90.0))
    what = model(4, (20, 20, 10, 10))
    assert refused(ask(where, what)).refusal.proved
    solver_is(monkeypatch, lambda: Solution("deadline", "HiGHS"))
    assert refused(ask(where, what)).refusal.proved, "so few devices need no solver for a proof"
    monkeypatch.setattr(exhaustion, "MOST_ORDERS", 0)
    answer = refused(ask(where, what))
    assert (answer.refusal.code, answer.refusal.proved) == ("deadline_without_answer", False)


def test_equal_inputs_give_equal_plans() -> None:
    apart = {"solver"}
    assert ask(MIXED, model(10, 10)).model_dump(exclude=apart) == ask(MIXED, model(10, 10)).model_dump(exclude=apart)


def test_the_clock_decides_nothing_but_the_deadline() -> None:
    def slow_clock() -> Callable[[], float]:
        ticks = iter(range(1_000_000))
        return lambda: next(ticks) * 1e-6

    apart = {"solver"}
    request = asked(model(10, 10))
    first = plan(MIXED, model(10, 10), request, PLAIN, clock=slow_clock())
    assert first.model_dump(exclude=apart) == plan(MIXED, model(10, 10), request, PLAIN).model_dump(exclude=apart)


def test_a_deadline_that_is_over_at_once_still_gets_a_greedy_plan() -> None:
    answer = placed(ask(MIXED, model(10, 10), deadline_ms=0.001))
    assert answer.strategy == "greedy"
    assert layers(answer)


def test_equally_good_plans_use_fewer_devices() -> None:
    # One layer: whoever holds it, a second device cannot help.
    assert len(layers(ask(MIXED, model(1, 10)))) == 1
    # The slow device sets no pace but is of no use either: the bottleneck is an uncuttable layer.
    where = fleet(a=device("0", 100, 100.0), b=device("0", 100, 100.0), c=device("0", 100, 90.0))
    assert len(layers(ask(where, model(3, (50, 1, 1))))) == 2


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    ask(MIXED, model(10, 10))
    assert capfd.readouterr() == ("", "")


def test_an_empty_fleet_is_refused() -> None:
    assert refused(ask(Fleet(), model())).refusal.code == "no_devices"
    assert refused(ask(Fleet(nodes=(FleetNode(node_id="a"),)), model())).refusal.code == "no_devices"


def test_the_default_policy_plans_a_real_model_on_a_real_fleet() -> None:
    gib = 1 << 30
    where = fleet(
        attic=(
            device("cuda:0", 24 * gib, 936e9, name="RTX 3090", backend="cuda"),
            device("cuda:1", 24 * gib, 936e9, name="RTX 3090", backend="cuda"),
        ),
        desk=device("mps", 64 * gib, 400e9, name="M2 Max", backend="metal"),
    )
    what = model(
        80, 480_000_000, embedding_bytes=600_000_000, head_bytes=600_000_000, kv_bytes_per_token_per_layer=4096
    )
    answer = placed(ask(where, what, Policy(), context_tokens=8192, objective="latency"))
    assert answer.objective.gap == 0
    assert all(used <= 24 * gib * 0.95 for key, used in answer.memory_by_device.items() if key.node_id == "attic")
