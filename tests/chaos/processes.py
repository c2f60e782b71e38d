"""The processes of shardbus as a supervisor runs them: whoever ends is started again."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from chaos.nursery import MOST_MEMORY, Nursery
from shardbus_console.exits import Exit
from support.command_line import COMMAND, environment
from support.waiting import until

_LOOK_SECONDS: Final = 0.05
_RESTART_SECONDS: Final = 0.2
_TESTS: Final = Path(__file__).parent.parent


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: ours with ``variables``, and with these tests to import from."""
    ours = {name: value for name, value in environment(**variables).items() if name != "PYTHONDONTWRITEBYTECODE"}
    return ours | {"PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")])}


class Process:
    """A process of a round, with a log: forked by a nursery, or without one started anew."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        variables: Mapping[str, str],
        *,
        nursery: Nursery | None,
        variant: str = "",
        death: int = 0,
    ) -> None:
        self.log = log
        self._nursery = nursery
        self._code: int | None = None
        surroundings = environment_with(variables)
        if nursery is not None:
            self.pid = nursery.start(arguments, log, surroundings, variant, death)
            return
        command = [*COMMAND, *arguments]
        if variant or arguments[0] == "produce":
            command = [sys.executable, "-m", "chaos.variants", variant, str(death), *arguments]
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command, env=surroundings, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent
            )
        self.pid = self._child.pid
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))

    @property
    def code(self) -> int | None:
        """How it ended; ``None`` while it runs, or is stopped."""
        if self._code is None:
            self._code = self._nursery.ended(self.pid) if self._nursery else self._child.poll()
        return self._code

    @property
    def said(self) -> str:
        """What it, and those before it with the same log, printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it is there."""
        if self.code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as ``kill -9`` does, and wait until it is gone."""
        self.send(signal.SIGKILL)
        while self.code is None:
            time.sleep(0.001)

    async def stop(self, *, within: float) -> None:
        """End it politely; by force if it does not."""
        self.send(signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            await until(lambda: self.code is not None, within=within)
        self.kill()


class Role:
    """What is to run under one name: the process of now, and those before it."""

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, variables: Mapping[str, str], nursery: Nursery | None
    ) -> None:
        self.name = name
        self._nursery = nursery
        self.lives: int = 0
        self.deaths: tuple[int, ...] = ()
        """At which of its writes it kills itself, by life."""
        self.variant: str = ""
        self.ends: list[str] = []
        """How it ended by itself when it had no business to."""
        self.wanted: bool = False
        self.process: Process | None = None
        self._arguments = arguments
        self._log = log
        self._variables = variables
        self._keeping: asyncio.Task[None] | None = None
        self._said_before = 0

    @property
    def said(self) -> str:
        """What all its lives printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Begin a life, and see to it that another one follows each that ends by itself."""
        self.wanted = True
        self._begin()
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())

    def kill(self) -> None:
        """Kill it, and leave it so until it is started."""
        self.wanted = False
        if self.process:
            self.process.kill()

    async def stop(self, *, within: float = 5) -> None:
        """End it politely, and leave it so."""
        self.wanted = False
        if self.process:
            await self.process.stop(within=within)

    async def close(self) -> None:
        """End it and whoever keeps it."""
        self.kill()
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def _begin(self) -> None:
        death = self.deaths[self.lives] if self.lives < len(self.deaths) else 0
        self.lives += 1
        self._said_before = len(self.said)
        self.process = Process(
            self._arguments,
            self._log,
            self._variables,
            nursery=self._nursery,
            variant=self.variant,
            death=death,
        )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            ended = self.process
            if not self.wanted or ended is None or (code := ended.code) is None:
                continue
            # A process that finds no server at its start ends, and its supervisor starts it again; later it waits.
            started = "running on" in self.said[self._said_before :]
            no_server = code == Exit.UNREACHABLE and not started
            expected = no_server or (code == -signal.SIGKILL and self.lives <= len(self.deaths))
            if not expected:
                lines = ended.said.strip().splitlines()
                self.ends.append(f"{self.name} ended by itself with {code}: {lines[-1] if lines else 'no word'}")
            await asyncio.sleep(_RESTART_SECONDS)
            if self.wanted and self.process is ended:  # nobody started it meanwhile
                self._begin()
