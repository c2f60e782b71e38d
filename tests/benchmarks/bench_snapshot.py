"""How soon a placer is there behind a long history, with a snapshot and without. Prints a markdown section.

The history: readings as messages of eight, events of the fleet, decisions among them. ``--readings 90000 --events
10000`` makes it shorter.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shardbus_eventstore.live import LiveState, read_state
from shardbus_eventstore.snapshot.codec import load, save
from shardbus_eventstore.snapshot.manifest import StreamMark
from shardbus_eventstore.snapshot.store import publish_snapshot
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Bus, Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState
from support.answers import placed_event
from support.server_folders import server_folder

NODES, DEVICES_PER_NODE = 250, 8
PIECE = 5000
STARTS = 5
"""How often a start is measured with a snapshot; the median is told."""


@dataclass(frozen=True)
class Started:
    """One start of a state in memory, in a process of its own."""

    seconds: float
    peak_mebibytes: float


def readings(count: int) -> Iterator[FrozenModel]:
    """Yield so many readings, eight to a message, the nodes in turn."""
    moment = datetime.now(UTC)
    for number in range(count // DEVICES_PER_NODE):
        tick, node = divmod(number, NODES)
        name = f"node-{node:04}"
        states = tuple(
            DeviceGPUState(
                device_id=f"gpu-{device}",
                node_id=name,
                memory_used_bytes=9_663_676_416 + number * 4096 % 2**33,
                memory_total_bytes=25_769_803_776,
                compute_utilization_percent=number % 1000 / 10,
                thermal_temperature_c=40.0 + number % 40,
                last_update=moment,
            )
            for device in range(DEVICES_PER_NODE)
        )
        yield DeviceGPUStateUpdated(node_id=name, boot_id="b", tick=tick, states=states)


def fleet_events(count: int, decisions: int) -> Iterator[FrozenModel]:
    """Yield a fleet, then decisions (each placement deleted but the last hundred), and faults for the rest."""
    told = 0
    for node in range(NODES):
        name = f"node-{node:04}"
        yield NodeJoined(node_id=name, boot_id="b", heartbeat_seconds=10)
        for device in range(DEVICES_PER_NODE):
            yield DeviceRegistered(node_id=name, device=DeviceFacts(device_id=f"gpu-{device}", name="RTX 3090"))
        told += 1 + DEVICES_PER_NODE
    pairs = decisions // 2
    for number in range(pairs + 50):
        yield placed_event(f"i{number}", f"node-{number % NODES:04}/gpu-0", command=f"cli-{number:036}")
        told += 1
        if number < pairs - 50:
            yield events.InstanceDeleted(instance_id=f"i{number}", command_id=f"delete-{number:036}")
            told += 1
    for number in range(count - told):
        yield events.DeviceFaulted(
            node_id=f"node-{number % NODES:04}",
            device_id="gpu-1",
            kind="xid",
            code=13,
            message="an application did this",
            occurred_at=datetime.now(UTC),
        )


async def publish_all(bus: Bus, messages: Iterator[FrozenModel]) -> None:
    """Append messages piece by piece."""
    piece: list[Outgoing] = []
    moment = datetime.now(UTC)
    for number, message in enumerate(messages):
        piece.append(
            outgoing(message, source="bench", event_id=f"{type(message).__name__}-{number}", occurred_at=moment)
        )
        if len(piece) == PIECE:
            await bus.append_many(piece)
            piece.clear()
    if piece:
        await bus.append_many(piece)


async def start(nats_url: str) -> float:
    """Return how many seconds a state in memory takes from nothing to the streams' ends."""
    bus = await connect(nats_url, name="bench")
    try:
        ends = {stream: (await bus.info(stream)).last_sequence for stream in (TELEMETRY, FLEET)}
        began = time.perf_counter()
        live, stop = LiveState(bus), asyncio.Event()
        running = asyncio.create_task(live.run(stop))
        reaching = asyncio.gather(*(live.wait_until(stream, end, None) for stream, end in ends.items()))
        await asyncio.wait({running, reaching}, return_when=asyncio.FIRST_COMPLETED)
        seconds = time.perf_counter() - began
        stop.set()
        await running
        await reaching
    finally:
        await bus.close()
    return seconds


