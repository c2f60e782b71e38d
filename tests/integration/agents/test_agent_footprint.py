"""What an agent costs a node. Time and processor are a benchmark's business; memory does not depend on the load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.footprint import agent

pytestmark = [pytest.mark.connected, pytest.mark.slow]

NOT_NEEDED = (
    "alembic",
    "mlx",
    "opentelemetry.sdk",
    "prometheus_client",
    "pulp",
    "rich",
    "sqlalchemy",
    "typer",
    "yaml",
)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted alike on Linux alone")
def test_an_agent_takes_no_more_memory_than_promised(nats_url: str, tmp_path: Path) -> None:
    variables = {"SHARDBUS_BACKENDS": '["nvml", "psutil"]'}
    with agent(nats_url, tmp_path, **variables):
        pass  # compiles
    with agent(nats_url, tmp_path, **variables) as running:
        assert running.own_memory().resident < 48e6
        assert running.child_memory().resident < 20e6


def test_an_agent_keeps_nothing_in_memory_that_it_does_not_need() -> None:
    program = (
        "import json, sys\n"
        "from datetime import UTC, datetime\n"
        "from shardbus_agents import bootstrap, process\n"
        "from shardbus_console import agent_process\n"
        "from shardbus_agents.settings import AgentSettings\n"
        "bootstrap.nodes(None, AgentSettings(), now=lambda: datetime.now(UTC))\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint(NOT_NEEDED)
    assert "shardbus_agents.hardware_metrics" not in loaded, "metrics that go nowhere cost nothing"


def test_the_command_becomes_the_agent_and_stays_the_same_process(nats_url: str, tmp_path: Path) -> None:
    with agent(nats_url, tmp_path, node="elsewhere", SHARDBUS_BACKENDS='["psutil"]') as running:
        assert running.command_line()[-1] == "shardbus_console.agent_process"
