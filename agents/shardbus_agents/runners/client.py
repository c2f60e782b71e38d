"""For runtimes: say what you run to the agent of this node. Standard library alone, so this file may be copied.

    with RunningShard("llama-3.1-8b-3f9c", "cuda:0", layers=(0, 16)) as shard:
        shard.loading()
        ...
        shard.ready(memory_used_bytes=9_126_805_504)
        serve()

At the end of the block the shard is stopped; by an exception it has failed. A process that is killed has failed too:
the agent sees its connection end. An agent that is away or restarts is no reason to stop: what was said last is said
to it again once it is there.
"""

import contextlib
import json
import logging
import os
import platform
import select
import socket
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

_log = logging.getLogger(__name__)

VARIABLE: Final = "SHARDBUS_RUNNER_SOCKET"
State = Literal["loading", "ready", "failed", "stopped"]

_PATIENCE_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
_LONGEST_ANSWER_BYTES: Final = 65_536


class AgentAwayError(OSError):
    """No agent listens. The text says where it was looked for."""


class ReportRefusedError(ValueError):
    """The agent does not take the report; the text is its own."""


def folders() -> Iterator[Path]:
    """Yield where an agent of this host may have its socket, the likeliest first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        yield Path(runtime) / "shardbus"
    if os.geteuid() == 0:
        yield Path("/run" if Path("/run").is_dir() else "/var/run") / "shardbus"
    yield Path(tempfile.gettempdir()) / f"shardbus-{os.geteuid()}"


def find_socket() -> Path:
    """Return the socket that SHARDBUS_RUNNER_SOCKET names, else that of this host's agent; raises AgentAwayError."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    searched = list(folders())
    for folder in searched:
        own = folder / f"{platform.node()}.sock"
        if own.exists():
            return own
    found = [path for folder in searched for path in sorted(folder.glob("*.sock"))]
    if len(found) == 1:
        return found[0]
    if found:
        raise AgentAwayError(f"there are several agents here: name one by {VARIABLE}, of {', '.join(map(str, found))}")
    where = ", ".join(map(str, searched))
    raise AgentAwayError(
        f"no agent's socket is in {where}: start `shardbus agent` on this host as this user, or name its socket by "
        f"{VARIABLE}"
    )


def report(path: Path | str | None = None, /, **fields: Any) -> None:
    """Say one thing and be done; raises AgentAwayError, ReportRefusedError. Fields that are ``None`` are left out."""
    where = find_socket() if path is None else Path(path)
    with _connected(where) as connection:
        _say(connection, where, _line(fields))


