"""What a runner says of a shard, in one line of JSON, and what is wrong with a line that cannot be read."""

from collections.abc import Iterable
from typing import Annotated, Final, Self

from pydantic import Field, ValidationError, model_validator
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import ShardState
from shardbus_schemas.ids import DeviceId, InstanceId
from shardbus_schemas.model import Bytes, FrozenModel
from shardbus_schemas.problems import suggest

LONGEST_LINE_BYTES: Final = 16 * 1024
_LONGEST_MESSAGE: Final = 2000


class ReportError(ValueError):
    """A report that is not taken. The text is for whoever wrote the runner: what, where, what to do."""


class RunnerReport(FrozenModel):
    """One line of the protocol."""

    instance_id: InstanceId
    device: Annotated[str, Field(min_length=1, max_length=200)]
    """As this node knows it: its id, its uuid, or its label, such as ``cuda:0``."""
    state: ShardState
    start_layer: Annotated[int, Field(ge=0)] | None = None
    end_layer: Annotated[int, Field(ge=1)] | None = None
    """One past the last layer."""
    memory_used_bytes: Bytes | None = None
    """What the runner takes on the device for this shard, now."""
    message: Annotated[str, Field(max_length=_LONGEST_MESSAGE)] | None = None
    """What went wrong, or how far it is."""
    hold: bool = False
    """Whether the connection stands for the runner's life: if it ends, the shard has failed."""

    @model_validator(mode="after")
    def _layers_are_a_range(self) -> Self:
        if (self.start_layer is None) != (self.end_layer is None):
            raise ValueError("give start_layer and end_layer, or neither")
        if self.start_layer is not None and self.end_layer is not None and self.start_layer >= self.end_layer:
            raise ValueError(
                f"end_layer is one past the last layer, so more than start_layer: {self.start_layer} to "
                f"{self.end_layer} is no layer"
            )
        return self


def read_report(line: bytes) -> RunnerReport:
    """Return what ``line`` says; raises ReportError."""
    try:
        return RunnerReport.model_validate_json(line)
    except ValidationError as error:
        raise ReportError(
            "; ".join(_problem(each["loc"], each["type"], each["msg"]) for each in error.errors())
        ) from None


def _problem(location: tuple[int | str, ...], kind: str, text: str) -> str:
    field = ".".join(map(str, location))
    if kind == "json_invalid":
        return f"not a line of JSON ({text.removeprefix('Invalid JSON: ')}): send one object a line, in UTF-8"
    if kind == "extra_forbidden":
        known = list(RunnerReport.model_fields)
        return f"{field}: unknown field{suggest(field, known)}; known are {', '.join(known)}"
    said = text.removeprefix("Value error, ")
    return f"{field}: {said}" if field else said


def device_named(name: str, devices: Iterable[DeviceFacts]) -> DeviceId:
    """Return the device of this node that ``name`` means: by id, else by uuid, else by label; raises ReportError."""
    known = list(devices)
    for by in ("device_id", "uuid", "label"):
        found = [device.device_id for device in known if getattr(device, by) == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ReportError(f"device: {name!r} may be {' or '.join(found)}: give the id")
    names = [
        device.device_id if device.label in {None, device.device_id} else f"{device.label} ({device.device_id})"
        for device in known
    ]
    raise ReportError(f"device: this node has no {name!r}; it has {', '.join(names) or 'none at all'}")
