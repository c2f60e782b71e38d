"""What an agent costs its node, measured on a real agent in a process of its own and a real server."""

import json
import os
import subprocess
import sys
from pathlib import Path

AGENT = """
import asyncio, json, sys, time
bare = int(open("/proc/self/statm").read().split()[1]) * 4096
started = time.perf_counter()
from shardbus_agents import process
from shardbus_agents.settings import AgentSettings
from shardbus_infra.bus import nats
from shardbus_infra.bus.streams import TELEMETRY, reconcile
import psutil

async def main():
    bus = await nats.connect(sys.argv[1], name="footprint")
    await reconcile(bus)
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(bus, AgentSettings(node_id="footprint"), stop))
    while not (await bus.info(TELEMETRY)).messages:
        await asyncio.sleep(0.01)
    told = time.perf_counter() - started
    await asyncio.sleep(0.5)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(float(sys.argv[2]))
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    resident = psutil.Process().memory_info().rss
    stop.set()
    await running
    await bus.close()
    print(json.dumps({"seconds_to_first_reading": told, "bytes": resident - bare, "cpu": busy}))

asyncio.run(main())
"""


def measure(nats_url: str, seconds: float, bytecode: Path) -> dict[str, float]:
    """Return the seconds to the first reading, the bytes over the bare interpreter, and the share of a core used.

    ``bytecode`` is where compiled modules are kept: an installed package has its own, and compiling it in the agent
    would count the compiler's memory. Call it twice with the same folder, and believe the second answer.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    command = [sys.executable, "-c", AGENT, nats_url, str(seconds)]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    return json.loads(finished.stdout)
