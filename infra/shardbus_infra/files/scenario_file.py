"""What happens to a played fleet, as a person writes it down."""

import re
from pathlib import Path

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.problems import Location
from shardbus_schemas.scenario import Scenario
from shardbus_schemas.scenario_targets import problems_of

from shardbus_infra.files.document import FileError, parse, read_text, report, validate


def read_scenario(path: str | Path, fleet: Fleet) -> Scenario:
    """Return the scenario in a JSON or YAML file; every name in it is one of ``fleet``. Raises FileError."""
    return parse_scenario(read_text(path), fleet, name=str(path))


def parse_scenario(text: str, fleet: Fleet, *, name: str) -> Scenario:
    """Return the scenario in ``text``; raise FileError. ``name`` is what messages call it, as for a fleet file."""
    document = parse(text, name=name)
    if document.fields is not None and "steps" not in document.fields:
        raise FileError(document.problem((), "steps: required, but not given; is this a scenario file?"))
    scenario = validate(document, Scenario, locate=_locate)
    if problems := [document.problem(place, problem) for place, problem in problems_of(scenario, fleet)]:
        raise FileError(report(problems))
    return scenario


def _locate(text: str, value: object) -> Location:  # noqa: ARG001 - the text says it all
    step = re.match(r"steps\[(\d+)\]", text)
    return ("steps", int(step[1])) if step else ()
