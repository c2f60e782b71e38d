"""Figures as people write them."""

import re

import pytest
from shardbus_schemas.units import bytes_of, duration_text, rate_of, seconds_of, seconds_text, tokens_text


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [
        ("1.25GB/s", 1.25e9),
        ("10Gb/s", 1.25e9),
        ("10 Gbit/s", 1.25e9),
        ("10Gbps", 1.25e9),
        ("125MB/s", 125e6),
        ("1000Mb/s", 125e6),
        ("1GiB/s", 2.0**30),
        ("64kB/s", 64e3),
        ("1e9B/s", 1e9),
        (" .5 TB/s ", 0.5e12),
    ],
)
def test_a_bandwidth_is_read_in_bytes_or_bits(text: str, bytes_per_second: float) -> None:
    assert rate_of(text) == pytest.approx(bytes_per_second)


@pytest.mark.parametrize(
    ("text", "count"),
    [("48GiB", 48 * 2**30), ("500MB", 500_000_000), ("1.5 kB", 1500), ("7B", 7), ("0", 0), ("2TiB", 2**41)],
)
def test_an_amount_of_memory_is_read_in_bytes(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize(
    ("text", "said"),
    [("48", "the unit is missing"), ("48gib", "did you mean GiB?"), ("all", "write an amount of memory")],
)
def test_what_is_no_amount_of_memory_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        bytes_of(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0.3ms", 0.0003), ("50us", 50e-6), ("50 µs", 50e-6), ("50μs", 50e-6), ("2s", 2.0), ("100ns", 1e-7), ("0", 0.0)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "write a bandwidth such as"),
        ("", "write a bandwidth such as"),
        ("-1GB/s", "write a bandwidth such as"),
        ("1,25GB/s", "write a bandwidth such as"),
        ("10", "the unit is missing"),
        ("10gb/s", "did you mean GB/s or Gb/s?"),
        ("10GB", "the unit 'GB' is not known"),
        ("0GB/s", "more than 0"),
        ("1e999GB/s", "too large"),
    ],
)
def test_what_is_no_bandwidth_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        rate_of(text)


@pytest.mark.parametrize(
    ("text", "said"), [("5", "the unit is missing"), ("5 MS", "did you mean ms?"), ("-1ms", "write a")]
)
def test_what_is_no_duration_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        seconds_of(text)


@pytest.mark.parametrize(
    ("rate", "text"), [(None, "?"), (0.0, "0.0"), (0.0423, "0.042"), (4.4, "4.4"), (99.94, "99.9"), (1084.6, "1085")]
)
def test_a_token_rate_has_tenths_where_they_say_something(rate: float | None, text: str) -> None:
    assert tokens_text(rate) == text


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.99999999, "1 s"), (0.9991, "999 ms"), (0.00099999, "1 ms"), (12.34, "12.3 s"), (0, "0")]
)
def test_a_duration_is_told_in_the_unit_that_fits_its_three_figures(seconds: float, said: str) -> None:
    assert seconds_text(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0"),
        (-1, "0"),
        (0.31, "310 ms"),
        (59.4, "59.4 s"),
        (59.97, "1 min"),
        (1120, "18 min 40 s"),
        (3600, "1 h"),
        (85_980, "23 h 53 min"),
        (183_600, "2 d 3 h"),
        (86_400 * 400, "400 d"),
    ],
)
def test_how_long_something_lasted_is_told_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert duration_text(seconds) == said
