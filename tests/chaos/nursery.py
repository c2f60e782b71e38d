"""Starts processes of shardbus by forking one that has imported everything: a start costs milliseconds, not a second.

    python -m chaos.nursery

reads one JSON request a line from stdin and answers each with one line on stdout. What is started runs the same
``main`` with the same arguments and environment as ``python -m shardbus_console``; only the imports are inherited.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

MOST_MEMORY: Final = 4 * 2**30
"""Address space of each process, in bytes."""


class Nursery:
    """The harness' side: asks for processes and for how they ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "chaos.nursery"],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._turn = threading.Lock()

    def start(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], variant: str, death: int
    ) -> int:
        """Start a process and return its id."""
        asked = {
            "arguments": list(arguments),
            "log": str(log),
            "environment": dict(environment),
            "variant": variant,
            "death": death,
        }
        return int(self._ask(asked))

    def ended(self, pid: int) -> int | None:
        """Return how a process ended, as ``subprocess`` tells it; ``None`` while it has not."""
        code = self._ask({"ended": pid})
        return None if code is None else int(code)

    def close(self) -> None:
        """End it, and with it whatever it started and did not end."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with self._turn:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
            return json.loads(self._child.stdout.readline())


def tend() -> None:
    """Answer requests until there are none any more; then kill who is left."""
    _import_everything()
    codes: dict[int, int | None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            answer: int | None = _fork(request)
            codes[answer] = None
        else:
            answer = codes[request["ended"]] = _code_of(request["ended"], codes[request["ended"]])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid, code in codes.items():
        if _code_of(pid, code) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


def _import_everything() -> None:
    from importlib import import_module  # noqa: PLC0415 - only here

    for name in (
        "chaos.producer",
        "chaos.variants",
        "highspy",
        "psycopg",
        "shardbus_agents.played_fleet",
        "shardbus_agents.process",
        "shardbus_console.agent_process",
        "shardbus_eventstore.projector",
        "shardbus_placer.planner",
        "shardbus_placer.process",
        "shardbus_placer.solver_pulp",
    ):
        import_module(name)
    from shardbus_console.main import application  # noqa: PLC0415 - only here

    application()


def _code_of(pid: int, known: int | None) -> int | None:
    if known is not None:
        return known
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _become(request)
    except BaseException:  # noqa: BLE001 - it must never go on as a second nursery
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _become(request: Mapping[str, Any]) -> int:
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(here, there)
    os.chdir(Path(request["log"]).parent)
    os.environ.clear()
    os.environ.update(request["environment"])
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    from chaos.variants import play  # noqa: PLC0415 - imported already

    try:
        play(request["variant"], request["death"], request["arguments"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    tend()
