"""The flags of whatever plans: one for each field of a placement request, made from the schema itself."""

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from shardbus_schemas.commands import Place
from shardbus_schemas.placement import PlacementRequest
from shardbus_schemas.problems import explain

from shardbus_console.exits import CommandError

_GIVEN_OTHERWISE = frozenset({"model_id", "model", "access_token"})
"""The model is the command's argument, or a file; a token comes from a file or the environment."""
ONLY_COMMANDS = frozenset({"command_id", "dry_run"})
"""What has a meaning only for a command that is sent."""


def request_options(
    command: Callable[..., None],
    *,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, float] = MappingProxyType({}),
) -> Callable[..., None]:
    """Give ``command``, whose last parameter is ``asked: dict``, a flag for each field of a placement request.

    But for those in ``leave_out``; ``defaults`` replace the request's own.
    """
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "asked"]
    unwanted = _GIVEN_OTHERWISE | set(leave_out)
    fields = {name: info for name, info in PlacementRequest.model_fields.items() if name not in unwanted}

    @wraps(command)
    def with_flags(**values: Any) -> None:
        asked = {name: values.pop(name) for name in fields}
        given = {name: _value(name, value) for name, value in asked.items() if value is not None}
        command(**values, asked={**defaults, **given})

    flags = [_parameter(name, info, defaults.get(name, info.default)) for name, info in fields.items()]
    setattr(with_flags, "__signature__", inspect.Signature([*own, *flags]))  # noqa: B010 - functions declare no such attribute
    return with_flags


def place_command(asked: dict[str, object]) -> Place:
    """Return the command that ``asked`` describes; raise CommandError with what is wrong."""
    try:
        return Place.model_validate(asked, strict=False)
    except ValidationError as error:
        raise CommandError(explain(error, PlacementRequest)) from error


def request_of(asked: dict[str, object]) -> PlacementRequest:
    """Return the request that ``asked`` describes; raise CommandError with what is wrong."""
    command = place_command(asked)
    return PlacementRequest(**{name: getattr(command, name) for name in PlacementRequest.model_fields})


def _parameter(name: str, info: FieldInfo, default: object) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    kind = _flag_type(info.annotation)
    option = typer.Option(flag, help=_help(name, info, default), show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _help(name: str, info: FieldInfo, default: object) -> str:
    text = (info.description or "").replace("``", "").strip()
    if name == "pin":
        text = "DEVICE=LAYERS: this device holds exactly so many layers; may be repeated."
    plain = isinstance(default, int | float | str) and not isinstance(default, bool)
    return f"{text} [default: {default}]".strip() if plain else text


def _flag_type(annotation: Any) -> Any:
    """Return what the command line takes for a field: a plain type, or a list of texts."""
    origin = get_origin(annotation)
    if origin is Literal:
        return annotation
    if origin is Annotated:
        return _flag_type(get_args(annotation)[0])
    if origin in {Union, types.UnionType}:
        return _flag_type(next(part for part in get_args(annotation) if part is not type(None)))
    if origin in {tuple, dict}:
        return list[str]
    if isinstance(annotation, type) and annotation in {int, float, bool}:
        return annotation
    return str


def _value(name: str, given: list[str] | str | float) -> object:
    if not isinstance(given, list):
        return given
    return _pins(given) if name == "pin" else tuple(given)


def _pins(given: list[str]) -> dict[str, int]:
    pins: dict[str, int] = {}
    for text in given:
        device, _, layers = text.rpartition("=")
        if not device or not layers.isdecimal():
            raise CommandError(f"--pin {text}: write DEVICE=LAYERS, such as attic/cuda:0=12")
        if device in pins:
            raise CommandError(f"--pin {text}: {device} is pinned twice")
        pins[device] = int(layers)
    return pins
