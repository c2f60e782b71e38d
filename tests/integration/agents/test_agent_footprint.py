"""What an agent costs a node: the promises of the design, measured on a real agent and a real server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.slow]

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


@pytest.mark.skipif(sys.platform != "linux", reason="the bare interpreter's memory is read from /proc")
def test_an_agent_starts_at_once_and_costs_little(nats_url: str, tmp_path: Path) -> None:
    # An installed package has its bytecode; compiling it in the agent would count the compiler's memory.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)

    def measure(seconds: float) -> dict[str, float]:
        command = [sys.executable, "-c", AGENT, nats_url, str(seconds)]
        finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    measure(0)
    found = measure(4)
    assert found["seconds_to_first_reading"] < 3
    assert found["bytes"] < 50e6
    assert found["cpu"] < 0.01
