"""A child process that answers one request at a time, seen from the event loop, which it never holds up."""

import asyncio
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import shardbus_agents

_log = logging.getLogger(__name__)

Message = Mapping[str, Any]

_START: Final = (
    "import sys; sys.path += sys.argv[2:]; from shardbus_agents.backends.nvml.driver.start import start; start()"
)
_LONGEST_LINE_BYTES: Final = 64 * 2**20
_MOST_COMPLAINTS: Final = 20
"""Lines of the child's own errors that are logged in its life; a driver's library may print without end."""
_LONGEST_COMPLAINT: Final = 300


def driver_command(options: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the command of the child that calls NVML; ``None`` where pynvml is not installed.

    It gets no site-packages, no environment of Python's and no package but these two: that is its memory.
    """
    spec = importlib.util.find_spec("pynvml")
    if spec is None or spec.origin is None:
        return None
    folders = dict.fromkeys(str(Path(path).parent) for path in (*shardbus_agents.__path__, spec.origin))
    return [sys.executable, "-I", "-S", "-X", "faulthandler", "-c", _START, json.dumps(dict(options)), *folders]


class Child:
    """One process. Must be made in the thread that lives as long as the loop: on Linux the child ends with it."""

    def __init__(self, command: Sequence[str], on_message: Callable[[Message], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._number = 0
        self._text = bytearray()
        self._complaint = bytearray()
        self._complaints = 0
        self.started_at: float = time.monotonic()
        self.asked_at: float | None = None
        """When it was asked what it has not answered, by the monotonic clock."""
        self.answer: asyncio.Future[Message | None] | None = None
        """What it says to the last question; ``None`` if it ends instead."""
        self.has_answered: bool = False
        self._watch(self._process.stdout, self._on_output)
        self._watch(self._process.stderr, self._on_complaint)

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Return whether the process is gone; whoever asks this buries it too."""
        return self._process.poll() is not None

    @property
    def end(self) -> str:
        """Return how it ended, for people."""
        code = self._process.poll()
        return "it runs" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"

    def ask(self) -> asyncio.Future[Message | None]:
        """Ask what the devices do, unless it was asked already; return what will be the answer."""
        if self.answer is None:
            self._number += 1
            self.answer = self._loop.create_future()
            self.asked_at = time.monotonic()
            if not self._write({"number": self._number}):
                self._settle(None)
        return self.answer

    def take(self) -> Message | None:
        """Return the answer that is there, and be ready for the next question."""
        answer = None if self.answer is None or not self.answer.done() else self.answer.result()
        self.answer = self.asked_at = None
        return answer

    def release(self) -> None:
        """Ask it to go, by the end of its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL, which a process inside a driver's call does not always heed."""
        self._process.kill()

    def forget(self) -> None:
        """Stop listening to it. What it is in the middle of is not waited for."""
        self._settle(None)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                self._loop.remove_reader(stream.fileno())
                stream.close()

    async def ended(self, within_seconds: float) -> bool:
        """Return whether it is gone, after at most so long."""
        deadline = time.monotonic() + within_seconds
        # The end is not an event that the loop could tell of without a thread that waits for it.
        while not self.has_ended and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return self.has_ended

    def _watch(self, stream: Any, callback: Callable[[bytes], None]) -> None:
        descriptor: int = stream.fileno()
        os.set_blocking(descriptor, False)

        def read() -> None:
            try:
                text = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            if not text:
                self._loop.remove_reader(descriptor)
            callback(text)

        self._loop.add_reader(descriptor, read)

    def _on_output(self, text: bytes) -> None:
        if not text:
            self._settle(None)
            return
        self._text += text
        *lines, rest = self._text.split(b"\n")
        self._text = bytearray(rest)
        if len(self._text) > _LONGEST_LINE_BYTES:
            self.kill()
        for line in lines:
            try:
                message: Message = json.loads(line)
            except ValueError:
                _log.warning("nvml child %d says what is no JSON: %r", self.pid, line[:_LONGEST_COMPLAINT])
                self.kill()
                return
            if message["kind"] == "answer" and message["number"] == self._number:
                self.has_answered = True
                self._settle(message)
            else:
                self._on_message(message)

    def _write(self, message: Message) -> bool:
        stream = self._process.stdin
        if stream is None or stream.closed:
            return False
        try:
            stream.write(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def _settle(self, answer: Message | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(answer)

    def _on_complaint(self, text: bytes) -> None:
        *lines, rest = (self._complaint + text).split(b"\n")
        self._complaint = bytearray(rest[:_LONGEST_COMPLAINT])
        for line in lines if text else [*lines, rest]:
            if line and self._complaints <= _MOST_COMPLAINTS:
                self._complaints += 1
                words = line[:_LONGEST_COMPLAINT].decode(errors="replace")
                is_last = self._complaints > _MOST_COMPLAINTS
                _log.warning("nvml child %d: %s", self.pid, "it says more, which is dropped" if is_last else words)
