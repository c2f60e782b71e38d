"""How a command ends: the exit codes, and the errors that a person meets."""

from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum


class Exit(IntEnum):
    """Documented exit codes of ``shardbus``."""

    DONE = 0
    FAILED = 1
    """Something else went wrong."""
    USAGE = 2
    """The command line, a file or a setting is wrong."""
    REFUSED = 3
    """Infeasible, or refused by the placer."""
    CONFLICT = 4
    """Somebody else was faster, or the port or folder is taken."""
    UNREACHABLE = 5
    """NATS or Postgres does not answer."""
    INTERRUPTED = 130


class CommandError(Exception):
    """A person's problem: printed as one line, never as a traceback."""

    def __init__(self, message: str, code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.code: Exit = code


@contextmanager
def needs(extra: str) -> Generator[None]:
    """Turn a missing package into a clear error that names the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"this needs the package {error.name!r}: install shardbus with its extra, shardbus[{extra}]"
        raise CommandError(message) from error
