import pytest
from shardbus_placer import solver_pulp
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas.placement import PlacementRequest
from support import speed_fleets
from support.broken_solver import WAYS, Hang, solver_is
from support.quantiles import quantile


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_solver_is_asked_and_ends_when_released(way: str) -> None:
    installed = solver_pulp.solver_name()
    hang = Hang()
    with solver_is(hang.way(way)):
        for seed in range(12):
            fleet = speed_fleets.any_links(6, seed)
            model = speed_fleets.model_of_80_layers(fleet, seed)
            request = PlacementRequest(model=model, objective="throughput", sharding="pipeline", deadline_ms=200)
            plan(fleet, model, request, Policy())
            if hang.began:
                break
        hang.settle()
    assert hang.began == hang.ended > 0
    assert solver_pulp.solver_name() == installed


def test_the_p99_of_few_values_is_the_worst() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(range(1, 201), 0.99) == 198