class RunningShard:
    """A shard that this process runs, for as long as the ``with`` block takes. Safe to use from several threads."""

    def __init__(
        self,
        instance_id: str,
        device: str,
        *,
        layers: tuple[int, int] | None = None,
        path: Path | str | None = None,
    ) -> None:
        """``layers`` is the first, and one past the last; ``path`` the agent's socket, found unless given."""
        self._about: dict[str, Any] = {"instance_id": instance_id, "device": device, "hold": True}
        if layers is not None:
            self._about |= {"start_layer": layers[0], "end_layer": layers[1]}
        self._path = path
        self._word: dict[str, Any] | None = None
        self._ending = threading.Event()
        self._done = threading.Event()
        self._hand, self._bell = socket.socketpair()
        self._hand.setblocking(False)  # noqa: FBT003 - its only form
        self._pause, self._complaint = _FIRST_PAUSE_SECONDS, ""
        self._thread = threading.Thread(target=self._run, name="shardbus runner", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        last = (self._word or {}).get("state")
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            self.failed(f"{type(error).__name__}: {error}"[:500])
        elif last not in {None, "failed", "stopped"}:
            self.stopped()
        self._ending.set()
        self._ring()
        self._done.wait(_PATIENCE_SECONDS)

    def loading(self, message: str | None = None, *, memory_used_bytes: int | None = None) -> None:
        """Say that its weights are on their way."""
        self._set("loading", message, memory_used_bytes)

    def ready(self, message: str | None = None, *, memory_used_bytes: int | None = None) -> None:
        """Say that it answers."""
        self._set("ready", message, memory_used_bytes)

    def failed(self, message: str, *, memory_used_bytes: int | None = None) -> None:
        """Say that it does not run, and why."""
        self._set("failed", message, memory_used_bytes)

    def stopped(self, message: str | None = None) -> None:
        """Say that it runs no more, as it should be."""
        self._set("stopped", message, None)

    def _set(self, state: State, message: str | None, memory_used_bytes: int | None) -> None:
        self._word = {"state": state, "message": message, "memory_used_bytes": memory_used_bytes}
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it rings already, or nobody is there any more to hear it
            self._hand.send(b"!")

    def _run(self) -> None:
        try:
            with self._hand, self._bell:
                while not self._tell_an_agent():
                    pass
        finally:
            self._done.set()

    def _tell_an_agent(self) -> bool:
        """Tell one agent for as long as it is there; return whether all is said."""
        try:
            where = find_socket() if self._path is None else Path(self._path)
            with _connected(where) as connection:
                self._pause, self._complaint = _FIRST_PAUSE_SECONDS, ""
                self._converse(connection, where)
        except OSError as error:
            self._complain("the agent is not told what runs, will go on trying", error)
            if self._ending.is_set():
                return True  # there is nobody to tell
            self._ending.wait(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            return False
        return True

    def _converse(self, connection: socket.socket, where: Path) -> None:
        """Say each new word, until the block ends; raises OSError when the agent is gone."""
        said = None
        while True:
            is_last, word, again_seconds = self._ending.is_set(), self._word, None
            if word is not None and word is not said:
                said = word
                try:
                    _say(connection, where, _line({**self._about, **word}))
                except ReportRefusedError as error:
                    # It may not know the device yet: its driver is slower than we are.
                    said, again_seconds = None, _LONGEST_PAUSE_SECONDS
                    self._complain(f"the agent does not take what is said of {self._about['instance_id']}", error)
            if is_last:
                return
            heard, _, _ = select.select([connection, self._bell], [], [], again_seconds)
            if connection in heard and not connection.recv(_LONGEST_ANSWER_BYTES):
                raise AgentAwayError(f"the agent at {where} ended the connection")
            if self._bell in heard:
                self._bell.recv(_LONGEST_ANSWER_BYTES)

    def _complain(self, what: str, error: Exception) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            _log.warning("%s: %s", what, error)


@contextlib.contextmanager
def _connected(path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            connection.connect(str(path))
        except OSError as error:
            raise AgentAwayError(
                f"no agent answers at {path} ({error.strerror or error}): start `shardbus agent` on this host"
            ) from error
        yield connection


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode() + b"\n"


def _say(connection: socket.socket, where: Path, line: bytes) -> None:
    """Send ``line`` and read the answer; raises AgentAwayError, ReportRefusedError."""
    try:
        connection.sendall(line)
        answer = b""
        while not answer.endswith(b"\n"):
            part = connection.recv(_LONGEST_ANSWER_BYTES)
            if not part:
                raise AgentAwayError(f"the agent at {where} ended the connection")
            answer += part
    except TimeoutError as error:
        raise AgentAwayError(f"the agent at {where} does not answer within {_PATIENCE_SECONDS:g} s") from error
    except OSError as error:
        raise error if isinstance(error, AgentAwayError) else AgentAwayError(f"{where}: {error}") from error
    try:
        told = json.loads(answer)
        problem = None if told.get("ok") else str(told["error"])
    except (ValueError, AttributeError, KeyError) as error:
        raise AgentAwayError(f"what answers at {where} is no agent: {answer[:80]!r}") from error
    if problem is not None:
        raise ReportRefusedError(problem)
