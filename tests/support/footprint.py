"""What an agent costs its node: the command as a person starts it, watched from outside with all its children."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from shardbus_infra.bus import nats
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import TELEMETRY
from support.command_line import COMMAND, environment

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory. ``proportional`` counts a page that others share as a part of one."""

    resident: int
    proportional: int

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.resident + other.resident, self.proportional + other.proportional)


class Agent:
    """A running ``shardbus agent``."""

    def __init__(self, process: subprocess.Popen[bytes], seconds_to_first_reading: float) -> None:
        self._own = psutil.Process(process.pid)
        self.seconds_to_first_reading: float = seconds_to_first_reading
        """From the start of the command to its first reading in the stream."""

    def command_line(self) -> list[str]:
        """Return the words that the process was started with."""
        return self._own.cmdline()

    def children(self) -> list[psutil.Process]:
        """Return the processes that it started and that live."""
        return self._own.children(recursive=True)

    def own_memory(self) -> Memory:
        """Return the memory of the agent itself."""
        return _memory(self._own)

    def child_memory(self) -> Memory:
        """Return the memory of all its children together."""
        return sum((_memory(child) for child in self.children()), Memory(0, 0))

    def cpu_share(self, seconds: float) -> float:
        """Return the share of one core that all its processes used, over so many seconds."""
        began, before = time.monotonic(), self._busy()
        time.sleep(seconds)
        after, ended = self._busy(), time.monotonic()
        # One that ended meanwhile is counted by its parent, one that was born meanwhile from its birth.
        return sum(used - before.get(pid, 0.0) for pid, used in after.items()) / (ended - began)

    def _busy(self) -> dict[int, float]:
        return {process.pid: _busy_seconds(process) for process in [self._own, *self.children()]}


def _busy_seconds(process: psutil.Process) -> float:
    """Return the seconds on a core: to the nanosecond where Linux says it, for ten milliseconds are a tick's work."""
    tasks = _PROC / str(process.pid) / "task"
    times = process.cpu_times()
    ended = times.children_user + times.children_system
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9 + ended
    except (OSError, IndexError):
        return times.user + times.system + ended


def _memory(process: psutil.Process) -> Memory:
    found = process.memory_full_info()
    return Memory(found.rss, getattr(found, "pss", found.rss))


@contextmanager
def agent(nats_url: str, bytecode: Path, *, node: str = "footprint", **variables: str) -> Generator[Agent]:
    """Run an agent at its default pace until the end of the block.

    ``bytecode`` is where compiled modules are kept: an installed package has its own, and compiling it in the agent
    would count the compiler's time and memory. Start one twice with the same folder, and believe the second.
    """
    kept = environment(SHARDBUS_NATS_URL=nats_url, SHARDBUS_NODE_ID=node, **variables)
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    told = {**kept, "PYTHONPYCACHEPREFIX": str(bytecode)}
    last = asyncio.run(_last_reading(nats_url))
    began = time.perf_counter()
    process = subprocess.Popen([*COMMAND, "agent"], env=told, stderr=subprocess.PIPE, cwd="/")
    try:
        asyncio.run(_first_reading_after(nats_url, last, process))
        yield Agent(process, time.perf_counter() - began)
    finally:
        process.terminate()
        _, said = process.communicate(timeout=20)
        if process.returncode:
            sys.stderr.write(said.decode())


async def _last_reading(nats_url: str) -> int:
    bus = await nats.connect(nats_url, name="footprint")
    try:
        await reconcile(bus)
        return (await bus.info(TELEMETRY)).last_sequence
    finally:
        await bus.close()


async def _first_reading_after(nats_url: str, last: int, process: subprocess.Popen[bytes]) -> None:
    bus = await nats.connect(nats_url, name="footprint")
    deadline = time.monotonic() + 30
    try:
        while (await bus.info(TELEMETRY)).last_sequence <= last:
            if process.poll() is not None or time.monotonic() > deadline:
                assert process.stderr is not None
                process.kill()
                raise RuntimeError(f"no reading of the agent: {process.stderr.read().decode()}")
            await asyncio.sleep(0.005)
    finally:
        await bus.close()


WORKLOAD = """
import sys, time
import mlx.core as mx
mx.set_default_device(mx.cpu)
a, b = mx.random.normal((512, 512)), mx.random.normal((512, 512))
for _ in range(3):
    mx.eval(a @ b)
end = time.perf_counter() + float(sys.argv[1])
count, began = 0, time.perf_counter()
while time.perf_counter() < end:
    mx.eval(a @ b)
    count += 1
print(count / (time.perf_counter() - began))
"""


def matmuls_per_second(seconds: float) -> float:
    """Return how often MLX multiplies two matrices of 512 by 512 in a second, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", WORKLOAD, str(seconds)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("SHARDBUS_")},
    )
    return float(done.stdout)
