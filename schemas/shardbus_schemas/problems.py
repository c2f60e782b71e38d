"""Validation errors, said so that a person can mend the input."""

import difflib
from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
"""The keys and indices that lead to a value."""
_SECRETS = frozenset({"access_token"})
"""Fields whose value nobody repeats, however wrong it is: what is said here goes into logs and dead letters."""


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return every problem on a line of its own: where it is, what is wrong, what was probably meant."""
    return "\n".join(f"{path_of(loc) or 'the whole'}: {text}" for loc, text in explain_each(error, model))


def explain_each(error: ValidationError, model: type[BaseModel] | None = None) -> list[tuple[Location, str]]:
    """Return every problem as its place and what is wrong there."""
    return [
        (item["loc"], _say(item["type"], _message(item), item["loc"], item.get("input"), model))
        for item in error.errors(include_url=False)
    ]


def _message(item: ErrorDetails) -> str:
    """Return pydantic's message; of a choice by one field, what that field may say."""
    context = item.get("ctx", {})
    name = str(context.get("discriminator", "")).strip("'")
    if item["type"] == "union_tag_not_found":
        return f"{name} is required, but not given"
    if item["type"] == "union_tag_invalid":
        expected = [word.strip(" '") for word in context["expected_tags"].split(",")]
        return f"{name}: {context['tag']!r} is none of {', '.join(expected)}{suggest(context['tag'], expected)}"
    return item["msg"]


def suggest(word: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)``, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def path_of(loc: Location) -> str:
    """Return a place as a person writes it: ``nodes[0].devices[1].name``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _say(kind: str, message: str, loc: Location, given: object, model: type[BaseModel] | None) -> str:
    if kind == "extra_forbidden":
        return f"unknown field{suggest(str(loc[-1]), _names(model))}"
    if kind == "missing":
        return "required, but not given"
    text = message.removeprefix("Value error, ")
    simple = (isinstance(given, str | int | float | bool) or given is None) and _SECRETS.isdisjoint(loc)
    return f"{text}, not {given!r}" if simple and not kind.startswith("value_error") else text


def _names(model: type[BaseModel] | None, seen: set[type] | None = None) -> list[str]:
    """Return the field names of ``model`` and of every model it holds."""
    seen = seen if seen is not None else set()
    if model is None or model in seen:
        return []
    seen.add(model)
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(field.alias or name)
        for inner in _models_in(field.annotation):
            names += _names(inner, seen)
    return names


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
