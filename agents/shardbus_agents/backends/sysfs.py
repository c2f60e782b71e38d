"""Reading the kernel's small files. A file that cannot be read is a reason, never a number."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ValueT = TypeVar("ValueT")


class UnreadableError(Exception):
    """A file of sysfs does not say what it is asked. The text is the reason, for a person."""


def read_text(path: Path) -> str:
    """Return what the file holds, without its end of line; raises UnreadableError, also for an empty file."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace").strip("\0 \t\r\n")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableError(f"the kernel offers no {path.name} for it") from error
    except OSError as error:
        raise UnreadableError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if not text:
        raise UnreadableError(f"{path.name} is empty")
    return text


def read_integer(path: Path) -> int:
    """Return the whole number in the file, decimal or ``0x…``; raises UnreadableError."""
    text = read_text(path)
    try:
        return int(text, 0) if text.lower().startswith("0x") else int(text)
    except ValueError as error:
        raise UnreadableError(f"{path.name} holds no whole number: {text[:40]!r}") from error


class Answers:
    """Answers to one question each: those that are known, and why the others are not."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}

    def ask(self, field: str, question: Callable[[], ValueT]) -> ValueT | None:
        """Return the answer for ``field``, or ``None`` with the reason kept in ``unknown``."""
        try:
            return question()
        except UnreadableError as error:
            self.unknown[field] = str(error)
            return None


def silently(question: Callable[[], ValueT]) -> ValueT | None:
    """Return the answer, or ``None`` where nobody needs to know why there is none."""
    try:
        return question()
    except UnreadableError:
        return None
