"""A projector beside servers that go away: what waits for it meanwhile, how it catches up, and what memory it takes."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from shardbus_infra.bus.port import Bus, Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import TELEMETRY
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from shardbus_schemas.telemetry import DeviceGPUState
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from support.command_line import Running

NODES, DEVICES = 50, 8
_SAMPLE_SECONDS = 0.05
_AT_ONCE = 2000


def introductions() -> Iterator[Outgoing]:
    """Yield what makes the devices known."""
    moment = datetime.now(UTC)
    for node in range(NODES):
        name = f"node-{node:03}"
        joined = NodeJoined(node_id=name, boot_id="b", heartbeat_seconds=10)
        yield outgoing(joined, source="test", event_id=name, occurred_at=moment)
        for device in range(DEVICES):
            registered = DeviceRegistered(node_id=name, device=DeviceFacts(device_id=f"gpu-{device}", name="a card"))
            yield outgoing(registered, source="test", event_id=f"{name}-{device}", occurred_at=moment)


def ticks(first: int, last: int) -> Iterator[Outgoing]:
    """Yield ticks of all nodes, each with the readings of all its devices."""
    moment = datetime.now(UTC)
    for tick in range(first, last):
        for node in range(NODES):
            name = f"node-{node:03}"
            states = tuple(
                DeviceGPUState(
                    device_id=f"gpu-{device}",
                    node_id=name,
                    memory_used_bytes=9_663_676_416 + (tick * 4096 + device) % 2**33,
                    memory_total_bytes=25_769_803_776,
                    compute_utilization_percent=tick % 1000 / 10,
                    thermal_temperature_c=40 + tick % 40,
                    thermal_throttle_threshold_c=83.0,
                    is_thermal_throttling=False,
                    last_update=moment,
                )
                for device in range(DEVICES)
            )
            message = DeviceGPUStateUpdated(node_id=name, boot_id="b", tick=tick, states=states)
            yield outgoing(message, source=f"agent/{name}", event_id=f"{name}/{tick}", occurred_at=moment)


async def publish_ticks(bus: Bus, first: int, last: int) -> int:
    """Publish them as fast as the bus takes them, without holding them all; return how many readings they are."""
    step = max(1, _AT_ONCE // NODES)
    for start in range(first, last, step):
        await bus.append_many(list(ticks(start, min(last, start + step))))
    return (last - first) * NODES * DEVICES


@dataclass
class Memory:
    """Resident memory of a process, in bytes, as it was sampled."""

    samples: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def most(self, since: float = 0.0, until: float = float("inf")) -> int:
        """Return the most between two moments of the monotonic clock."""
        return max((size for moment, size in self.samples if since <= moment <= until), default=0)


@contextmanager
def watched_memory(pid: int) -> Generator[Memory]:
    """Sample a process' resident memory within the block, while it lives."""
    memory, ended, process = Memory(), threading.Event(), psutil.Process(pid)

    def sample() -> None:
        with contextlib.suppress(psutil.Error):
            while not ended.wait(_SAMPLE_SECONDS):
                memory.samples.append((time.monotonic(), process.memory_info().rss))

    thread = threading.Thread(target=sample, name="memory")
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()


@contextmanager
def projector(nats_url: str, postgres_url: str, log: Path) -> Generator[Running]:
    """Run ``shardbus projector`` as a person does."""
    running = Running("projector", log=log, SHARDBUS_NATS_URL=nats_url, SHARDBUS_POSTGRES_URL=postgres_url)
    try:
        yield running
        assert running.alive, running.said
        running.process.terminate()
        running.process.wait(20)
    finally:
        running.process.kill()
        running.process.wait()


def position_reader(postgres_url: str) -> Callable[[], int]:
    """Return what tells how far ``TELEMETRY`` is projected; 0 while Postgres is away."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    query = text("SELECT sequence FROM shardbus.checkpoints WHERE stream = :stream")

    def read() -> int:
        with contextlib.suppress(DBAPIError), engine.connect() as connection:
            return connection.scalar(query, {"stream": TELEMETRY}) or 0
        return 0

    return read


async def reached(read: Callable[[], int], sequence: int, *, within: float) -> float:
    """Return when ``sequence`` is projected, as a moment of the monotonic clock."""
    deadline = time.monotonic() + within
    while (position := await asyncio.to_thread(read)) < sequence:
        if time.monotonic() > deadline:
            raise AssertionError(f"the projector is at {position} of {sequence} after {within:g} s")
        await asyncio.sleep(0.02)
    return time.monotonic()
