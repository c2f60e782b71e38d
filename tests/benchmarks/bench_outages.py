"""An hour of telemetry that waited for the projector: how fast it catches up, and its memory. A markdown section.

Servers, the projector (``shardbus projector``) and who publishes are a process each on this machine's cores.
``--readings 72000`` shortens it.
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from support.databases import fresh_database
from support.jetstream import delete_streams
from support.outages import (
    DEVICES,
    NODES,
    introductions,
    position_reader,
    projector,
    publish_ticks,
    reached,
    watched_memory,
)
from support.projecting import bus_with_streams
from support.server_folders import server_folder

HOUR = 720_000
"""50 nodes with 8 devices each, a reading of each every 2 s."""
WARM_TICKS = 40
MEBIBYTE = 2**20
PATIENCE_SECONDS = 600


async def from_the_start(nats: EmbeddedNats, postgres_url: str, folder: Path, count: int) -> str:
    """Measure the ceiling: all of it waits when the projector starts."""
    async with bus_with_streams(nats.url) as bus:
        await bus.append_many(list(introductions()))
        await publish_ticks(bus, 0, count)
        read = position_reader(postgres_url)
        with (
            projector(nats.url, postgres_url, folder / "log") as running,
            watched_memory(running.process.pid) as memory,
        ):
            began = await reached(read, 1, within=60)
            at = await asyncio.to_thread(read)
            done = await reached(read, count * NODES, within=PATIENCE_SECONDS)
        rate = (count * NODES - at) * DEVICES / (done - began)
    return row("nothing: all of it waits when the projector starts", count, done - began, rate, 0, memory.most())


async def postgres_away(
    nats: EmbeddedNats, postgres: EmbeddedPostgres, postgres_url: str, folder: Path, count: int
) -> str:
    """Take Postgres away until all of it waits."""
    async with bus_with_streams(nats.url) as bus:
        await bus.append_many(list(introductions()))
        await publish_ticks(bus, 0, WARM_TICKS)
        read = position_reader(postgres_url)
        with (
            projector(nats.url, postgres_url, folder / "log") as running,
            watched_memory(running.process.pid) as memory,
        ):
            await reached(read, WARM_TICKS * NODES, within=60)
            await asyncio.to_thread(postgres.stop)
            away = time.monotonic()
            await publish_ticks(bus, WARM_TICKS, WARM_TICKS + count)
            await asyncio.to_thread(postgres.start)
            back = time.monotonic()
            done = await reached(read, (WARM_TICKS + count) * NODES, within=PATIENCE_SECONDS)
        rate = count * NODES * DEVICES / (done - back)
    name = f"Postgres away for {back - away:.0f} s, while an hour was published"
    return row(name, count, done - back, rate, memory.most(until=away), memory.most(since=away))


async def nats_away(nats: EmbeddedNats, postgres_url: str, folder: Path, count: int, seconds: float) -> str:
    """Take NATS away, then publish all of it as fast as the bus takes it."""
    async with bus_with_streams(nats.url) as bus:
        await bus.append_many(list(introductions()))
        await publish_ticks(bus, 0, WARM_TICKS)
        read = position_reader(postgres_url)
        with (
            projector(nats.url, postgres_url, folder / "log") as running,
            watched_memory(running.process.pid) as memory,
        ):
            await reached(read, WARM_TICKS * NODES, within=60)
            await asyncio.to_thread(nats.stop)
            away = time.monotonic()
            await asyncio.sleep(seconds)
            await asyncio.to_thread(nats.start)
            back = time.monotonic()
            await publish_ticks(bus, WARM_TICKS, WARM_TICKS + count)
            done = await reached(read, (WARM_TICKS + count) * NODES, within=PATIENCE_SECONDS)
        rate = count * NODES * DEVICES / (done - back)
    name = f"NATS away for {back - away:.0f} s, then an hour published at once"
    return row(name, count, done - back, rate, memory.most(until=away), memory.most(since=away))


def row(name: str, count: int, seconds: float, rate: float, before: int, after: int) -> str:
    """Return a line of the table."""
    memory = f"{before / MEBIBYTE:.0f}" if before else ""
    return f"| {name} | {count * NODES * DEVICES:,} | {seconds:.1f} | {rate:,.0f} | {memory} | {after / MEBIBYTE:.0f} |"


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--readings", type=int, default=HOUR, help="how many readings wait")
    options.add_argument("--nats-away", type=float, default=20, help="seconds")
    given = options.parse_args()
    count = max(1, given.readings // (NODES * DEVICES))
    rows: list[str] = []
    with (
        server_folder() as folder,
        EmbeddedNats(folder / "nats") as nats,
        EmbeddedPostgres(folder / "postgres") as postgres,
    ):
        for name, measure in (
            ("from the start", lambda url: from_the_start(nats, url, folder, count)),
            ("NATS away", lambda url: nats_away(nats, url, folder, count, given.nats_away)),
        ):
            sys.stderr.write(f"bench: {name}\n")
            delete_streams(nats.url)
            with fresh_database(postgres.url) as postgres_url:
                rows.append(asyncio.run(measure(postgres_url)))
        sys.stderr.write("bench: Postgres away\n")
        delete_streams(nats.url)
        # The last one, in the server's own database: it is restarted under whoever is connected.
        rows.append(asyncio.run(postgres_away(nats, postgres, postgres.url, folder, count)))
    print("## Outages\n")
    print(
        f"`shardbus projector` and {count * NODES * DEVICES:,} readings in messages of {DEVICES}: what {NODES} nodes "
        f"with {DEVICES} devices tell in an hour at one reading every 2 s. Memory is the projector's resident set, the "
        f"most of what was sampled every 50 ms, before the outage and from then on. Load of the machine when it "
        f"ended: {os.getloadavg()[0]:.1f}.\n"
    )
    print("| what was away | readings | s until all is committed | readings/s | MiB before | MiB from then on |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
