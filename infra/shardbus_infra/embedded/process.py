"""A server as a child process: started so that it dies with its owner, watched, stopped politely, then by force."""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from shardbus_infra.embedded import launch
from shardbus_infra.errors import EmbeddedServerError

LOG_LIMIT_BYTES = 10 * 1024 * 1024
TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a child runs as."""

    name: str
    uid: int
    gid: int


StopSignals = Sequence[tuple[signal.Signals, float]]
"""Signals to send one after another, each with the seconds it has to work."""


class ServerProcess:
    """A running child. Made by ``ServerProcess.start``."""

    def __init__(self, name: str, pid: int, keeper: threading.Thread, log: Path, death_signal: signal.Signals) -> None:
        self.name = name
        self.pid = pid
        self._keeper = keeper
        self._log = log
        self._death_signal = death_signal

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        death_signal: signal.Signals,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "ServerProcess":
        """Return the started child; its output goes to ``log``.

        A thread of its own starts the child and waits for it: on Linux the child is sent ``death_signal`` when the
        thread that started it ends, so that must not be a caller's short-lived one.
        """
        started = SimpleQueue[int | OSError]()
        full_command = launch_command(command, death_signal=death_signal, account=account)
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".old.log"))

        def keep() -> None:
            with log.open("ab") as output:
                try:
                    process = subprocess.Popen(
                        full_command,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        env=environment,
                        start_new_session=True,  # Ctrl-C is for the owner, who then stops its servers in order
                    )
                except OSError as error:
                    started.put(error)
                    return
            started.put(process.pid)
            process.wait()

        keeper = threading.Thread(target=keep, name=f"keeper of {name}", daemon=True)
        keeper.start()
        answer = started.get()
        if isinstance(answer, OSError):
            raise EmbeddedServerError(f"can not start {name}: {answer}") from answer
        child = cls(name, answer, keeper, log, death_signal)
        atexit.register(child._end_with_owner)
        return child

    @property
    def alive(self) -> bool:
        """Whether the child still runs."""
        return self._keeper.is_alive()

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Return when ``ready()``; raises EmbeddedServerError with the end of the log if it dies or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if not self.alive:
                raise EmbeddedServerError(f"{self.name} ended right after its start. {self.log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} did not answer within {timeout_seconds:g} seconds. {self.log_tail()}"
                )
            time.sleep(0.01)

    def stop(self, signals: StopSignals) -> None:
        """Send each signal and wait its seconds, until the child is gone; then kill it. Idempotent."""
        for number, seconds in signals:
            if not self._send(number):
                break
            self._keeper.join(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill the child at once, as ``kill -9`` does, and wait until it is gone. Idempotent."""
        atexit.unregister(self._end_with_owner)
        if self._send(signal.SIGKILL):
            self._keeper.join()

    def log_tail(self) -> str:
        """Return the last lines of the log as the end of an error message."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            return "\n".join([f"The end of its log ({self._log}):", *(f"  {line}" for line in lines)])
        return f"Its log is {self._log}."

    def _end_with_owner(self) -> None:
        """Stop the child of an owner that ends without having stopped it."""
        self.stop([(self._death_signal, 10)])

    def _send(self, number: signal.Signals) -> bool:
        """Return whether the child was there to be sent the signal."""
        if not self.alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True


def launch_command(
    command: Sequence[str], *, death_signal: signal.Signals, account: Account | None = None
) -> list[str]:
    """Return the command that becomes ``command`` in a child of this process, see ``launch``."""
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    # -I -S: nothing of the user's environment is imported, and the start takes 15 ms.
    python = [sys.executable, "-I", "-S", str(Path(launch.__file__).resolve())]
    return [*python, str(os.getpid()), str(int(death_signal)), str(uid), str(gid), *command]


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is no such process or it can not be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if sys.platform == "linux":
        return ""
    answer = subprocess.run(["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def stop_orphan(pid: int, *, marks: Sequence[str], polite: signal.Signals, timeout_seconds: float = 10) -> bool:
    """Stop a process that is not our child, if its command line contains all ``marks``; returns whether it was there.

    The marks (the program and the data folder) tell our server from a stranger who got the same pid.
    """

    def there() -> bool:
        line = command_line(pid)
        return all(mark in line for mark in marks)

    if not there():
        return False
    for number in (polite, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        except PermissionError as error:
            raise EmbeddedServerError(
                f"a server of another user still runs on the data folder: process {pid} ({command_line(pid)}). Stop it."
            ) from error
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not there():
                return True
            time.sleep(0.01)
    raise EmbeddedServerError(f"process {pid} ({command_line(pid)}) does not end. Stop it, then start again.")


def stop_left_behind(folder: Path, *, timeout_seconds: float = 10) -> None:
    """End every process that works in ``folder``: what a killed server left behind. Linux only, a no-op elsewhere.

    A Postgres session that computes does not notice that its server is gone, and bars the next one from the data.
    """
    started = time.monotonic()
    number = signal.SIGQUIT  # Postgres processes end at once and touch nothing any more
    while pids := _working_in(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if time.monotonic() > started + timeout_seconds:
            number = signal.SIGKILL
        if time.monotonic() > started + 2 * timeout_seconds:
            raise EmbeddedServerError(f"processes {pids} still work in {folder} and do not end. Stop them first.")
        time.sleep(0.01)


def _working_in(folder: Path) -> list[int]:
    pids = list[int]()
    for working_folder in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to another user
            if working_folder.readlink() == folder:
                pids.append(int(working_folder.parent.name))
    return pids
