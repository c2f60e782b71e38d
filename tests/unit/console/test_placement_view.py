"""A plan and a refusal as rows and lines for people."""

import pytest
from shardbus_console.placement_view import left_out_rows, print_result, refusal_lines, stage_rows, summary_lines
from shardbus_schemas.ids import DeviceKey, ModelId
from shardbus_schemas.placement import (
    DeviceVerdict,
    Hop,
    ObjectiveValue,
    Placed,
    Prediction,
    Refusal,
    Refused,
    SolverReport,
    Stage,
)

A, B, C = DeviceKey("attic/cuda:0"), DeviceKey("attic/cuda:1"), DeviceKey("desk/gpu")
GIB = 2**30

PLACED = Placed(
    model_id=ModelId("tiny"),
    strategy="ilp",
    strategy_reason="heterogeneous: two kinds",
    stages=(
        Stage(devices=(A, B), start_layer=0, end_layer=20, memory_bytes={A: 3 * GIB, B: 4 * GIB}, seconds=0.01),
        Stage(devices=(C,), start_layer=20, end_layer=21, memory_bytes={C: GIB}, seconds=0.5),
    ),
    hops=(Hop(**{"from": A, "to": C}, seconds=0.0002, known=False),),
    objective=ObjectiveValue(name="latency", value=0.51, unit="seconds", bound=0.51, gap=0),
    predicted=Prediction(seconds_per_token=0.51, tokens_per_second=1.96, assumptions=("no bandwidth known",)),
    solver=SolverReport(name="HiGHS", status="optimal", seconds=0.038),
    devices=(
        DeviceVerdict(device=A, score=0.9, chosen=True, why="the fastest", usable_bytes=20 * GIB),
        DeviceVerdict(device=DeviceKey("mini/gpu"), score=0.1, chosen=False, why="too slow", usable_bytes=5 * GIB),
    ),
    notes=("ignored the unknown field x",),
)

REFUSED = Refused(
    model_id=ModelId("huge"),
    strategy="ilp",
    strategy_reason="heterogeneous",
    refusal=Refusal(
        code="insufficient_memory",
        message="it needs more than there is",
        required_bytes=100 * GIB,
        available_bytes=60 * GIB,
        missing_bytes=40 * GIB,
        reasons={"stale": 2, "excluded": 1},
        remedy="add a device with 40 GiB",
    ),
    devices=(DeviceVerdict(device=A, score=0.9, chosen=False, why="could hold 4 layers", usable_bytes=20 * GIB),),
)


def test_each_device_of_a_stage_has_a_row_with_its_own_memory() -> None:
    rows = stage_rows(PLACED)
    assert [(row["stage"], row["device"], row["layers"], row["memory"]) for row in rows] == [
        (0, A, "0-19", "3.0 GiB"),
        (0, B, "0-19", "4.0 GiB"),
        (1, C, "20-20", "1.0 GiB"),
    ]
    assert [row["time"] for row in rows] == ["10 ms", "10 ms", "500 ms"]
    assert [row["why"] for row in rows] == ["the fastest", "", ""]


def test_a_hop_that_nobody_measured_is_marked() -> None:
    assert [row["hop to next"] for row in stage_rows(PLACED)] == ["200 µs ?", "200 µs ?", ""]


def test_devices_that_hold_nothing_are_listed_with_the_reason() -> None:
    assert left_out_rows(PLACED) == [{"device": "mini/gpu", "usable": "5.0 GiB", "why": "too slow"}]
    assert [row["why"] for row in left_out_rows(REFUSED)] == ["could hold 4 layers"]


@pytest.mark.parametrize(
    ("bound", "gap", "said"),
    [(0.51, 0.0, "proved optimal"), (0.5, 0.02, "within 2.0% of the best possible (0.5)"), (None, None, "not proved")],
)
def test_what_was_proved_is_said(bound: float | None, gap: float | None, said: str) -> None:
    objective = ObjectiveValue(name="latency", value=0.51, unit="seconds", bound=bound, gap=gap)
    text = "\n".join(summary_lines(PLACED.model_copy(update={"objective": objective})))
    assert said in text


def test_the_summary_says_rate_strategy_solver_assumptions_and_notes() -> None:
    text = "\n".join(summary_lines(PLACED))
    for said in (
        "2.0 tokens/s, 510 ms per token",
        "strategy ilp: heterogeneous: two kinds",
        "found by HiGHS in 38 ms",
        "assumed: no bandwidth known",
        "note: ignored the unknown field x",
    ):
        assert said in text


def test_a_refusal_says_what_is_missing_and_what_would_help() -> None:
    lines = refusal_lines(REFUSED)
    assert lines == [
        "refused (insufficient_memory): it needs more than there is",
        "needs 100.0 GiB, usable 60.0 GiB, missing 40.0 GiB",
        "devices: 2 stale, 1 excluded",
        "what would help: add a device with 40 GiB",
    ]


def test_a_refusal_that_nobody_proved_says_so() -> None:
    refusal = Refusal(code="deadline_without_answer", message="no time", proved=False)
    lines = refusal_lines(REFUSED.model_copy(update={"refusal": refusal}))
    assert lines == [
        "refused (deadline_without_answer): no time",
        "this was not proved: a longer deadline may find a plan",
    ]


def test_a_plan_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(PLACED)
    said = capsys.readouterr().out
    assert "tiny is placed" in said
    assert "devices that hold nothing" in said
    print_result(PLACED, heading="[mine]", left_out=False)
    said = capsys.readouterr().out
    assert "[mine]" in said
    assert "devices that hold nothing" not in said


def test_a_refusal_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(REFUSED)
    said = capsys.readouterr().out
    assert said.index("refused (insufficient_memory)") < said.index("what would help") < said.index("could hold 4")
