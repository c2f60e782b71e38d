"""The command ``shardbus`` as a process of its own, as a person or a script runs it."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from shardbus_console.main import main

COMMAND = (sys.executable, "-m", "shardbus_console")
NOBODY_LISTENS = {
    "SHARDBUS_NATS_URL": "nats://127.0.0.1:1",
    "SHARDBUS_POSTGRES_URL": "postgresql://shardbus@127.0.0.1:1/shardbus",
    "SHARDBUS_DATA_DIR": "/nonexistent/shardbus",
}
"""So that a test never meets servers that happen to run on this machine."""

_STEERING = ("SHARDBUS_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "OTEL_", "PYTHONIOENCODING")


def environment(**given: str | None) -> dict[str, str]:
    """Return our environment with ``given`` and nothing else that steers a command; ``None`` leaves one out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_STEERING)}
    told = {**NOBODY_LISTENS, **given}
    return kept | {name: value for name, value in told.items() if value is not None}


def shardbus(
    *arguments: str | Path, within: float = 60, stdin: str | bytes = "", cwd: Path | str = "/", **variables: str | None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end and return what it printed."""
    words = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(
        words,
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=within,
        check=False,
        cwd=cwd,
        env=environment(**variables),
    )
    return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())


def shardbus_here(*arguments: str | Path, stdin: str = "", **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run one command in this process: as ``shardbus`` does, but without the time that a new Python takes."""
    words = ["shardbus", *map(str, arguments)]
    buffers = io.BytesIO(), io.BytesIO()
    stdout, stderr = (io.TextIOWrapper(buffer, encoding="utf-8", write_through=True) for buffer in buffers)
    code = 0
    with (
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    said, told = (buffer.getvalue().decode() for buffer in buffers)
    return subprocess.CompletedProcess(words, code, said, told)


def document(done: subprocess.CompletedProcess[str], *, code: int = 0) -> Any:
    """Return the one JSON document that a command printed; it must have ended with ``code``."""
    assert done.returncode == code, f"{done.args} ended with {done.returncode}\n{done.stderr}"
    return json.loads(done.stdout)


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """Return the JSON documents that a command printed, one a line."""
    assert done.returncode == 0, f"{done.args} ended with {done.returncode}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


class Running:
    """A command that goes on until it is stopped."""

    def __init__(self, *arguments: str | Path, log: Path, **variables: str | None) -> None:
        self.log = log
        self.arguments = tuple(map(str, arguments))
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*COMMAND, *self.arguments],
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
            )

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 30) -> int:
        """Send a signal and return the exit code; what goes on longer is killed, and fails the test."""
        if self.alive:
            self.process.send_signal(number)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.arguments} went on {within:g} s after {number.name}:\n{self.said}") from None

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(*arguments: str | Path, log: Path, **variables: str | None) -> Generator[Running]:
    """Run a command that goes on; killed at the end if it still does."""
    started = Running(*arguments, log=log, **variables)
    try:
        yield started
    finally:
        if started.alive:
            started.kill()
