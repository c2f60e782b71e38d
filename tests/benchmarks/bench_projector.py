"""From publishing a reading to seeing it in Postgres, and how much the projector can take. Prints a markdown section.

NATS, Postgres, the projector and who publishes are a process each, on this machine's cores. Options narrow it:
``--seconds 3 --share 0.2 --json``.
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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rival_projectors
from shardbus_eventstore import projector
from shardbus_eventstore.migrate import upgrade
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
TIMES = 5
"""How often each load is played; the run with the median p99 is shown, since other people share the machine."""
WARM_UP = 0.2
"""The share of a run that is left out: caches fill, statements are prepared."""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
OURS = "shardbus projector"


@dataclass(frozen=True)
class Case:
    """What is measured, and what it shall be at most (milliseconds, seconds) or at least (readings/s)."""

    per_second: int | None
    """Readings per second; ``None``: all of them wait when the projector starts."""
    per_message: int
    readings: int | None = None
    """How many; ``None``: as long as the benchmark's loads last."""
    worker: str = OURS
    p99_ms: float | None = None
    ceiling: int | None = None
    rebuild_seconds: float | None = None


CASES = (
    Case(1_000, 1, p99_ms=5),
    Case(20_000, 1, p99_ms=30),
    Case(20_000, 8, p99_ms=15),
    Case(50_000, 8, p99_ms=50),
    Case(None, 1, 240_000, ceiling=40_000),
    Case(None, 8, 1_000_000, ceiling=90_000, rebuild_seconds=15),
)
RIVALS = (
    Case(None, 1, 4_000, "one transaction per event"),
    Case(None, 8, 16_000, "one transaction per event"),
    Case(None, 1, 30_000, "executemany batches"),
    Case(None, 8, 60_000, "executemany batches"),
)
"""What one would otherwise write, on the first of the same events: it would take long for all of them."""
MOST_MEMORY_MB = 200


