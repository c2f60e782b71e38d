"""How a command ends: the exit codes, and the errors that a person meets."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum

from pydantic import ValidationError
from shardbus_eventstore.errors import (
    DatabaseRightsError,
    DatabaseUnreachableError,
    EventStoreError,
    HistoryDivergedError,
    HistoryLostError,
    ReadModelInUseError,
    ReplayRunsError,
    SchemaError,
)
from shardbus_infra.bus.port import AppendRejectedError, BusError, WrongSequenceError
from shardbus_infra.errors import DataFolderInUseError, FileError, InfraError, PortInUseError
from shardbus_schemas.problems import explain


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
    PENDING = 6
    """Accepted, but not done yet: it waits for a place, or the time of ``--wait`` is over."""
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


def exit_code_of(error: Exception) -> Exit | None:
    """Return how a command ends that met ``error``, or ``None`` if no person could have caused it."""
    match error:
        case CommandError(code=code):
            return code
        case WrongSequenceError() | PortInUseError() | DataFolderInUseError():
            return Exit.CONFLICT
        case HistoryDivergedError() | HistoryLostError() | ReplayRunsError() | ReadModelInUseError():
            return Exit.CONFLICT  # the stream and the read model contradict each other
        case InfraError() | FileError() | ValidationError() | DatabaseRightsError() | SchemaError():
            return Exit.USAGE
        case DatabaseUnreachableError():
            return Exit.UNREACHABLE
        case AppendRejectedError() | EventStoreError() | OSError():
            return Exit.FAILED  # the server, the database or the system said no, and why
        case BusError():
            return Exit.UNREACHABLE
        case _:
            return None


def code_after(run: Callable[[], None], say: Callable[[str], None]) -> Exit:
    """Run a command and return how it ends; a person's mistake is one line, said by ``say``.

    Raises BrokenPipeError, and whatever no person can have caused: then the traceback is what we need.
    """
    try:
        run()
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:
        known = exit_code_of(error)
        if known is None:
            raise
        say(f"shardbus: {text_of(error)}")
        return known
    return Exit.DONE


def text_of(error: Exception) -> str:
    """Return what to tell the person."""
    return explain(error) if isinstance(error, ValidationError) else str(error)
