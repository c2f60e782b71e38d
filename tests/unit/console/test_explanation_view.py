"""A decision as lines and rows: everything that is known of why."""

import pytest
from shardbus_console.explanation_view import (
    asked_text,
    binding_lines,
    decision_lines,
    device_rows,
    print_explanation,
    rate_lines,
    refusal_rows,
    remedy_lines,
    runner_up_lines,
    time_rows,
)
from shardbus_placer.planner import plan
from shardbus_schemas.placement import Placed, PlacementRequest, Refused
from support.planning import PLAIN, ask, asked, device, fleet, model, placed, refused

WHAT = model(10, 10, flops_per_token_per_layer=1.0, activation_bytes_per_token=5)
FAST = {"peak_flops": {"float16": 1000.0}, "thermal_temperature_c": 30.0}
WHERE = fleet(attic=device("fast", 65, 1000.0, **FAST), desk=device("slow", 1000, 100.0, **FAST))
REQUEST = PlacementRequest(model=WHAT, context_tokens=100, deadline_ms=10_000.0, max_nodes=2, exclude=("shed",))


def answer() -> Placed:
    return placed(ask(WHERE, WHAT, objective="latency", context_tokens=100))


def no_answer() -> Refused:
    return refused(ask(WHERE, model(200, 10), context_tokens=100))


def test_what_was_asked_is_told_without_the_defaults() -> None:
    assert asked_text(REQUEST) == (
        "asked: small for latency, 100 tokens of context, 1 sequence, max_nodes 2, exclude shed, deadline_ms 10000.0"
    )
    pinned = PlacementRequest(model=WHAT, pin={"a/0": 3, "b/0": 2}, concurrency=2)
    assert asked_text(pinned).endswith("4096 tokens of context, 2 sequences, pin a/0: 3, b/0: 2")


def test_the_time_is_split_by_stage_and_hop_and_adds_up() -> None:
    rows = time_rows(answer())
    assert {row["where"] for row in rows} == {"attic/fast", "  hop to desk/slow", "desk/slow", "all"}
    assert rows[-1] == {"where": "all", "layers": "", "per token": "475 ms", "share": "100%", "prompt": "1.51 s"}
    by_place = {row["where"]: row for row in rows}
    assert by_place["attic/fast"]["per token"] == "60 ms"
    assert by_place["attic/fast"]["share"] == "13%"
    assert by_place["attic/fast"]["prompt"] == "600 ms"


def test_one_stage_needs_no_sum() -> None:
    (row,) = time_rows(placed(ask(fleet(a=device("0", 1000)), model())))
    assert (row["share"], row["prompt"]) == ("100%", "?")


def test_each_device_has_its_score_and_all_five_parts() -> None:
    rows = device_rows(answer().devices)
    assert [(row["device"], row["holds"]) for row in rows] == [("attic/fast", "yes"), ("desk/slow", "yes")]
    assert [rows[0][part] for part in ("compute", "memory", "network", "thermal", "bandwidth")] == [
        "1.00",
        "0.07",
        "1.00",
        "1.00",
        "1.00",
    ]
    assert "as many as fit" in str(rows[0]["why"])


def test_what_binds_and_the_runner_up_are_told_with_their_numbers() -> None:
    told = "\n".join(binding_lines(answer()))
    assert "memory: the memory of attic/fast is full with 6 layers: 5 B more would hold 7" in told
    second = runner_up_lines(answer())
    assert second[0].endswith("more")
    assert second[1].startswith("layers: ")
    alone = placed(ask(fleet(a=device("0", 1000)), model()))
    assert runner_up_lines(alone) == ["no other choice of devices was found"]


def test_the_rate_has_the_wait_for_the_first_token_too() -> None:
    assert rate_lines(answer()) == ["2.1 tokens/s, 475 ms per token, first token of a full prompt after 1.51 s"]


def test_how_it_was_decided_names_the_branch_the_solver_the_bound_and_the_gap() -> None:
    strategy, solver, objective = decision_lines(answer())
    assert strategy.startswith("strategy ilp: heterogeneous")
    assert solver.startswith("solver HiGHS: optimal, ")
    assert objective.startswith("objective latency: 0.475 seconds, bound 0.475, gap 0.00%: proved optimal")


def test_a_refusal_lists_what_is_short_and_what_would_help() -> None:
    found = no_answer()
    assert {str(row["device"]) for row in refusal_rows(found)} == {"attic/fast", "desk/slow"}
    lines = remedy_lines(found)
    assert lines[0].startswith("- ")
    assert any("add a device with" in line for line in lines)
    hopeless = refused(plan(fleet(), model(), asked(model()), PLAIN))
    assert remedy_lines(hopeless) == ["- start an agent on a machine with a GPU"]


def test_the_whole_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_explanation(answer(), REQUEST)
    said = capsys.readouterr().out
    parts = ("asked:", "where the time goes", "what binds", "the runner-up", "devices", "how it was decided")
    assert [said.index(part) for part in parts] == sorted(said.index(part) for part in parts)
    print_explanation(no_answer(), REQUEST)
    said = capsys.readouterr().out
    parts = ("refused (insufficient_memory)", "more free memory", "what would make it fit", "how it was decided")
    assert [said.index(part) for part in parts] == sorted(said.index(part) for part in parts)