def started(nats_url: str) -> Started:
    """Start a state in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--start", nats_url], stdout=subprocess.PIPE, check=True, text=True
    )
    seconds, peak = done.stdout.split()
    return Started(float(seconds), float(peak))


async def take(nats_url: str) -> tuple[int, float, float]:
    """Publish a snapshot of all there is; return its bytes, and the seconds to make it and to read it back."""
    bus = await connect(nats_url, name="bench")
    try:
        state = await read_state(bus)
        began = time.perf_counter()
        saved = save(state)
        made = time.perf_counter() - began
        began = time.perf_counter()
        load(saved)
        read = time.perf_counter() - began
        marks: dict[str, StreamMark] = {}
        for stream, sequence in state.positions.items():
            held = await bus.get(stream, sequence)
            assert held is not None
            created = (await bus.info(stream)).created
            marks[stream] = StreamMark(created=created, sequence=sequence, recorded_at=held.recorded_at)
        await publish_snapshot(bus, saved, marks, taken_at=datetime.now(UTC), unread={})
    finally:
        await bus.close()
    return len(saved), made, read


async def fill(nats_url: str, options: argparse.Namespace) -> None:
    """Bring the history about."""
    bus = await connect(nats_url, name="bench")
    try:
        await reconcile(bus)
        await publish_all(bus, fleet_events(options.events, options.decisions))
        await publish_all(bus, readings(options.readings))
    finally:
        await bus.close()


async def publish_more(nats_url: str, count: int) -> None:
    """Let something happen after the snapshot."""
    bus = await connect(nats_url, name="bench")
    try:
        await publish_all(bus, readings(count))
    finally:
        await bus.close()


def measure(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, Sequence[Started]]]:
    """Yield each way to start with its starts."""
    with EmbeddedNats(folder / "nats") as nats:
        asyncio.run(fill(nats.url, options))
        sys.stderr.write("the history is there; folding it all\n")
        yield "without", [started(nats.url)]
        size, made, read = asyncio.run(take(nats.url))
        sys.stderr.write(f"snapshot: {size:,} bytes, made in {made:.2f} s, read back in {read:.2f} s\n")
        options.snapshot = size, made, read
        yield "with a snapshot of the end", [started(nats.url) for _ in range(STARTS)]
        asyncio.run(publish_more(nats.url, options.since))
        yield f"with a snapshot {options.since:,} readings ago", [started(nats.url) for _ in range(STARTS)]


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=900_000)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--decisions", type=int, default=10_000)
    parser.add_argument("--since", type=int, default=20_000, help="readings after the snapshot")
    parser.add_argument("--start", metavar="URL", help="be a process that starts")
    options = parser.parse_args()
    if options.start:
        seconds = asyncio.run(start(options.start))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(f"{seconds} {peak}\n")
        return
    with server_folder() as folder:
        rows = list(measure(folder, options))
    size, made, read = options.snapshot
    lines = [
        "## Starting behind a long history",
        "",
        "A state in memory, as a placer keeps it, from nothing to the streams' ends:",
        f"{options.readings:,} readings as messages of {DEVICES_PER_NODE}, {options.events:,} events of the fleet,",
        f"{options.decisions:,} of them decisions, {NODES * DEVICES_PER_NODE:,} devices. The snapshot has",
        f"{size:,} bytes; it is made in {made:.2f} s and read back in {read:.2f} s. Each start is a process of its",
        "own; of several the median is told.",
        "",
        "| start | seconds | peak memory, MiB |",
        "|---|---:|---:|",
    ]
    for name, starts in rows:
        middle = sorted(starts, key=lambda one: one.seconds)[len(starts) // 2]
        lines.append(f"| {name} | {middle.seconds:.2f} | {middle.peak_mebibytes:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
