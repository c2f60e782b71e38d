"""Figures as a person reads them."""

import json

import pytest
from pydantic import BaseModel
from shardbus_console.output import Progress, print_json, print_table, with_progress
from shardbus_schemas.units import bytes_text, rate_text, seconds_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (24 * 2**30, "24.0 GiB"),
        (2**40, "1.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
        (-(2**30), "-1.0 GiB"),
    ],
)
def test_bytes_are_said_in_binary_units(count: int | None, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0"),
        (90, "90 s"),
        (1.5, "1.5 s"),
        (0.01234, "12.3 ms"),
        (0.0002, "200 µs"),
        (5e-9, "5 ns"),
    ],
)
def test_durations_are_said_in_the_unit_that_fits(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "?"),
        (3.35e12, "3.35 TB/s"),
        (936e9, "936 GB/s"),
        (118e6, "118 MB/s"),
        (5e3, "5 kB/s"),
        (0, "0 kB/s"),
    ],
)
def test_bandwidths_are_said_in_decimal_units(rate: float | None, text: str) -> None:
    assert rate_text(rate) == text


class Thing(BaseModel):
    name: str


def test_json_holds_models_as_objects_and_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"thing": Thing(name="größe"), "list": [Thing(name="b")]})
    said = capsys.readouterr().out
    assert json.loads(said) == {"thing": {"name": "größe"}, "list": [{"name": "b"}]}
    assert "größe" in said


def test_a_table_shows_brackets_as_they_are_and_unknown_as_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(None, [{"on": "attic/cuda:0 [0-31]", "why": "[bold]not markup[/bold]", "no": None}])
    said = capsys.readouterr().out
    assert "attic/cuda:0 [0-31]" in said
    assert "[bold]not markup[/bold]" in said
    assert "None" not in said


def test_a_table_without_rows_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", [])
    assert capsys.readouterr().out == ""


def test_what_is_quick_says_nothing_of_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(with_progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_what_takes_long_says_so_once_where_no_terminal_reads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(range(100))
    monkeypatch.setattr("shardbus_console.output.time.monotonic", lambda: float(next(moments)))
    assert len(list(with_progress(range(9), "models", 9))) == 9
    assert capsys.readouterr().err == "9 models, one moment\n"


def test_a_terminal_sees_how_far_it_is_and_gets_its_line_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(range(100))
    monkeypatch.setattr("shardbus_console.output.time.monotonic", lambda: float(next(moments)))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert len(list(with_progress(range(4), "models", 4))) == 4
    said = capsys.readouterr().err
    assert said.endswith("\r4 of about 4 models\r\x1b[K")
    assert "\n" not in said


def test_long_work_says_once_that_it_takes_a_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr("shardbus_console.output.time.monotonic", lambda: clock[0])
    progress = Progress("events")
    for done in range(5):
        clock[0] += 0.6
        progress(done, 5000)
    progress.end()
    assert capsys.readouterr().err == "5,000 events, one moment\n"
