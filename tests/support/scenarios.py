"""Scenarios and their steps, said shortly."""

from typing import Any

from pydantic import TypeAdapter
from shardbus_schemas.scenario import AnyStep, Scenario, Step

_STEP: TypeAdapter[AnyStep] = TypeAdapter(Step)


def step(at: float | str, do: str, **what: Any) -> Any:
    """Return a step; what ``for`` says is ``lasts`` here."""
    return _STEP.validate_python({"at": at, "do": do, **what})


def scenario(*steps: AnyStep, **what: Any) -> Scenario:
    """Return a scenario of ``steps``."""
    return Scenario(steps=steps, **what)
