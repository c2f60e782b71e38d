"""YAML as data, with the line of every value.

Numbers and words are read as YAML 1.2 reads them (and JSON, which is YAML): ``936e9`` is a number; ``no``, ``on`` and
``12:30`` are text. Unlike PyYAML's loaders this refuses a key that appears twice, builds no objects, and bounds depth
and expansion, so that a hostile file costs no more than its size.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

import yaml
from shardbus_schemas.problems import Location, path_of

_DEEPEST: Final = 100
_MOST_VALUES: Final = 2_000_000
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
# libyaml's parser where PyYAML was built with it (its wheels are): ten times as fast.
_LOADER: Final[type] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """The text is not YAML of our kind; ``line`` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Tree:
    """A document's value, and the line (from 1) of each value in it; a member's is that of its key."""

    value: object
    lines: dict[Location, int]


@dataclass(slots=True)
class _Open:
    """A container whose end has not come yet."""

    value: dict[str, object] | list[object]
    location: Location
    anchor: str | None
    line: int
    count: int = 1
    key: str | None = None
    keys: dict[str, int] = field(default_factory=dict[str, int])


def compose(text: str) -> Tree:
    """Return the one document in ``text`` (``None`` if it holds nothing); raise YamlError."""
    try:
        return _Composer().compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "not YAML"
        raise YamlError(message, 1 if mark is None else mark.line + 1) from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split()), 1) from error


class _Composer:
    def __init__(self) -> None:
        self._root: object = None
        self._documents = 0
        self._stack: list[_Open] = []
        self._lines: dict[Location, int] = {}
        self._anchors: dict[str, tuple[object, int]] = {}

    def compose(self, text: str) -> Tree:
        for event in cast("Iterator[Any]", yaml.parse(text, Loader=_LOADER)):
            self._take(event, event.start_mark.line + 1)
        return Tree(self._root, self._lines)

    def _take(self, event: Any, line: int) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise YamlError("a second document begins; one file holds one", line)
            case yaml.ScalarEvent():
                if self._is_key():
                    self._begin_member(str(event.value), line)
                else:
                    self._add(_scalar(event, line), 1, line, event.anchor)
            case yaml.AliasEvent():
                if event.anchor not in self._anchors:
                    raise YamlError(f"alias *{event.anchor} stands for nothing before it", line)
                self._add(*self._anchors[event.anchor], line, None)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                ended = self._stack.pop()
                self._add(ended.value, ended.count, ended.line, ended.anchor)
            case _:
                pass  # the stream's and the document's ends say nothing

    def _is_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _begin_member(self, key: str, line: int) -> None:
        parent = self._stack[-1]
        if key in parent.keys:
            place = path_of((*parent.location, key))
            raise YamlError(f"{place}: given twice; first on line {parent.keys[key]}", line)
        parent.key, parent.keys[key] = key, line
        self._lines[*parent.location, key] = line

    def _begin(self, event: Any, line: int) -> None:
        if event.tag is not None:
            raise YamlError(f"tag {event.tag} is not supported", line)
        if self._is_key():
            raise YamlError("a key must be one word, not a list or a mapping", line)
        if len(self._stack) >= _DEEPEST:
            raise YamlError(f"nested more than {_DEEPEST} deep", line)
        value: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._stack.append(_Open(value, self._location(line), event.anchor, line))

    def _location(self, line: int) -> Location:
        """Return where the next value goes, having noted its line."""
        if not self._stack:
            location: Location = ()
        else:
            parent = self._stack[-1]
            step = len(parent.value) if isinstance(parent.value, list) else parent.key
            assert step is not None  # a mapping's value comes after its key
            location = (*parent.location, step)
        self._lines.setdefault(location, line)
        return location

    def _add(self, value: object, count: int, line: int, anchor: str | None) -> None:
        """Put a finished value of ``count`` values where it belongs."""
        self._location(line)
        if anchor is not None:
            self._anchors[anchor] = value, count
        if not self._stack:
            self._root = value
            return
        parent = self._stack[-1]
        parent.count += count
        if parent.count > _MOST_VALUES:
            raise YamlError(f"more than {_MOST_VALUES} values, aliases written out", line)
        if isinstance(parent.value, list):
            parent.value.append(value)
        else:
            assert parent.key is not None  # a mapping's value comes after its key
            parent.value[parent.key], parent.key = value, None


def _scalar(event: Any, line: int) -> object:
    text: str = event.value
    if event.tag is not None and event.tag != "tag:yaml.org,2002:str":
        raise YamlError(f"tag {event.tag} is not supported", line)
    if event.tag is not None or not event.implicit[0]:
        return text  # quoted
    if text in _WORDS:
        return _WORDS[text]
    try:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _OTHER_BASE.fullmatch(text):
            return int(text, 0)
    except ValueError as error:  # Python refuses to read more than 4300 digits
        raise YamlError("a number of too many digits", line) from error
    return float(text) if _FLOAT.fullmatch(text) else text
