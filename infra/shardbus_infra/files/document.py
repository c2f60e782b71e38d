"""Reading a file that a person wrote: what is wrong is said with its line, its path and what was probably meant."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, ValidationError
from shardbus_schemas.problems import Location, explain_each, path_of

from shardbus_infra.errors import FileError
from shardbus_infra.files.yaml_tree import YamlError, compose

LARGEST_BYTES: Final = 16 * 2**20
_MOST_PROBLEMS: Final = 20
_LARGEST_INTEGER: Final = 2**63
_NUMBER_FOR_TEXT: Final = re.compile(r"Input should be a valid string, not [-\d.e+]+")

Model = TypeVar("Model", bound=BaseModel)
Locate = Callable[[str, object], Location]
"""From a problem's text and the document's value to the place it is about."""


class _RepeatedKeyError(ValueError):
    """A JSON object has one key twice."""


def read_text(path: str | Path) -> str:
    """Return the text of a file of at most 16 MiB of UTF-8; raise FileError."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise FileError(f"{path}: larger than {LARGEST_BYTES >> 20} MiB; is it the right file?")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(f"{path}:{line}: not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from error
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise FileError(f"{path}: a directory; name a file in it") from error
    except PermissionError as error:
        raise FileError(f"{path}: may not be read (permission denied)") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Document:
    """A file's value, and where its parts are in the file."""

    name: str
    text: str
    value: object

    @property
    def fields(self) -> dict[str, object] | None:
        """The value where it has fields with names, else ``None``."""
        return cast("dict[str, object]", self.value) if isinstance(self.value, dict) else None

    @cached_property
    def lines(self) -> dict[Location, int]:
        """The line of each value. JSON is YAML but for its tabs; where that fails, no line is known."""
        try:
            return compose(self.text.replace("\t", " ")).lines if self.name.endswith(".json") else self._yaml_lines()
        except YamlError:
            return {}

    def _yaml_lines(self) -> dict[Location, int]:
        try:
            return compose(self.text).lines
        except YamlError:
            return compose(self.text.replace("\t", " ")).lines

    def problem(self, location: Location, text: str) -> str:
        """Return one line that says where in the file ``text`` is true."""
        line = next(
            (self.lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in self.lines), None
        )
        place = self.name if line is None else f"{self.name}:{line}"
        path = path_of(location)
        return f"{place}: {path}: {text}" if path else f"{place}: {text}"


def parse(text: str, *, name: str) -> Document:
    """Return what ``text`` holds, as JSON or YAML by the ending of ``name``, else by its first character.

    Raises FileError: a syntax error, nothing in it, a key given twice.
    """
    if not text.strip():
        raise FileError(f"{name}: the file is empty")
    suffix = Path(name).suffix.lower()
    is_json = suffix == ".json" or (suffix not in {".yaml", ".yml"} and text.lstrip()[0] in "{[")
    value = _json_value(text, name) if is_json else _yaml_value(text, name)
    if value is None:
        raise FileError(f"{name}: the file is empty")
    return Document(name, text, value)


def validate(document: Document, model: type[Model], *, locate: Locate | None = None) -> Model:
    """Return the document as ``model``; raise FileError with each problem on a line of its own.

    A whole number may be written as ``24e9``. ``locate`` finds the place of a problem that only the whole shows.
    """
    if document.fields is None:
        kind = "a list" if isinstance(document.value, list) else "a single value"
        raise FileError(document.problem((), f"{kind}, where fields with names are expected"))
    try:
        # Through JSON: strict types then accept lists, and times written as text.
        return model.model_validate_json(json.dumps(_with_whole_numbers(document.fields)))
    except ValidationError as error:
        raise FileError(_explain(error, document, model, locate)) from error


def _explain(error: ValidationError, document: Document, model: type[BaseModel], locate: Locate | None) -> str:
    found: dict[Location, list[str]] = {}
    for location, text in explain_each(error, model):
        place = location
        if not location and locate is not None:
            place = locate(text, document.value)
        elif text == "required, but not given":
            place = (*_in_document(location[:-1], document.value), location[-1])
        else:
            place = _in_document(location, document.value)
        quotes = "; put it in quotes" if _NUMBER_FOR_TEXT.fullmatch(text) else ""
        found.setdefault(place, []).append(text + quotes)
    return report(document.problem(place, "; or: ".join(dict.fromkeys(texts))) for place, texts in found.items())


def report(problems: Iterable[str]) -> str:
    """Return the first problems, one a line, and how many more there are."""
    lines = list(problems)
    more = len(lines) - _MOST_PROBLEMS
    return "\n".join(lines[:_MOST_PROBLEMS] + ([f"and {more} more"] if more > 0 else []))


def _in_document(location: Location, value: object) -> Location:
    """Return ``location`` without the steps that name a choice of types rather than a place."""
    place: list[int | str] = []
    for step in location:
        if isinstance(value, dict) and step in value:
            value = cast("dict[object, object]", value)[step]
        elif isinstance(value, list) and isinstance(step, int) and step < len(cast("list[object]", value)):
            value = cast("list[object]", value)[step]
        else:
            continue
        place.append(step)
    return tuple(place)


def _with_whole_numbers(value: object) -> object:
    """Return ``value`` with ``24e9`` as the integer it is."""
    match value:
        case dict():
            return {key: _with_whole_numbers(item) for key, item in cast("dict[str, object]", value).items()}
        case list():
            return [_with_whole_numbers(item) for item in cast("list[object]", value)]
        case float() if value.is_integer() and abs(value) < _LARGEST_INTEGER:
            return int(value)
        case _:
            return value


def _yaml_value(text: str, name: str) -> object:
    try:
        return compose(text).value
    except YamlError as error:
        raise FileError(f"{name}:{error.line}: {error}") from error


def _json_value(text: str, name: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise FileError(f"{name}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
    except _RepeatedKeyError as error:
        # The same text as YAML says the line too.
        try:
            compose(text.replace("\t", " "))
        except YamlError as said:
            raise FileError(f"{name}:{said.line}: {said}") from error
        raise FileError(f"{name}: {error}") from error
    except RecursionError as error:
        raise FileError(f"{name}: nested too deeply") from error
    except ValueError as error:  # Python refuses to read a number of more than 4300 digits
        raise FileError(f"{name}: {re.sub(r';.*', '', str(error))}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RepeatedKeyError(f"{twice}: given twice")
    return value
