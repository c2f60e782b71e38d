"""What helpers of a system print: pmset on a Mac, Termux on a phone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.backends.apple import default_working_set, parse_pmset
from shardbus_agents.backends.termux import PhoneBattery, parse_battery

GIBIBYTE = 2**30
NOTES = "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n"
POWER = (
    "2026-08-20 05:08:37 -0700 CPU Power notify\n"
    "\tCPU_Scheduler_Limit \t= {}\n\tCPU_Available_CPUs \t= 12\n\tCPU_Speed_Limit \t= {}\n"
)


@pytest.mark.parametrize(
    ("text", "throttling"),
    [
        (NOTES, False),
        (NOTES + POWER.format(100, 100), False),
        (POWER.format(100, 100), False),
        (POWER.format(100, 62), True),
        (POWER.format(80, 100), True),
        ("Note: Thermal warning level = 1\n", True),
        ("Thermal Warning Level: 0\n", False),
        ("", None),
        ("pmset: unknown argument\n", None),
    ],
)
def test_pmset_says_whether_heat_holds_the_mac_back(text: str, throttling: bool | None) -> None:
    assert parse_pmset(text) is throttling


@pytest.mark.parametrize(("gibibytes", "limit"), [(8, 8 * 2 / 3), (24, 16), (36, 27), (128, 96)])
def test_macos_lets_a_gpu_wire_two_thirds_or_three_quarters(gibibytes: int, limit: float) -> None:
    assert default_working_set(gibibytes * GIBIBYTE) == int(limit * GIBIBYTE)


def test_a_phone_tells_charge_plug_and_heat() -> None:
    said = {
        "health": "GOOD",
        "percentage": 71,
        "plugged": "UNPLUGGED",
        "status": "DISCHARGING",
        "temperature": 31.2,
        "current": -412,
    }
    assert parse_battery(json.dumps(said)) == PhoneBattery(71, is_plugged_in=False, temperature_c=31.2)
    assert parse_battery('{"plugged": "PLUGGED_AC"}') == PhoneBattery(None, is_plugged_in=True, temperature_c=None)


@pytest.mark.parametrize("text", ["", "{}", "[]", "The Termux:API plugin is not installed", '{"percentage": "?"}'])
def test_what_is_no_answer_is_none(text: str) -> None:
    assert parse_battery(text) is None


@given(st.text())
def test_no_answer_is_too_strange(text: str) -> None:
    assert parse_pmset(text) in {True, False, None}
    assert parse_battery(text) is None or isinstance(parse_battery(text), PhoneBattery)
