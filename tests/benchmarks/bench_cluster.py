"""What a cluster of three costs per append, and how long it pauses when a server fails. Prints a markdown section.

The three servers share this machine's cores and its disk. ``--repeats 2`` shortens it.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, declared
from shardbus_infra.embedded.cluster import EmbeddedCluster
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined
from shardbus_schemas.telemetry import DeviceGPUState
from support.cluster_at_work import Work, all_current, everybody_at_work, leader_of
from support.route_cuts import CuttableCluster
from support.server_folders import server_folder
from support.waiting import until

SINGLE = 1_000
MANY = 5_000
NOW = datetime.now(UTC)
DEFAULT_SYNC = '"2m"'
"""NATS' own default."""


def fact(number: int) -> Outgoing:
    """Return an event of FLEET."""
    message = NodeJoined(node_id=f"node-{number % 250}", boot_id="b", heartbeat_seconds=10)
    return outgoing(message, source="bench", event_id=f"fact-{time.time_ns()}-{number}", occurred_at=NOW)


def readings(number: int) -> Outgoing:
    """Return a tick of a node with one device."""
    node = f"node-{number % 250}"
    state = DeviceGPUState(device_id="gpu", node_id=node, memory_used_bytes=number, last_update=NOW)
    message = DeviceGPUStateUpdated(node_id=node, boot_id="b", tick=number, states=(state,))
    return outgoing(message, source="bench", event_id=f"{node}/{number}", occurred_at=NOW)


async def one_by_one(bus: NatsBus, messages: Sequence[Outgoing]) -> list[float]:
    """Append each message after the one before it is confirmed; return the milliseconds each took, sorted."""
    times: list[float] = []
    for message in messages:
        start = time.perf_counter()
        await bus.append(message)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)


async def append_row(name: str, url: str, replicas: int) -> str:
    """Return a line of the table."""
    bus = await connect(url, name="bench", timeout_seconds=20)
    try:
        await reconcile(bus, declared(replicas=replicas))
        cells: list[str] = []
        for make in (fact, readings):
            times = await one_by_one(bus, [make(number) for number in range(SINGLE)])
            many = [make(number) for number in range(MANY)]
            start = time.perf_counter()
            await bus.append_many(many)
            rate = MANY / (time.perf_counter() - start)
            cells += [f"{times[SINGLE // 2]:.2f}", f"{times[SINGLE * 99 // 100]:.2f}", f"{rate:,.0f}"]
    finally:
        await bus.close()
    return f"| {name} | {' | '.join(cells)} |"


@contextlib.contextmanager
def single(folder: Path, sync_interval: str) -> Generator[str]:
    """Run one server."""
    with EmbeddedNats(folder / "nats", sync_interval=sync_interval) as server:
        yield server.url


@contextlib.contextmanager
def three(folder: Path, sync_interval: str) -> Generator[str]:
    """Run three."""
    with EmbeddedCluster(folder, sync_interval=sync_interval) as cluster:
        yield cluster.url


def append_rows() -> list[str]:
    """Return the table of appends."""
    rows: list[str] = []
    for name, servers, sync, replicas in (
        ("one server, `always`", single, "always", 1),
        ("one server, NATS' default of 2 min", single, DEFAULT_SYNC, 1),
        ("three servers, `always`", three, "always", 3),
        ("three servers, NATS' default of 2 min", three, DEFAULT_SYNC, 3),
    ):
        sys.stderr.write(f"bench: appends, {name}\n")
        with server_folder() as folder, servers(folder, sync) as url:
            rows.append(asyncio.run(append_row(name, url, replicas)))
    return rows


async def leading(work: Work, cluster: EmbeddedCluster) -> EmbeddedNats:
    """Return the server that leads FLEET."""
    name = await leader_of(work.admin, FLEET)
    return next(member for member in cluster.members if member.name == name)


Fault = Callable[[Work, EmbeddedCluster], Awaitable[list[float]]]
"""Makes a server fail and mends it; returns the longest wait of each publisher."""


async def killed(work: Work, cluster: EmbeddedCluster) -> list[float]:
    """Kill the leader as ``kill -9`` does."""
    leader = await leading(work, cluster)
    await asyncio.to_thread(leader.kill)
    waits = list(await work.go_on())
    await asyncio.to_thread(leader.start)
    return waits


