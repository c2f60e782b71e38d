"""Text of shell scripts: safely quoted words, laid out for reading."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_COLUMNS: Final = 100
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


def script(header: Iterable[str], body: Iterable[str]) -> str:
    """Return a script of ``header`` as comments and then ``body``."""
    return "\n".join(["#!/bin/sh", *comment(header), "set -eu", *body, ""])


def comment(lines: Iterable[str]) -> list[str]:
    """Return ``lines`` as comments."""
    return [f"# {line}".rstrip() for line in lines]


def exports(variables: Mapping[str, str]) -> list[str]:
    """Return a line for each environment variable."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def default(name: str, value: str) -> str:
    """Return the line that sets ``name`` unless the caller has set it."""
    # A colon: an empty variable is as good as none. The value is a word of ours, never a person's.
    return f': "${{{name}:={value}}}"'


def demanded(name: str, what: str) -> str:
    """Return the line that ends the script unless the caller has set ``name``; ``what`` says to what."""
    return f': "${{{name}:?set it to {_UNSAFE_IN_MESSAGE.sub("-", what)}}}"'


_UNSAFE_IN_MESSAGE: Final = re.compile(r"[^A-Za-z0-9 ._:/@+=,-]+")
"""What a shell could take for more than text, inside double quotes and braces."""


def command(words: Sequence[str | Iterable[str]]) -> str:
    r"""Return a command in lines of ``\``; each element is a word, or words that stay together.

    A word that begins with ``$`` is a variable of the script and is put in double quotes; all others are quoted.
    """
    parts = [" ".join(map(_word, (part,) if isinstance(part, str) else part)) for part in words]
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) < _COLUMNS:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}")
    return " \\\n".join(lines)


def file_name(text: str) -> str:
    """Return ``text`` as a part of a file's name."""
    return _UNSAFE.sub("-", text).strip(".-") or "node"


def _word(text: str) -> str:
    return f'"{text}"' if re.fullmatch(r"\$[A-Z_]+", text) else shlex.quote(text)
