"""What happens to a played fleet, and when: the scenario file of ``shardbus agent --simulate FLEET --scenario FILE``.

Times are of the scenario, in seconds or as text (``3m``), from its beginning. Where several steps act on one device,
node or link, that which began last acts last; of two that began together, the later in the file.
"""

import re
from typing import Annotated, Final, Literal, Self, cast

from pydantic import BeforeValidator, Discriminator, Field, WithJsonSchema, model_validator

from shardbus_schemas.events import FaultKind
from shardbus_schemas.model import FrozenModel, Percent, PositiveRate, Seconds
from shardbus_schemas.telemetry import TemperatureCelsius, ThrottleReason

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"
_DURATION: Final = re.compile(rf"(?:{_PART})+")
_LONGEST_SECONDS: Final = 1e9


def _in_seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace(" ", "")
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{value!r} is no time: write seconds (90) or, in quotes or not, 90s, 3m, 1h30m")
    return sum(float(count) * _UNITS[unit] for count, unit in re.findall(_PART, text))


Duration = Annotated[
    float,
    BeforeValidator(_in_seconds),
    Field(ge=0, le=_LONGEST_SECONDS),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": rf"^({_PART})+$"}]},
        mode="validation",
    ),
]
"""Seconds: a number, or text such as ``90s``, ``3m``, ``1h30m``."""


def _as_tuple(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    # After this pydantic does not know any more that the list was one of JSON, which is a tuple to it.
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_tuple),
    Field(min_length=1),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
        mode="validation",
    ),
]
"""A name or several; ``*``, ``?`` and ``[abc]`` stand for what they stand for in a shell."""

_Target = Percent | tuple[Percent, Percent]


class _Step(FrozenModel):
    """What all steps have."""

    at: Duration
    """When it begins."""
    repeat_every: Annotated[Duration, Field(gt=0)] | None = None
    """It begins again after each such time."""

    @property
    def lasts_seconds(self) -> float:
        """How long it acts, infinity for good; 0 is a moment."""
        return 0.0

    @property
    def fades_seconds(self) -> float:
        """How long it takes until nothing is left of it after its end."""
        return 0.0

    def repetition_problem(self) -> str | None:
        """Return why it cannot repeat as it says, or ``None``."""
        if self.repeat_every is None:
            return None
        if self.lasts_seconds == float("inf"):
            return "repeats, and so must end: say `for` how long it lasts"
        whole = self.lasts_seconds + self.fades_seconds
        if whole > self.repeat_every:
            return f"lasts {whole:g} s until nothing is left of it, but begins again after {self.repeat_every:g} s"
        return None


class _LastingStep(_Step):
    """A step that acts for a while."""

    lasts: Annotated[Duration, Field(gt=0)] | None = Field(default=None, alias="for")
    """How long; for good unless said."""

    @property
    def lasts_seconds(self) -> float:
        return float("inf") if self.lasts is None else self.lasts


class _OnNodes(FrozenModel):
    """A step on nodes."""

    on: Names = ("*",)
    """Nodes by name or pattern: ``attic``, ``rack-*``; all unless said."""
    where: dict[str, str] = {}
    """Only nodes with these labels; patterns allowed."""


class _OnDevices(FrozenModel):
    """A step on devices."""

    on: Names = ("*",)
    """``node/device`` or, for all devices of a node, ``node``; patterns allowed; all unless said."""
    where: dict[str, str] = {}
    """Only devices of nodes with these labels; patterns allowed."""


class _Ramped(_LastingStep):
    """A step that comes and goes gradually."""

    over: Duration = 0.0
    """How long it takes to come, and after its end to go."""

    @property
    def fades_seconds(self) -> float:
        return self.over


class LoadStep(_Ramped, _OnDevices):
    """Devices get to work: utilisation, memory, or both move to a value, and back at the end."""

    do: Literal["load"]
    utilization_percent: _Target | None = None
    """Where to, or ``[from, to]``."""
    memory_percent: _Target | None = None
    """Of the device's total: where to, or ``[from, to]``."""

    @model_validator(mode="after")
    def _loads_something(self) -> Self:
        if self.utilization_percent is None and self.memory_percent is None:
            raise ValueError("give utilization_percent, memory_percent, or both")
        return self


_THERMAL: Final = frozenset({"software_thermal", "hardware_thermal"})


class ThrottleStep(_Ramped, _OnDevices):
    """Devices are held back: for a thermal reason they get hot first, and are throttled from their threshold on."""

    do: Literal["throttle"]
    over: Duration = 30.0
    """How long the temperature climbs, and falls afterwards."""
    temperature_c: TemperatureCelsius | None = None
    """How hot it gets; 3 degrees over its threshold unless said."""
    reasons: Annotated[tuple[ThrottleReason, ...], Field(min_length=1)] = ("software_thermal",)

    @property
    def is_thermal(self) -> bool:
        """Whether heat is among the reasons."""
        return any(reason in _THERMAL for reason in self.reasons)


