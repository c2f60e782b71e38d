"""From publishing a reading to seeing it in Postgres, and how much the projector can take. Prints a markdown section.

NATS, Postgres, the projector and who publishes are a process each, on this machine's cores. Options narrow it:
``--seconds 3 --json``.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shardbus_eventstore import projector
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Bus, Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from shardbus_schemas.telemetry import DeviceGPUState
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import StaticPool
from support.databases import fresh_database
from support.jetstream import delete_streams
from support.projecting import bus_with_streams
from support.server_folders import server_folder
from support.waiting import until

NODES, DEVICES_PER_NODE = 250, 8
SLICE_SECONDS = 0.005
WATCH_SECONDS = 0.1
WARM_UP = 0.2
"""The share of a run that is left out: caches fill, statements are prepared."""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LOADS = ((1_000, 1), (5_000, 1), (20_000, 1), (20_000, 8), (50_000, 8))
"""Readings per second, and how many of them a message has."""
BACKLOGS = ((1, 120_000), (8, 400_000))
"""Readings per message, and how many readings wait for the projector."""


@dataclass(frozen=True)
class Measured:
    """One run; CPU in microseconds per reading."""

    load: str
    readings_per_message: int
    readings_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    seconds_behind_at_the_end: float
    readings_per_transaction: float
    cpu_publisher: float
    cpu_nats: float
    cpu_postgres: float
    cpu_projector: float


@dataclass
class Servers:
    """The servers of all runs."""

    nats: EmbeddedNats
    postgres: EmbeddedPostgres


def introductions() -> Iterator[Outgoing]:
    """Yield what makes the devices known."""
    moment = datetime.now(UTC)
    for node in range(NODES):
        name = f"node-{node:04}"
        joined = NodeJoined(node_id=name, boot_id="b", heartbeat_seconds=10)
        yield outgoing(joined, source="bench", event_id=name, occurred_at=moment)
        for device in range(DEVICES_PER_NODE):
            facts = DeviceFacts(device_id=device_name(device), name="NVIDIA GeForce RTX 3090")
            registered = DeviceRegistered(node_id=name, device=facts)
            yield outgoing(registered, source="bench", event_id=f"{name}-{device}", occurred_at=moment)


def device_name(device: int) -> str:
    """Return an id of the usual length."""
    return f"GPU-3fa1c6e2-8d0b-4a57-9d0c-{device:012}"


def ticks(readings: int, per_message: int) -> list[Outgoing]:
    """Return so many readings as messages, every device in turn."""
    moment = datetime.now(UTC)
    messages: list[Outgoing] = []
    for number in range(readings // per_message):
        turn, node = divmod(number, NODES)
        name = f"node-{node:04}"
        states = tuple(
            DeviceGPUState(
                device_id=device_name((turn + index) % DEVICES_PER_NODE),
                node_id=name,
                memory_used_bytes=9_663_676_416 + number * 4096 % 2**33,
                memory_total_bytes=25_769_803_776,
                compute_utilization_percent=number % 1000 / 10,
                thermal_temperature_c=40 + number % 40,
                thermal_throttle_threshold_c=83.0,
                is_thermal_throttling=False,
                last_update=moment,
            )
            for index in range(per_message)
        )
        message = DeviceGPUStateUpdated(node_id=name, boot_id="b", tick=turn, states=states)
        messages.append(outgoing(message, source=f"agent/{name}", event_id=f"{name}/{turn}", occurred_at=moment))
    return messages


async def publish_at(bus: Bus, messages: Sequence[Outgoing], per_second: float) -> list[float]:
    """Publish at a steady rate; return when each message was handed over (its sequence is its index + 1)."""
    handed_over: list[float] = []
    begin = time.perf_counter()
    while len(handed_over) < len(messages):
        due = min(len(messages), int((time.perf_counter() - begin) * per_second) + 1)
        if due > len(handed_over):
            now = time.time()
            await bus.append_many(messages[len(handed_over) : due])
            handed_over += [now] * (due - len(handed_over))
        await asyncio.sleep(max(0, begin + len(handed_over) / per_second - time.perf_counter(), SLICE_SECONDS / 5))
    return handed_over


@contextlib.contextmanager
def projector_process(nats_url: str, postgres_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a projector as a process of its own, that notes in ``log`` when each of its transactions was committed."""
    command = [sys.executable, __file__, "--project", nats_url, postgres_url, str(log)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def project(nats_url: str, postgres_url: str, log: Path) -> None:
    """Be the projector's process."""
    commits: list[tuple[int, float]] = []
    commit = Projection.commit

    def noted(self: Projection, *arguments: Any) -> None:
        commit(self, *arguments)
        if self.stream == TELEMETRY:
            commits.append((self.checkpoint.sequence, time.time()))

    Projection.commit = noted

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        bus = await connect(nats_url, name="projector")
        try:
            await projector.run(bus, ProjectorSettings(postgres_url=postgres_url), stop)
        finally:
            await bus.close()

    asyncio.run(run())
    log.write_text(json.dumps(commits))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, and of its children, those that ended included."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            own = sum(map(int, fields[11:13]))
            if int(folder.name) == pid:
                total += (own + sum(map(int, fields[13:15]))) / TICKS_PER_SECOND
            elif int(fields[1]) == pid:
                total += own / TICKS_PER_SECOND
    return total


def watcher(postgres_url: str) -> Callable[[str], int]:
    """Return what tells how far a stream is projected, over one connection, so that looking costs next to nothing."""
    query = text("SELECT sequence FROM shardbus.checkpoints WHERE stream = :stream")
    engine = create_engine(postgres_url, poolclass=StaticPool, isolation_level="AUTOCOMMIT")

    def reached(stream: str) -> int:
        with contextlib.suppress(ProgrammingError), engine.connect() as connection:  # there may be no tables yet
            return connection.scalar(query, {"stream": stream}) or 0
        return 0

    return reached


async def measure(
    servers: Servers, folder: Path, readings: int, per_message: int, per_second: float | None
) -> Measured:
    """Return what became of so many readings at a steady rate; ``None``: all of them wait when the projector starts."""
    await asyncio.to_thread(delete_streams, servers.nats.url)
    with fresh_database(servers.postgres.url) as postgres_url:
        async with bus_with_streams(servers.nats.url) as bus:
            await bus.append_many(list(introductions()))
            messages = ticks(readings, per_message)
            handed_over: list[float] = []
            if per_second is None:
                for start in range(0, len(messages), 5000):
                    await bus.append_many(messages[start : start + 5000])
            with projector_process(servers.nats.url, postgres_url, folder / "commits.json") as process:
                known = (await bus.info(FLEET)).last_sequence
                reached = watcher(postgres_url)
                # What it costs to start is left out.
                await until(lambda: reached(TELEMETRY) if per_second is None else reached(FLEET) == known, within=30)
                watched = readings - reached(TELEMETRY) * per_message
                before = [cpu_seconds(pid) for pid in pids(servers, process)]
                began = time.process_time()
                if per_second is not None:
                    handed_over = await publish_at(bus, messages, per_second / per_message)
                ended = time.time()
                publishing = time.process_time() - began
                while reached(TELEMETRY) != len(messages):
                    if time.time() > ended + 60:
                        raise TimeoutError("the projector did not catch up within a minute")
                    await asyncio.sleep(WATCH_SECONDS)
                spent = [cpu_seconds(pid) - was for pid, was in zip(pids(servers, process), before, strict=True)]
    commits: list[tuple[int, float]] = json.loads((folder / "commits.json").read_text())
    latencies = sorted(latencies_of(handed_over, commits))
    first, last = commits[int(len(commits) * WARM_UP)], commits[-1]
    # From its start on, or, of a backlog, without the first transactions.
    span = ended - handed_over[0] if handed_over else last[1] - first[1]
    done = len(messages) if handed_over else last[0] - first[0]
    in_microseconds = 1e6 / watched
    return Measured(
        load=f"{per_second:,.0f}/s" if per_second else "a backlog",
        readings_per_message=per_message,
        readings_per_second=done * per_message / span,
        p50_ms=statistics.median(latencies) * 1e3 if latencies else None,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3 if latencies else None,
        seconds_behind_at_the_end=max(0.0, last[1] - ended) if handed_over else 0.0,
        readings_per_transaction=readings / len(commits),
        cpu_publisher=publishing * in_microseconds,
        cpu_nats=spent[0] * in_microseconds,
        cpu_postgres=spent[1] * in_microseconds,
        cpu_projector=spent[2] * in_microseconds,
    )


def pids(servers: Servers, process: "subprocess.Popen[bytes]") -> tuple[int, int, int]:
    """Return the processes that are watched."""
    assert servers.nats.pid
    assert servers.postgres.pid
    return servers.nats.pid, servers.postgres.pid, process.pid


def latencies_of(handed_over: Sequence[float], commits: Sequence[tuple[int, float]]) -> list[float]:
    """Return how long each message took to be visible, without the first ones."""
    sequences = [sequence for sequence, _ in commits]
    warm = int(len(handed_over) * WARM_UP)
    return [
        commits[bisect_left(sequences, index + 1)][1] - moment
        for index, moment in enumerate(handed_over)
        if index >= warm
    ]


def table(rows: Sequence[Measured]) -> str:
    """Return the rows as markdown."""
    lines = [
        (
            "| load | readings per message | readings/s | p50 ms | p99 ms | s behind at the end "
            "| readings per transaction | CPU µs per reading: publisher + NATS + Postgres + projector |"
        ),
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cpu = " + ".join(f"{x:.1f}" for x in (row.cpu_publisher, row.cpu_nats, row.cpu_postgres, row.cpu_projector))
        p50 = "" if row.p50_ms is None else f"{row.p50_ms:.1f}"
        p99 = "" if row.p99_ms is None else f"{row.p99_ms:.1f}"
        lines.append(
            f"| {row.load} | {row.readings_per_message} | {row.readings_per_second:,.0f} | {p50} | {p99} | "
            f"{row.seconds_behind_at_the_end:.1f} | "
            f"{row.readings_per_transaction:.0f} | {cpu} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=8, help="how long each load lasts")
    options.add_argument("--json", action="store_true", help="print rows as JSON instead")
    options.add_argument("--project", nargs=3, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.project:
        project(given.project[0], given.project[1], Path(given.project[2]))
        return
    rows: list[Measured] = []
    with (
        server_folder() as folder,
        EmbeddedNats(folder / "nats") as nats,
        EmbeddedPostgres(folder / "postgres") as postgres,
    ):
        servers = Servers(nats, postgres)
        for per_second, per_message in LOADS:
            sys.stderr.write(f"bench: {per_second} readings/s, {per_message} in a message\n")
            readings = int(per_second * given.seconds)
            rows.append(asyncio.run(measure(servers, folder, readings, per_message, per_second)))
        for per_message, readings in BACKLOGS:
            sys.stderr.write(f"bench: a backlog of {readings} readings, {per_message} in a message\n")
            rows.append(asyncio.run(measure(servers, folder, readings, per_message, None)))
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("## Projector\n")
    print(
        f"From publishing to committed in Postgres: {NODES * DEVICES_PER_NODE} devices, every reading updates its "
        "device's row and adds one to the history, all of it durable (`synchronous_commit` on). NATS, Postgres, "
        "projector and publisher share the cores. The first fifth of each run is left out of the latencies. A backlog "
        "is what waits when the projector starts: its rate is the ceiling.\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
