"""Where HiGHS is not installed, the CBC that PuLP brings answers; where neither is, the greedy does."""

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from shardbus_placer import solver_pulp
from shardbus_placer.formulation import LinearModel
from support.planning import ask, device, fleet, link, model, placed

FLEET = fleet(
    default_link=None,
    links=(link("a", "b"), link("b", "c"), link("c", "a", 0.3)),
    a=device("0", 60, 300.0),
    b=device("0", 90, 120.0),
    c=device("0", 80, 200.0),
)
MODEL = model(8, (20, 10, 10, 10, 25, 10, 10, 5))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make packages look as if they were not installed."""
    really = importlib.import_module

    def hide(*names: str) -> None:
        def pretend(name: str, package: str | None = None) -> ModuleType:
            if name in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return really(name, package)

        solver_pulp._backend.cache_clear()
        monkeypatch.setattr(importlib, "import_module", pretend)

    yield hide
    monkeypatch.undo()
    solver_pulp._backend.cache_clear()


@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
def test_cbc_finds_what_highs_finds(without: Callable[..., None], objective: str) -> None:
    best = placed(ask(FLEET, MODEL, objective=objective))
    without("highspy")
    assert solver_pulp.solver_name() == "CBC"
    answer = placed(ask(FLEET, MODEL, objective=objective))
    assert answer.objective.value == pytest.approx(best.objective.value, rel=1e-6)


def test_cbc_solves_the_same_program_as_highs(without: Callable[..., None]) -> None:
    knapsack = LinearModel("knapsack")
    columns = [knapsack.column(0, 1, integer=True, cost=-value) for value in (6, 10, 12)]
    knapsack.row(zip(columns, (1.0, 2.0, 3.0), strict=True), upper=5)
    with_highs = solver_pulp.solve(knapsack, 10)
    without("highspy")
    with_cbc = solver_pulp.solve(knapsack, 10)
    assert (with_highs.solver, with_cbc.solver) == ("HiGHS", "CBC")
    assert with_highs.status == with_cbc.status == "optimal"
    assert with_highs.values == pytest.approx(with_cbc.values)
    assert with_cbc.values == pytest.approx((0, 1, 1))
    knapsack.row([(column, 1.0) for column in columns], lower=4)
    assert solver_pulp.solve(knapsack, 10).status == "infeasible"


def test_without_any_solver_a_greedy_plan_is_still_given(without: Callable[..., None]) -> None:
    without("pulp", "highspy")
    placed(ask(FLEET, MODEL))
    assert solver_pulp.solver_name() == "none"
