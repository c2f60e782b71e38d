"""Differences as people read them."""

from typing import Any

import pytest
from shardbus_console.difference_view import difference_rows, value_text
from shardbus_eventstore.differences import Difference


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("memory_used_bytes", 3 * 2**30, "3.0 GiB"),
        ("bandwidth_bytes_per_second", 1e9, "1 GB/s"),
        ("latency_seconds", 0.002, "2 ms"),
        ("thermal_temperature_c", 61.4, "61 °C"),
        ("power_watts", 250.0, "250 W"),
        ("compute_utilization_percent", 99.6, "100 %"),
        ("is_plugged_in", False, "no"),
        ("throttle_reasons", [], "none"),
        ("throttle_reasons", ["power_cap", "hardware"], "power_cap, hardware"),
        ("faults", 3, "3"),
        ("health", None, ""),
        ("labels", {"room": "x" * 80}, "{'room': '" + "x" * 49 + "…"),
        ("moved", "a/b [0-9], " * 20, "a/b [0-9], " * 20),
    ],
)
def test_a_value_reads_with_its_unit(name: str, value: Any, text: str) -> None:
    assert value_text(name, value) == text


def test_a_difference_is_a_row() -> None:
    link = Difference(kind="link", name="a > b", change="measured", after=1e9)
    used = Difference(kind="reading", name="a/g", change="memory_used_bytes", before=0, after=2**30)
    assert difference_rows([link, used]) == [
        {"what": "link", "name": "a > b", "change": "measured", "before": "", "after": "1 GB/s"},
        {"what": "reading", "name": "a/g", "change": "memory used", "before": "0 B", "after": "1.0 GiB"},
    ]
