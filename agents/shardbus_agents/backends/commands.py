"""Programs of the host that say what no file does: asked now and then, never waited for longer than they may take."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Final

LARGEST_ANSWER: Final = 2**20
"""Bytes; the rest of what a program says is not read."""


class PolledCommand:
    """One program that is started every so often and looked after from time to time, without a thread.

    Each answer has an age of its own: one that is too old is no answer.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        every_seconds: float,
        deadline_seconds: float,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = tuple(command)
        self._every = every_seconds
        self._deadline = deadline_seconds
        self._fresh = 2 * every_seconds + deadline_seconds
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._started = float("-inf")
        self._answered = float("-inf")
        self._answer: str | None = None
        self.trouble: str = f"{self._name} has not answered yet"
        """Why the last attempt had no answer; empty when it had."""

    @property
    def _name(self) -> str:
        return self._command[0].rpartition("/")[2]

    @property
    def is_installed(self) -> bool:
        """Whether there is such a program here."""
        return shutil.which(self._command[0]) is not None

    def answer(self, *, wait_seconds: float = 0) -> str | None:
        """Return what the program said last, if that is fresh; start it when it is due.

        ``wait_seconds`` is how long a first answer is waited for.
        """
        now = self._seconds()
        if self._process is None and now - self._started >= self._every:
            self._start(now)
        if self._process is not None:
            self._collect(wait_seconds if self._answer is None else 0)
        if self._seconds() - self._answered > self._fresh:
            self._answer = None
        return self._answer

    def close(self) -> None:
        """End the program if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _start(self, now: float) -> None:
        self._started = now
        # A file, not a pipe: nobody reads while it runs, and what it leaves behind may hold a pipe open for ever.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the program has ended
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            self.trouble = f"{self._name} cannot be started: {error.strerror or error}"
            self._forget()

    def _collect(self, wait_seconds: float) -> None:
        assert self._process is not None
        assert self._said is not None
        try:
            code = self._process.wait(wait_seconds)
        except subprocess.TimeoutExpired:
            if self._seconds() - self._started > self._deadline:
                self.close()
                self.trouble = f"{self._name} gave no answer within {self._deadline:g} s"
            return
        if code:
            self.trouble = f"{self._name} ended with {code}"
        else:
            self._said.seek(0)
            self._answer = self._said.read(LARGEST_ANSWER).decode("utf-8", errors="replace")
            self._answered, self.trouble = self._seconds(), ""
        self._forget()

    def _forget(self) -> None:
        if self._said is not None:
            self._said.close()
        self._process = self._said = None
