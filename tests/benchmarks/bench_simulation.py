"""What playing a large fleet costs: one process that plays it, and a real server that takes what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from shardbus_infra.embedded.nats import EmbeddedNats
from support.server_folders import server_folder

FLEETS = ((250, 8), (1000, 4))
"""Nodes, and devices of each."""
SETTLE_SECONDS = 12
MEASURED_SECONDS = 30
PLAYER = """
import asyncio, gc, json, sys, time
from collections import defaultdict
from pathlib import Path
import psutil
from shardbus_agents import process
from shardbus_agents.backends.simulated import SimulatedBackend
from shardbus_agents.settings import AgentSettings
from shardbus_infra.bus import nats
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY

settle, measured = float(sys.argv[3]), float(sys.argv[4])
ticks = defaultdict(list)
sample = SimulatedBackend.sample

def timed(self, at):
    ticks[id(self)].append(time.perf_counter())
    return sample(self, at)

SimulatedBackend.sample = timed

async def main():
    bus = await nats.connect(sys.argv[1], name="player")
    await reconcile(bus)
    stop = asyncio.Event()
    settings = AgentSettings(simulate=Path(sys.argv[2]))
    began = time.perf_counter()
    running = asyncio.create_task(process.run(bus, settings, stop))
    while (await bus.info(FLEET)).messages < int(sys.argv[5]):
        await asyncio.sleep(0.05)
    arrived = time.perf_counter() - began
    await asyncio.sleep(settle)
    ticks.clear()
    said = (await bus.info(TELEMETRY)).last_sequence
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(measured)
    spent, took = time.process_time() - cpu, time.perf_counter() - wall
    messages = (await bus.info(TELEMETRY)).last_sequence - said
    late = sorted(
        moment - moments[0] - 2 * n for moments in ticks.values() for n, moment in enumerate(moments) if n
    )
    resident = psutil.Process().memory_info().rss
    stop.set()
    await running
    await bus.close()
    print(json.dumps({
        "cpu": spent / took, "bytes": resident, "messages": messages / took, "arrived": arrived,
        "ticks": sum(map(len, ticks.values())) / took, "late_p99": late[int(0.99 * len(late))], "late_max": late[-1],
    }))

asyncio.run(main())
"""


def measure(nodes: int, devices: int) -> dict[str, float]:
    """Return what a process costs that plays ``nodes`` nodes with ``devices`` devices each."""
    with server_folder() as folder, EmbeddedNats(folder / "nats") as server, TemporaryDirectory() as scratch:
        file = Path(scratch) / "fleet.json"
        file.write_text(json.dumps(fleet(nodes, devices)), encoding="utf-8")
        command = [sys.executable, "-c", PLAYER, server.url, str(file), str(SETTLE_SECONDS), str(MEASURED_SECONDS)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = scratch
        done = subprocess.run(
            [*command, str(nodes * (devices + 1))],
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def fleet(nodes: int, devices: int) -> dict[str, object]:
    """Return a fleet file of one kind of node."""
    cards = [{"device_id": f"cuda:{n}", "name": "NVIDIA GeForce RTX 3090"} for n in range(devices)]
    return {"nodes": [{"node_id": "rack", "count": nodes, "devices": cards}]}


def main() -> None:
    """Print the section."""
    rows: list[str] = []
    for nodes, devices in FLEETS:
        sys.stderr.write(f"bench: {nodes} nodes of {devices} devices\n")
        found = measure(nodes, devices)
        rows.append(
            f"| {nodes} x {devices} = {nodes * devices} | {found['cpu']:.0%} | {found['bytes'] / 1e6:.0f} MB "
            f"| {found['late_p99'] * 1e3:.0f} ms | {found['late_max'] * 1e3:.0f} ms | {found['messages']:.0f} "
            f"| {found['ticks']:.0f} | {found['arrived']:.1f} s |\n"
        )
    sys.stdout.write(
        "## Simulation\n\nOne process that plays a fleet of RTX 3090s at the default pace (2 s) on an embedded NATS "
        "server.\n\n"
        "| nodes x devices | share of one core | resident | tick late, p99 | at most | messages/s | ticks/s "
        "| all registered after |\n|---|---|---|---|---|---|---|---|\n" + "".join(rows)
    )


if __name__ == "__main__":
    main()