async def frozen(work: Work, cluster: EmbeddedCluster) -> list[float]:
    """Freeze the leader: its connections stay, and it says nothing."""
    leader = await leading(work, cluster)
    leader.freeze()
    waits = list(await work.go_on())
    leader.thaw()
    return waits


async def restarted_in_turn(work: Work, cluster: EmbeddedCluster) -> list[float]:
    """Stop and start each server, when the one before it has caught up."""
    waits: list[float] = []
    for member in cluster.members:
        await until(lambda: all_current(work.admin), within=120)
        await asyncio.to_thread(member.stop)
        await asyncio.to_thread(member.start)
        waits += await work.go_on()
    return waits


def beginning_at_each(cluster: EmbeddedCluster) -> list[str]:
    """Return the servers' addresses, a different one first each time."""
    urls = [member.url for member in cluster.members]
    return [",".join([first, *(url for url in urls if url != first)]) for first in urls]


def pause_row(name: str, waits: Sequence[float]) -> str:
    """Return a line of the table."""
    return f"| {name} | {len(waits)} | {min(waits):.1f} | {statistics.median(waits):.1f} | {max(waits):.1f} |"


async def pauses(cluster: EmbeddedCluster, repeats: int, rows: list[str]) -> tuple[int, int]:
    """Add lines to the table of pauses; return how many events were acknowledged and how many commands answered."""
    faults: dict[str, Fault] = {
        "leader killed (`kill -9`)": killed,
        "leader frozen (SIGSTOP)": frozen,
        "each restarted in turn": restarted_in_turn,
    }
    async with everybody_at_work(beginning_at_each(cluster), admin=cluster.url) as work:
        for name, fault in faults.items():
            waits: list[float] = []
            for number in range(repeats):
                sys.stderr.write(f"bench: {name}, {number + 1} of {repeats}\n")
                waits += await fault(work, cluster)
                await until(lambda: all_current(work.admin), within=120)
                await work.go_on()
            rows.append(pause_row(name, waits))
        await work.assert_nothing_lost()
        return work.acknowledged, len(work.asked)


async def cut_off(cluster: CuttableCluster) -> tuple[list[float], int, int]:
    """Cut the leader off from the others, not from its clients; return as ``pauses``, after the waits."""
    async with everybody_at_work(beginning_at_each(cluster), admin=cluster.url) as work:
        cluster.cut_off(await leading(work, cluster))
        waits = list(await work.go_on())
        cluster.mend()
        await work.assert_nothing_lost()
        return waits, work.acknowledged, len(work.asked)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=5, help="how often each failure is repeated")
    given = options.parse_args()
    logging.getLogger("shardbus_infra").setLevel(logging.ERROR)
    load = os.getloadavg()[0]
    appends = append_rows()
    rows: list[str] = []
    with server_folder() as folder, EmbeddedCluster(folder) as cluster:
        acknowledged, asked = asyncio.run(pauses(cluster, given.repeats, rows))
    waits: list[float] = []
    for number in range(given.repeats):
        sys.stderr.write(f"bench: leader cut off, {number + 1} of {given.repeats}\n")
        with server_folder() as folder, CuttableCluster(folder) as cluster:
            more, acknowledged_then, asked_then = asyncio.run(cut_off(cluster))
        waits += more
        acknowledged, asked = acknowledged + acknowledged_then, asked + asked_then
    rows.append(pause_row("leader cut off from the others, not from its clients", waits))
    print("## Cluster\n")
    print(
        "One append, awaited (p50 and p99 in ms), and many at once, by where and how NATS runs. TELEMETRY on one "
        "server is `persist_mode: async` and never waits for the disk. Three servers share this machine's cores and "
        f"disk. Load of the machine when it began: {load:.1f}.\n"
    )
    print("| NATS, `sync_interval` | FLEET p50 | p99 | appends/s | TELEMETRY p50 | p99 | appends/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(appends))
    print(
        "\nThe longest that a publisher of FLEET had to wait for an acknowledgement when a server failed, in seconds; "
        "one publisher began at each of the three servers.\n"
    )
    print("| what failed | waits | least | median | worst |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))
    print(
        f"\n{acknowledged:,} events acknowledged meanwhile, 0 lost, 0 doubled, order kept; each follower saw each "
        f"event once; {asked:,} placements asked for, each answered once; the agent went on by itself. A loss ends "
        "this benchmark with an error."
    )


if __name__ == "__main__":
    main()
