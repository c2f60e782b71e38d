"""What the embedded servers share: a data folder, a port, a child process, and how they start and stop."""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from shardbus_infra.embedded.folder import DataFolder
from shardbus_infra.embedded.ports import free_port, is_free, refuse_used
from shardbus_infra.embedded.process import ServerProcess, StopSignals
from shardbus_infra.errors import EmbeddedServerError

_ATTEMPTS = 5
"""How often another free port is tried if somebody takes the one just found."""


class EmbeddedServer(ABC):
    """A server on a data folder; a context manager.

    A port of 0 takes a free one, the same at every start of this object.
    """

    def __init__(self, folder: DataFolder, *, what: str, port: int, stop: StopSignals) -> None:
        self._folder = folder
        self._what = what
        self._asked_port = port
        self._port = port
        self._stop = stop
        self._process: ServerProcess | None = None

    @abstractmethod
    def start(self) -> Self:
        """Start the server and return when it answers."""

    @property
    def pid(self) -> int | None:
        """The server's process while it runs."""
        return self._process.pid if self._process and self._process.alive else None

    @property
    def port(self) -> int:
        """The port; raises EmbeddedServerError before the first start."""
        if not self._port:
            raise EmbeddedServerError(f"{self._what} has no port before its first start")
        return self._port

    @property
    def data_dir(self) -> Path:
        """The folder with its data, its configuration and its log."""
        return self._folder.path

    def stop(self) -> None:
        """Stop the server: politely, then by force. Idempotent."""
        if self._process:
            self._process.stop(self._stop)
            self._folder.server_pid = None
            self._process = None
        self._folder.close()

    def kill(self) -> None:
        """Kill the server as ``kill -9`` does; ``start`` brings it back on the same port and data."""
        if self._process:
            self._process.kill()
        self.stop()

    def freeze(self) -> None:
        """Have it do nothing at all until ``thaw``: it keeps its connections and answers nobody."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.alive:
            os.kill(self._process.pid, number)

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def _start_on_a_port(self, start: Callable[[], None]) -> None:
        """Call ``start`` with the port that was asked for, else with free ones until it succeeds."""
        for attempt in range(1, _ATTEMPTS + 1):
            if self._asked_port or (self._port and attempt == 1):
                refuse_used(self._port, what=self._what)
            else:
                self._port = free_port()
            try:
                start()
            except EmbeddedServerError:
                # Somebody else may have taken the port between our look and the server's.
                if self._asked_port or attempt == _ATTEMPTS or is_free(self._port):
                    raise
            else:
                return
