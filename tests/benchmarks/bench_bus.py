"""What the bus carries. Prints a markdown section; client and server share this machine's cores."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined
from shardbus_schemas.ids import BootId, DeviceId, NodeId
from shardbus_schemas.telemetry import DeviceGPUState
from support.server_folders import server_folder

ROUNDS = 5
MANY = 100_000
DURABLE = 5_000
SINGLE = 1_000
NOW = datetime.now(UTC)


def readings(number: int) -> Outgoing:
    """Return one node's tick with one device, as an agent publishes it."""
    node = NodeId(f"node-{number % 250}")
    state = DeviceGPUState(
        device_id=DeviceId(f"GPU-{number % 250:036d}"),
        node_id=node,
        memory_used_bytes=1_234_567_890 + number,
        memory_total_bytes=25_769_803_776,
        compute_utilization_percent=37.5,
        thermal_temperature_c=61.0,
        thermal_throttle_threshold_c=90.0,
        is_thermal_throttling=False,
        last_update=NOW,
    )
    message = DeviceGPUStateUpdated(node_id=node, boot_id=BootId("boot"), tick=number, states=(state,))
    return outgoing(message, source=f"agent/{node}", event_id=f"{node}/boot/{number}", occurred_at=NOW)


def fact(number: int) -> Outgoing:
    """Return an event with an id."""
    message = NodeJoined(node_id=NodeId(f"node-{number % 250}"), boot_id=BootId("boot"), heartbeat_seconds=30)
    return outgoing(message, source="bench", event_id=f"fact-{time.time_ns()}-{number}", occurred_at=NOW)


async def measured(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the wall-clock and this process's CPU seconds of ``work``."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(name: str, messages: int, runs: Sequence[tuple[float, float]]) -> str:
    """Return one line of the table: medians, and the best rate."""
    wall, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
    best = min(run[0] for run in runs)
    return f"| {name} | {messages / wall:,.0f} | {messages / best:,.0f} | {cpu / messages * 1e6:.1f} |"


async def follow_all(bus: NatsBus, stream: str, count: int) -> None:
    """Read a stream's first ``count`` messages."""
    got = 0
    async with aclosing(bus.follow(stream)) as batches:
        async for batch in batches:
            got += len(batch)
            if got >= count:
                return


async def one_by_one(bus: NatsBus, messages: Sequence[Outgoing]) -> list[float]:
    """Append each message after the one before it is confirmed; return the milliseconds each took."""
    times: list[float] = []
    for message in messages:
        start = time.perf_counter()
        await bus.append(message)
        times.append((time.perf_counter() - start) * 1e3)
    return times


async def main(url: str) -> None:
    """Measure and print."""
    bus = await connect(url, name="bench", timeout_seconds=20)
    try:
        await reconcile(bus)
        many = [readings(number) for number in range(MANY)]
        size = len(many[0].payload)
        headers = sum(len(name) + len(value) + 4 for name, value in many[0].headers.items())
        appending = [await measured(lambda: bus.append_many(many)) for _ in range(ROUNDS)]
        following = [await measured(lambda: follow_all(bus, TELEMETRY, MANY)) for _ in range(ROUNDS)]
        durable = [
            await measured(lambda: bus.append_many([fact(number) for number in range(DURABLE)])) for _ in range(ROUNDS)
        ]
        single = sorted(await one_by_one(bus, [readings(number) for number in range(SINGLE)]))
        flushed = sorted(await one_by_one(bus, [fact(number) for number in range(SINGLE)]))
        await follow_all(bus, FLEET, DURABLE * ROUNDS + SINGLE)
    finally:
        await bus.close()
    print("## Bus\n")
    print(
        f"A reading of one device: {size} bytes of payload and {headers} bytes of headers. Median of {ROUNDS} runs.\n"
    )
    print("| operation | messages/s | best | client CPU µs per message |")
    print("| --- | ---: | ---: | ---: |")
    print(row("append_many to TELEMETRY", MANY, appending))
    print(row("follow of TELEMETRY", MANY, following))
    print(row("append_many to FLEET, each flushed to the disk", DURABLE, durable))
    print("\n| one append, awaited | p50 ms | p99 ms |")
    print("| --- | ---: | ---: |")
    for name, times in (("to TELEMETRY", single), ("to FLEET, flushed to the disk", flushed)):
        print(f"| {name} | {times[SINGLE // 2]:.2f} | {times[SINGLE * 99 // 100]:.2f} |")


if __name__ == "__main__":
    with server_folder() as folder, EmbeddedNats(folder / "nats") as server:
        asyncio.run(main(server.url))
