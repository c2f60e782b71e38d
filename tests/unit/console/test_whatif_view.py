"""Two plans side by side, and which models fit, as rows for people."""

from typing import Any

import pytest
from shardbus_console.fit_view import fitting_rows, missing_rows, summary
from shardbus_console.whatif_view import device_rows, figure_rows, idle_lines, print_comparison
from shardbus_placer.changes import AddDevice, Change, RemoveDevice
from shardbus_placer.fit import Fit
from shardbus_placer.whatif import Comparison, what_if
from shardbus_schemas.ids import DeviceKey, NodeId
from support.planning import PLAIN, asked, device, fleet, model

TEN = model(layers=10, size=10)
MIXED = fleet(attic=device("a", 60, name="Card A"), desk=device("b", 60, 200.0, name="Card B"))


def compare(change: Change, **request: Any) -> Comparison:
    return what_if(MIXED, [change], TEN, asked(TEN, **{"objective": "latency", **request}), PLAIN)


def rows_by_name(comparison: Comparison) -> dict[str, tuple[object, ...]]:
    return {str(row[""]): (row["before"], row["after"], row["change"]) for row in figure_rows(comparison)}


def test_each_figure_has_a_row_with_both_values_and_the_change() -> None:
    rows = rows_by_name(compare(AddDevice(NodeId("attic"), device("big", 100, 400.0))))
    assert rows["answer"] == ("placed, proved optimal", "placed, proved optimal", "")
    assert rows["tokens/s"] == ("1.4", "4.0", "+184 %")
    assert rows["per token"] == ("710 ms", "250 ms", "-65 %")
    assert rows["devices"] == ("2", "1", "-1")
    assert rows["memory"] == ("100 B", "100 B", "")


def test_a_refused_side_has_its_reason_in_place_of_figures() -> None:
    rows = rows_by_name(compare(RemoveDevice(DeviceKey("desk/b"))))
    assert rows["answer"] == ("placed, proved optimal", "refused", "")
    assert rows["missing"] == ("", "40 B", "")
    assert rows["tokens/s"] == ("1.4", "", "")


def test_the_score_is_shown_where_it_was_asked_for() -> None:
    assert "score" in rows_by_name(compare(RemoveDevice(DeviceKey("desk/b")), objective="score"))


def test_each_device_that_counts_has_its_layers_before_and_after() -> None:
    bigger = compare(AddDevice(NodeId("attic"), device("big", 100, 400.0, name="Card C")))
    rows = device_rows(bigger)
    assert [(row["device"], row["name"], row["layers before"], row["layers after"]) for row in rows] == [
        ("attic/a", "Card A", "0-3", ""),
        ("desk/b", "Card B", "4-9", ""),
        ("attic/big", "Card C", "", "0-9"),
    ]
    a, b = idle_lines(bigger)
    assert a.startswith("attic/a holds nothing: not needed")
    assert b.startswith("desk/b holds nothing: not needed")


def test_a_device_that_was_removed_is_marked_and_needs_no_reason() -> None:
    smaller = compare(RemoveDevice(DeviceKey("desk/b")))
    assert [row["layers after"] for row in device_rows(smaller)] == ["", "removed"]
    assert idle_lines(smaller) == []


def test_a_comparison_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(compare(RemoveDevice(DeviceKey("desk/b"))), "tiny")
    said = capsys.readouterr().out
    order = ["tiny, before and after", "tokens/s", "attic/a", "it does not fit any more", "what would help"]
    assert [text for text in order if text in said] == order
    assert sorted(order, key=said.index) == order


GIB = 2**30
FITS = (
    Fit(
        model_id="large-4bit",
        parameters=70_000_000_000,
        weight_bytes=40 * GIB,
        fits=True,
        tokens_per_second=12.34,
        seconds_per_token=0.081,
        devices=2,
        nodes=1,
        memory_bytes=42 * GIB,
        gap=0.013,
        instead_of="large",
    ),
    Fit(model_id="small", weight_bytes=GIB, fits=True, tokens_per_second=300.4, seconds_per_token=0.0033, gap=0),
    Fit(model_id="slow", weight_bytes=9 * GIB, fits=None, code="deadline_without_answer", why="x" * 200),
    Fit(model_id="large", weight_bytes=160 * GIB, fits=False, missing_bytes=64 * GIB, why="memory is short"),
)


def test_models_that_fit_have_their_speed_and_what_was_proved() -> None:
    large, small = fitting_rows(FITS)
    assert (large["model"], large["parameters"], large["tokens/s"], large["per token"]) == (
        "large-4bit",
        "70B",
        "12.3",
        "81 ms",
    )
    assert (large["proof"], small["proof"], small["tokens/s"]) == ("within 1.3%", "optimal", "300")
    assert "context" not in large


def test_the_longest_context_has_a_column_where_it_was_sought() -> None:
    (row,) = fitting_rows([FITS[1].model_copy(update={"longest_context_tokens": 131072})])
    assert row["context"] == "131,072"


def test_models_that_do_not_fit_have_what_is_missing_or_why_else() -> None:
    slow, large = missing_rows(FITS)
    assert (large["missing"], large["why"]) == ("64.0 GiB", "memory is short")
    assert slow["missing"] == ""
    assert len(str(slow["why"])) == 100


def test_how_many_fit_is_said_in_a_line() -> None:
    assert summary(FITS) == (
        "1 of 3 fit, and 1 more in a smaller quantisation; 1 could not be told within the deadline"
    )
