"""A command on a terminal of its own: a real pseudo-terminal with a size, whose Ctrl-C is a signal."""

import codecs
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from support.command_line import COMMAND

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_HOME = "\x1b[H"
_SIZE = ("COLUMNS", "LINES")
"""Variables that would win over the terminal's size; Python's readline sets them."""
ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """What a person sees of a command, and what he types."""

    def __init__(self, *arguments: str, environment: Mapping[str, str], columns: int, lines: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._master, slave = os.openpty()
        self.resize(columns, lines)

        def make_it_ours() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # then Ctrl-C on it is SIGINT
            # Whoever runs the tests in the background has it ignored, and so have all of his children.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={name: value for name, value in environment.items() if name not in _SIZE} | {"TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=make_it_ours,  # noqa: PLW1509 - two system calls, and no lock is taken by them
        )
        os.close(slave)
        self.output = ""

    def resize(self, columns: int, lines: int) -> None:
        """Make it another size, as dragging its window does."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type ``text``; ``\\x03`` is Ctrl-C."""
        os.write(self._master, text.encode())

    def read(self, seconds: float = 0.1) -> str:
        """Return all output so far, after waiting so long for more at most."""
        while select.select([self._master], [], [], seconds)[0]:
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # nobody holds the other end any more
                break
            if not piece:
                break
            self.output += self._decoder.decode(piece)
            seconds = 0
        return self.output

    @property
    def screen(self) -> list[str]:
        """The lines of the last picture that was drawn whole."""
        pictures = self.read().split(_HOME)
        whole = pictures[-2] if len(pictures) > 2 else pictures[-1]
        return [line.rstrip() for line in _ESCAPE.sub("", whole).replace("\r", "").split("\n")]

    def wait(self, within: float = 20) -> int:
        """Return the exit code; goes on reading, for a full terminal would hold the command up."""
        deadline = time.monotonic() + within
        while (code := self.process.poll()) is None:
            self.read()
            assert time.monotonic() < deadline, f"still runs; last:\n{self.output[-2000:]}"
        self.read(0)
        return code

    def close(self) -> None:
        """End the command if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(
    *arguments: str, environment: Mapping[str, str], columns: int = 120, lines: int = 40
) -> Generator[Terminal]:
    """Run one command on a terminal of its own."""
    opened = Terminal(*arguments, environment=environment, columns=columns, lines=lines)
    try:
        yield opened
    finally:
        opened.close()
