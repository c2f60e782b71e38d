"""Solvers that hang, dawdle or break, in the place of the real one. All of them end when they are released."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shardbus_placer import solver_pulp
from shardbus_placer.solver_pulp import Solution

Solver = Callable[..., Solution]
"""What ``solver_pulp`` calls with a program and the seconds it has."""

PATIENCE_SECONDS = 60.0
"""After this long every broken solver gives up, so that a forgotten release does not keep a process for ever."""


@contextmanager
def solver_is(solver: Solver) -> Iterator[None]:
    """Let ``solver`` stand in for the installed one."""

    class Engine:
        def solve(self, *asked: Any, **how: Any) -> Solution:
            return solver(*asked)

    kept: Any = solver_pulp._backend
    solver_pulp._backend = lambda: ("broken", Engine)
    try:
        yield
    finally:
        solver_pulp._backend = kept


WAYS = ("waiting", "sleeping", "computing", "looping", "raising")


class Hang:
    """Ways not to answer, all of which end at ``release``."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self.began = 0
        """How often a solver was really asked."""
        self.ended = 0

    def way(self, name: str) -> Solver:
        """Return one of the ways below, counted."""
        run: Callable[[], Solution] = getattr(self, f"_{name}")

        def solver(*asked: object) -> Solution:
            del asked
            self.began += 1
            try:
                return run()
            finally:
                self.ended += 1

        return solver

    def _waiting(self) -> Solution:
        """Wait for something that does not come: a lock, a licence server."""
        self._released.wait(PATIENCE_SECONDS)
        return Solution("failed", "broken")

    def _sleeping(self) -> Solution:
        """Ignore the time limit, and come back with an answer long after it."""
        released = self._released
        until = time.monotonic() + 0.25
        while time.monotonic() < until and not released.is_set():
            time.sleep(0.02)
        return Solution("infeasible", "broken")

    def _computing(self) -> Solution:
        """Keep a core busy outside Python, as a presolve does that looks at no clock."""
        released = self._released
        until = time.monotonic() + PATIENCE_SECONDS
        while not released.is_set() and time.monotonic() < until:
            hashlib.pbkdf2_hmac("sha256", b"busy", b"busy", 10_000)  # some milliseconds without Python's lock
        return Solution("failed", "broken")

    def _looping(self) -> Solution:
        """Keep Python itself busy: a core and, in turns of five milliseconds, the interpreter's lock."""
        released = self._released
        until = time.monotonic() + PATIENCE_SECONDS
        while not released.is_set() and time.monotonic() < until:
            pass
        return Solution("failed", "broken")

    def _raising(self) -> Solution:
        """Break at once."""
        raise RuntimeError("the solver broke")

    def release(self) -> None:
        """Let all that hang return, and be ready for the next."""
        self._released.set()
        self._released = threading.Event()

    def settle(self) -> None:
        """Release, and return when none of them runs any more."""
        self.release()
        while self.ended < self.began:
            time.sleep(0.001)
            self.release()  # one may have begun in between
