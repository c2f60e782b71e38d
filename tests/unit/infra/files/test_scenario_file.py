"""Scenario files: what a person may write, and what he is told when it is wrong."""

import json
from pathlib import Path

import pytest
from shardbus_infra.files.document import FileError
from shardbus_infra.files.fleet_file import read_fleet
from shardbus_infra.files.scenario_file import parse_scenario, read_scenario
from shardbus_schemas.scenario import Scenario

EXAMPLES = Path(__file__).parents[4] / "examples"
MIXED = read_fleet(EXAMPLES / "mixed.yaml")


def read(*steps: str, **top: object) -> Scenario:
    said = "".join(f"{name}: {value}\n" for name, value in top.items())
    return parse_scenario(f"{said}steps:\n" + "".join(f"- {each}\n" for each in steps), MIXED, name="s.yaml")


def message(*steps: str, **top: object) -> str:
    with pytest.raises(FileError) as caught:
        read(*steps, **top)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fleet", "scenario"),
    [("mixed", "bad_afternoon"), ("mixed", "working_day"), ("racks", "flaky_racks")],
)
def test_the_examples_are_scenarios_of_their_fleets(fleet: str, scenario: str) -> None:
    assert read_scenario(EXAMPLES / "scenarios" / f"{scenario}.yaml", read_fleet(EXAMPLES / f"{fleet}.yaml")).steps


@pytest.mark.parametrize(
    ("written", "seconds"), [("90", 90), ("3m", 180), ("1h30m", 5400), ("'250 ms'", 0.25), ("1.5h", 5400), ("0", 0)]
)
def test_a_time_is_seconds_or_has_units(written: str, seconds: float) -> None:
    assert read(f"{{at: {written}, do: lose}}").steps[0].at == seconds


def test_what_is_not_said_is_all_and_for_good() -> None:
    (step,) = read("{at: 3m, do: lose}").steps
    assert (step.on, step.lasts_seconds) == (("*",), float("inf"))


def test_json_and_yaml_of_the_same_shape_are_the_same_scenario() -> None:
    text = {"steps": [{"at": "3m", "do": "load", "on": ["attic", "den"], "utilization_percent": [10, 90], "for": 60}]}
    from_json = parse_scenario(json.dumps(text), MIXED, name="s.json")
    assert from_json == read("{at: 180, do: load, on: [attic, den], utilization_percent: [10, 90], for: 1m}")


def test_all_steps_repeat_as_the_scenario_does_unless_they_say_otherwise() -> None:
    scenario = read("{at: 1, do: lose, for: 2}", "{at: 1, do: lose, for: 2, repeat_every: 9}", repeat_every="1m")
    assert [step.repeat_every for step in scenario.timed_steps()] == [60, 9]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("{at: 1, do: lse}", "s.yaml:2: steps[0]: do: 'lse' is none of load, throttle, lose"),
        ("{at: 1, do: lse}", "(did you mean 'lose'?)"),
        ("{at: 1, on: den}", "s.yaml:2: steps[0]: do is required, but not given"),
        ("{do: lose}", "s.yaml:2: steps[0].at: required, but not given"),
        ("{at: 3mm, do: lose}", "s.yaml:2: steps[0].at: '3mm' is no time: write seconds (90) or"),
        ("{at: -1, do: lose}", "steps[0].at: Input should be greater than or equal to 0"),
        ("{at: 1, do: lose, reasn: x}", "steps[0].reasn: unknown field (did you mean 'reason'?)"),
        ("{at: 1, do: load}", "give utilization_percent, memory_percent, or both"),
        ("{at: 1, do: load, utilization_percent: 900}", "steps[0].utilization_percent: Input should be less than"),
        ("{at: 1, do: fault}", "an XID has a number"),
        ("{at: 1, do: link, on: attic, latency_factor: 2}", "'attic': name two nodes, 'a>b' for one way"),
        ("{at: 1, do: link, on: attic>den}", "give one of bandwidth_factor"),
        ("{at: 1, do: link, on: attic>den, latency_factor: 2, latency_seconds: 1}", "not both"),
        ("{at: 1, do: lose, on: attik/cuda:0}", "has no device 'attik/cuda:0' (did you mean 'attic/cuda:0'?)"),
        ("{at: 1, do: lose, on: 'x*'}", "steps[0].on: 'x*' matches no node"),
        ("{at: 1, do: vanish, on: attik}", "has no node 'attik' (did you mean 'attic'?)"),
        ("{at: 1, do: vanish, on: attic/cuda:0}", "this step is about whole nodes"),
        ("{at: 1, do: link, on: den<>attik, latency_factor: 2}", "has no node 'attik' (did you mean 'attic'?)"),
        (
            "{at: 1, do: lose, where: {sit: home}}",
            "steps[0].where.sit: no node has a label 'sit' (did you mean 'site'?)",
        ),
        ("{at: 1, do: lose, where: {site: hom}}", "no node has site: 'hom' (did you mean 'home'?)"),
        ("{at: 1, do: lose, on: den, where: {site: office}}", "about nobody"),
        ("{at: 1, do: unplug, on: attic}", "nothing to unplug: none of these nodes has a device with battery_percent"),
        ("{at: 1, do: lose, repeat_every: 9}", "repeats, and so must end: say `for`"),
        ("{at: 1, do: throttle, for: 5, repeat_every: 9, over: 5}", "lasts 10 s until nothing is left of it"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_was_meant(step: str, said: str) -> None:
    assert said in message(step)


def test_a_link_that_is_not_there_is_told() -> None:
    fleet = MIXED.model_copy(update={"default_link": None})
    with pytest.raises(FileError, match=r"steps\[0\].on: the fleet has no link den>mini, and no default_link"):
        parse_scenario("steps: [{at: 1, do: link, on: den>mini, latency_factor: 2}]", fleet, name="s.yaml")


def test_a_file_that_is_no_scenario_is_told_so() -> None:
    with pytest.raises(FileError, match="is this a scenario file"):
        parse_scenario("nodes: []", MIXED, name="s.yaml")