class LoseStep(_LastingStep, _OnDevices):
    """Devices are lost; those with ``for`` come back."""

    do: Literal["lose"]
    reason: Annotated[str, Field(min_length=1)] = "GPU is lost"


class FaultStep(_Step, _OnDevices):
    """The driver tells of an error, once. The devices go on, unless another step ends them."""

    do: Literal["fault"]
    kind: FaultKind = "xid"
    code: Annotated[int, Field(ge=0)] | None = None
    """The driver's number: an XID."""
    message: str | None = None
    """What it means; of an XID without one, what NVIDIA says of it."""
    is_critical: bool = False

    @model_validator(mode="after")
    def _an_xid_has_a_number(self) -> Self:
        if self.kind == "xid" and self.code is None:
            raise ValueError("an XID has a number: give its code, such as 79")
        return self


class FailShardStep(_Step, _OnDevices):
    """Runners fail, of all shards that the devices run or load at that moment; see ``shardbus agent --run-shards``."""

    do: Literal["fail_shard"]
    message: Annotated[str, Field(min_length=1, max_length=2000)] = "out of memory"
    """What the runner says of it."""


class HangStep(_LastingStep, _OnDevices):
    """The driver does not answer any more: the last readings stand, then the devices are lost."""

    do: Literal["hang"]


class VanishStep(_LastingStep, _OnNodes):
    """Nodes are gone without a word, as after a power cut; those with ``for`` come back in a new boot."""

    do: Literal["vanish"]


class LeaveStep(_LastingStep, _OnNodes):
    """Nodes say that they leave; those with ``for`` join again in a new boot."""

    do: Literal["leave"]


class UnplugStep(_LastingStep, _OnNodes):
    """Nodes with a battery are taken off the plug; it drains."""

    do: Literal["unplug"]
    percent_per_minute: PositiveRate = 0.6
    """How fast it drains."""


class PlugStep(_LastingStep, _OnNodes):
    """Nodes with a battery are plugged in; it charges."""

    do: Literal["plug"]
    percent_per_minute: PositiveRate = 1.5
    """How fast it charges."""


class LinkStep(_LastingStep):
    """Links get slower, or quicker, and recover at the end."""

    do: Literal["link"]
    on: Names
    """``from>to``, or ``a<>b`` for both ways; patterns allowed."""
    bandwidth_factor: PositiveRate | None = None
    latency_factor: PositiveRate | None = None
    bandwidth_bytes_per_second: PositiveRate | None = None
    """In place of the file's."""
    latency_seconds: Seconds | None = None
    """In place of the file's."""

    @model_validator(mode="after")
    def _changes_something_in_one_way(self) -> Self:
        pairs = (
            ("bandwidth_factor", "bandwidth_bytes_per_second"),
            ("latency_factor", "latency_seconds"),
        )
        for factor, value in pairs:
            if getattr(self, factor) is not None and getattr(self, value) is not None:
                raise ValueError(f"give {factor} or {value}, not both")
        if all(getattr(self, name) is None for pair in pairs for name in pair):
            raise ValueError(f"give one of {', '.join(name for pair in pairs for name in pair)}")
        return self

    @model_validator(mode="after")
    def _names_two_ends(self) -> Self:
        for pair in self.on:
            if len(re.split("<?>", pair)) != 2:  # noqa: PLR2004 - two ends
                raise ValueError(f"{pair!r}: name two nodes, 'a>b' for one way or 'a<>b' for both")
        return self


DeviceStep = LoadStep | ThrottleStep | LoseStep | FaultStep | HangStep | FailShardStep
BatteryStep = UnplugStep | PlugStep
NodeStep = VanishStep | LeaveStep
AnyStep = DeviceStep | BatteryStep | NodeStep | LinkStep

Step = Annotated[AnyStep, Discriminator("do")]
"""One thing that happens."""


class Scenario(FrozenModel):
    """What happens to a played fleet, and when."""

    time_scale: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """Seconds of the scenario that pass in one second: 60 plays an hour in a minute."""
    repeat_every: Annotated[Duration, Field(gt=0)] | None = None
    """All steps that do not say it themselves repeat so."""
    steps: tuple[Step, ...] = ()

    def timed_steps(self) -> tuple[AnyStep, ...]:
        """Return the steps, each with the time after which it repeats."""
        return tuple(
            step if step.repeat_every is not None else step.model_copy(update={"repeat_every": self.repeat_every})
            for step in self.steps
        )

    @model_validator(mode="after")
    def _every_step_is_over_before_it_begins_again(self) -> Self:
        for index, step in enumerate(self.timed_steps()):
            if (problem := step.repetition_problem()) is not None:
                raise ValueError(f"steps[{index}] {problem}")
        return self
