"""A whole fleet's plan, and the front of plans, as rows for people."""

import json
from pathlib import Path

import pytest
from shardbus_console.flow_view import flow_asked, flow_rows, front_rows
from shardbus_console.placement_view import print_result
from support.command_line import shardbus_here
from support.planning import ask, device, fleet, model, placed

WHERE = fleet(a=device("0", 50), b=device("0", 50, 50.0), c=device("0", 50, 50.0))
PLAN = placed(ask(WHERE, model(10, 10), objective="fleet_throughput"))


def test_devices_side_by_side_have_a_row_each_with_what_they_pass_and_hand_on() -> None:
    rows = {str(row["device"]): row for row in flow_rows(PLAN)}
    assert rows["b/0"]["layers"] == rows["c/0"]["layers"]
    assert rows["b/0"]["tokens/s"] == "1.0 of 1.0"
    assert rows["a/0"]["tokens/s"] == "2.0 of 2.0"
    ends = "b/0, c/0" if rows["a/0"]["layers"] == "0-4" else "the answer"
    assert rows["a/0"]["hands over to"] == ends


def test_the_front_has_a_row_for_each_depth() -> None:
    (row,) = front_rows((PLAN,))
    assert row == {
        "depth": 2,
        "tokens/s": "2.0",
        "bound": "2.0",
        "gap": "proved best",
        "devices": 3,
        "ms per token": "1510.0",
    }


def test_a_flow_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(PLAN)
    said = capsys.readouterr().out
    assert "hands over to" in said
    assert "2.0 tokens/s" in said
    assert "proved optimal" in said


def test_the_front_is_of_the_whole_fleet_and_of_nothing_else() -> None:
    assert flow_asked({})["objective"] == "fleet_throughput"
    with pytest.raises(Exception, match="no --objective latency"):
        flow_asked({"objective": "latency"})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A fleet of one device that holds the model and two that hold it together, and the model."""
    gib = 1 << 30
    devices = [("all", 100, 10e9), ("one", 60, 500e9), ("two", 60, 500e9)]
    nodes = [
        {
            "node_id": name,
            "devices": [
                {"device_id": "gpu", "memory_total_bytes": room * gib, "memory_bandwidth_bytes_per_second": speed}
            ],
        }
        for name, room, speed in devices
    ]
    link = {"bandwidth_bytes_per_second": 1e9, "latency_seconds": 0.001}
    (tmp_path / "fleet.json").write_text(json.dumps({"nodes": nodes, "default_link": link}))
    what = {"model_id": "mine", "layers": 10, "layer_bytes": 8 * gib, "activation_bytes_per_token": 8192}
    (tmp_path / "model.json").write_text(json.dumps(what))
    return tmp_path / "fleet.json", tmp_path / "model.json"


def test_plan_front_prints_the_depths_worth_having(files: tuple[Path, Path]) -> None:
    asked = ("plan", "--fleet", files[0], "--model", files[1], "--front", "--context-tokens", "0")
    done = shardbus_here(*asked)
    assert done.returncode == 0, done.stderr
    assert "mine on the whole fleet" in done.stdout
    answer = json.loads(shardbus_here(*asked, "--json").stdout)
    plans = answer["front"]
    assert [plan["depth"] for plan in plans] == [1, 2]
    assert plans[0]["objective"]["value"] < plans[1]["objective"]["value"]
    assert all(plan["objective"]["name"] == "fleet_throughput" for plan in plans)


def test_a_front_that_does_not_exist_is_refused_with_3(files: tuple[Path, Path]) -> None:
    asked = ("plan", "--fleet", files[0], "--model", files[1], "--front", "--exclude", "all", "--exclude", "one")
    done = shardbus_here(*asked)
    assert done.returncode == 3
    assert "refused (insufficient_memory)" in done.stdout


def test_another_objective_has_no_front(files: tuple[Path, Path]) -> None:
    done = shardbus_here("plan", "--fleet", files[0], "--model", files[1], "--front", "--objective", "latency")
    assert done.returncode == 2
    assert "no --objective latency" in done.stderr
