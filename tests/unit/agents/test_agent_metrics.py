"""What an agent told, and what was not worth telling, is counted."""

import asyncio
from datetime import UTC, datetime
from itertools import count

import pytest
from shardbus_agents.agent import Agent, Identity
from shardbus_agents.backends.simulated import SimulatedBackend
from shardbus_agents.node import Node
from shardbus_agents.readings import Pace
from shardbus_agents.sampler import PromptSampler
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.streams import TELEMETRY
from shardbus_infra.observability import metrics
from shardbus_schemas.fleet import FleetDevice, FleetNode
from support.waiting import until

STILL = {"memory_used_bytes": None, "compute_utilization_percent": None, "thermal_temperature_c": None}


def test_published_messages_and_suppressed_samples_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    published, suppressed = count(), list[int]()
    monkeypatch.setattr(metrics, "published", lambda: next(published))
    monkeypatch.setattr(metrics, "suppressed", suppressed.append)
    device = FleetDevice.model_validate({"device_id": "g", "memory_total_bytes": 2**30, **STILL})
    backend = SimulatedBackend(FleetNode(node_id="n", devices=(device,)), seed=1)
    pace = Pace(sample_interval_seconds=0.01, heartbeat_seconds=60)

    async def scenario() -> None:
        bus, stop = MemoryBus(), asyncio.Event()
        node = Node(
            Agent(Identity("n", "b"), pace), (PromptSampler(backend),), bus, pace=pace, now=lambda: datetime.now(UTC)
        )
        running = asyncio.create_task(node.run(stop))
        await until(lambda: sum(suppressed) >= 3, what="samples that are not told")
        stop.set()
        await running
        assert next(published) == len(bus.server.log(TELEMETRY).messages)

    asyncio.run(scenario())