@dataclass(frozen=True)
class Measured:
    """One run; CPU in microseconds per reading."""

    case: Case
    readings_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    seconds_behind_at_the_end: float
    readings_per_transaction: float
    cpu_publisher: float
    cpu_nats: float
    cpu_postgres: float
    cpu_projector: float
    peak_memory_mb: float
    """The most the projector ever had resident."""
    seconds_in_all: float
    """From the start of the projector's process to the last commit."""


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
def projector_process(worker: str, nats_url: str, postgres_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a projector as a process of its own, that notes in ``log`` when each of its transactions was committed."""
    command = [sys.executable, __file__, "--project", worker, nats_url, postgres_url, str(log)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def project(worker: str, nats_url: str, postgres_url: str, log: Path) -> None:
    """Be the projector's process."""
    if worker != OURS:
        asyncio.run(rival_projectors.follow(nats_url, postgres_url, rival_projectors.BATCHES[worker], log))
        return
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


def peak_memory_mb(pid: int) -> float:
    """Return the most that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def watcher(postgres_url: str, case: Case) -> Callable[[str], int]:
    """Return what tells how far a stream is projected, over one connection, so that looking costs next to nothing."""
    query = text(
        "SELECT sequence FROM shardbus.checkpoints WHERE stream = :stream"
        if case.worker == OURS
        else f"SELECT count(*) / {case.per_message} FROM shardbus.device_history WHERE :stream <> ''"
    )
    engine = create_engine(postgres_url, poolclass=StaticPool, isolation_level="AUTOCOMMIT")

    def reached(stream: str) -> int:
        with contextlib.suppress(ProgrammingError), engine.connect() as connection:  # there may be no tables yet
            return connection.scalar(query, {"stream": stream}) or 0
        return 0

    return reached


async def measure(servers: Servers, folder: Path, case: Case, seconds: float) -> Measured:
    """Return what became of the readings of ``case``, which last ``seconds`` unless it says how many they are."""
    per_second, per_message = case.per_second, case.per_message
    readings = case.readings or int((per_second or 0) * seconds)
    await asyncio.to_thread(delete_streams, servers.nats.url)
    with fresh_database(servers.postgres.url) as postgres_url:
        async with bus_with_streams(servers.nats.url) as bus:
            await bus.append_many(list(introductions()))
            messages = ticks(readings, per_message)
            handed_over: list[float] = []
            if per_second is None:
                for start in range(0, len(messages), 5000):
                    await bus.append_many(messages[start : start + 5000])
            if case.worker != OURS:
                await asyncio.to_thread(upgrade, postgres_url)
            started = time.time()
            with projector_process(case.worker, servers.nats.url, postgres_url, folder / "commits.json") as process:
                known = (await bus.info(FLEET)).last_sequence
                reached = watcher(postgres_url, case)
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
                    if time.time() > ended + 180:
                        raise TimeoutError("the projector did not catch up within three minutes")
                    await asyncio.sleep(WATCH_SECONDS)
                peak = peak_memory_mb(process.pid)
                spent = [cpu_seconds(pid) - was for pid, was in zip(pids(servers, process), before, strict=True)]
    commits: list[tuple[int, float]] = json.loads((folder / "commits.json").read_text())
    latencies = sorted(latencies_of(handed_over, commits))
    first, last = commits[int(len(commits) * WARM_UP)], commits[-1]
    # From its start on, or, of a backlog, without the first transactions.
    span = ended - handed_over[0] if handed_over else last[1] - first[1]
    done = len(messages) if handed_over else last[0] - first[0]
    in_microseconds = 1e6 / watched
    return Measured(
        case=case,
        readings_per_second=done * per_message / span,
        p50_ms=statistics.median(latencies) * 1e3 if latencies else None,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3 if latencies else None,
        seconds_behind_at_the_end=max(0.0, last[1] - ended) if handed_over else 0.0,
        readings_per_transaction=readings / len(commits),
        cpu_publisher=publishing * in_microseconds,
        cpu_nats=spent[0] * in_microseconds,
        cpu_postgres=spent[1] * in_microseconds,
        cpu_projector=spent[2] * in_microseconds,
        peak_memory_mb=peak,
        seconds_in_all=last[1] - started,
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


def goal(value: float | None, bound: float | None, *, at_least: bool = False) -> str:
    """Return a figure beside what it shall be; bold where it is not."""
    if value is None:
        return ""
    shown = f"{value:,.0f}" if at_least else f"{value:.1f}"
    if bound is None:
        return shown
    met = value >= bound if at_least else value <= bound
    return f"{shown if met else f'**{shown}**'} ({'≥' if at_least else '≤'} {bound:,g})"


def table(rows: Sequence[Measured]) -> str:
    """Return the rows as markdown."""
    lines = [
        (
            "| load | readings per message | readings/s (goal) | p50 ms | p99 ms (goal) | s behind at the end "
            "| readings per transaction | CPU µs per reading: publisher + NATS + Postgres + projector "
            "| peak memory MB (goal) |"
        ),
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        case = row.case
        load = f"{case.per_second:,}/s" if case.per_second else f"a backlog of {case.readings:,}"
        lines.append(
            f"| {load} | {case.per_message} | {goal(row.readings_per_second, case.ceiling, at_least=True)} | "
            f"{goal(row.p50_ms, None)} | {goal(row.p99_ms, case.p99_ms)} | {row.seconds_behind_at_the_end:.1f} | "
            f"{row.readings_per_transaction:.0f} | {cpu(row)} | {goal(row.peak_memory_mb, MOST_MEMORY_MB)} |"
        )
    return "\n".join(lines)


def cpu(row: Measured) -> str:
    """Return what each process takes for a reading."""
    return " + ".join(f"{x:.1f}" for x in (row.cpu_publisher, row.cpu_nats, row.cpu_postgres, row.cpu_projector))


def comparison(ours: Sequence[Measured], rivals: Sequence[Measured]) -> str:
    """Return what others take for the same events, and how many times as much that is."""
    lines = [
        "| | readings per message | readings/s | times as fast | CPU µs per reading, all processes | times as much |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    backlogs = {row.case.per_message: row for row in ours if row.case.per_second is None}
    for row in (*backlogs.values(), *rivals):
        base = backlogs[row.case.per_message]
        lines.append(
            f"| {row.case.worker} | {row.case.per_message} | {row.readings_per_second:,.0f} | "
            f"{row.readings_per_second / base.readings_per_second:.3g} | {total(row):.1f} | "
            f"{total(row) / total(base):.3g} |"
        )
    return "\n".join(lines)


def total(row: Measured) -> float:
    """Return what a reading takes from being read to being committed."""
    return row.cpu_nats + row.cpu_postgres + row.cpu_projector


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=8, help="how long each load lasts")
    options.add_argument("--share", type=float, default=1, help="how much of each backlog to take")
    options.add_argument("--json", action="store_true", help="print rows as JSON instead")
    options.add_argument("--project", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.project:
        worker, nats_url, postgres_url, log = given.project
        project(worker, nats_url, postgres_url, Path(log))
        return
    rows: list[Measured] = []
    with (
        server_folder() as folder,
        EmbeddedNats(folder / "nats") as nats,
        EmbeddedPostgres(folder / "postgres") as postgres,
    ):
        servers = Servers(nats, postgres)
        for case in (*CASES, *RIVALS):
            # A whole number of turns of all nodes.
            some = case.readings and max(1, int(case.readings * given.share) // (8 * NODES)) * 8 * NODES
            load = f"{case.per_second} readings/s" if case.per_second else f"a backlog of {some} readings"
            sys.stderr.write(f"bench: {case.worker}, {load}, {case.per_message} in a message\n")
            shortened = replace(case, readings=some, rebuild_seconds=case.rebuild_seconds if given.share >= 1 else None)
            times = TIMES if case.per_second else 1
            runs = [asyncio.run(measure(servers, folder, shortened, given.seconds)) for _ in range(times)]
            rows.append(sorted(runs, key=lambda run: run.p99_ms or 0)[times // 2])
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    ours, rivals = rows[: len(CASES)], rows[len(CASES) :]
    print("## Projector\n")
    print(
        f"From publishing to committed in Postgres: {NODES * DEVICES_PER_NODE} devices, every reading updates its "
        "device's row and adds one to the history, all of it durable (`synchronous_commit` on). NATS, Postgres, "
        "projector and publisher share the cores. The first fifth of each run is left out of the latencies; of "
        f"{TIMES} runs of a load the one with the median p99 is shown. A backlog "
        "is what waits when the projector starts: its rate is the ceiling. In brackets the goal; bold is what misses "
        "it.\n"
    )
    print(table(ours))
    for row in ours:
        if row.case.rebuild_seconds:
            taken = goal(row.seconds_in_all, row.case.rebuild_seconds)
            print(f"\nA rebuild from {row.case.readings:,} readings, the start of the process included: {taken} s.")
    print(
        "\nWhat one would otherwise write: nats-py with a durable consumer (`pull_subscribe`, `fetch`, `ack`) and "
        "SQLAlchemy, the same events into the same tables (`tests/benchmarks/rival_projectors.py`). It keeps none of "
        "the projector's promises.\n"
    )
    print(comparison(ours, rivals))


if __name__ == "__main__":
    main()
