"""Whole agents measure the link between them, and the placer sees it; a second agent of one node id is refused."""

import asyncio
import contextlib
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shardbus_agents import process
from shardbus_agents.presence import DuplicateNodeError
from shardbus_agents.settings import AgentSettings
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.fold import fold
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus import nats
from shardbus_infra.bus.port import Bus, BusError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_placer.links import links_of
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas.events import GPUBandwidthMeasured, NodeJoined
from shardbus_schemas.ids import ModelId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest
from support.command_line import running, shardbus
from support.waiting import until, until_sync

pytestmark = pytest.mark.connected

QUICK: dict[str, Any] = {"backends": ("psutil",), "sample_interval_seconds": 0.1, "probe_busy_percent": 100}


async def said(bus: Bus, stream: str) -> list[Any]:
    with contextlib.suppress(BusError):
        last = (await bus.info(stream)).last_sequence
        stored = [await bus.get(stream, sequence) for sequence in range(1, last + 1)]
        return [receive(message) for message in stored if message is not None]
    return []


def test_agents_measure_the_link_between_them_and_the_placer_plans_with_it(nats_url: str) -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        buses = [await nats.connect(nats_url, name=name) for name in ("reader", "attic", "cellar")]
        await reconcile(buses[0])
        agents = [
            asyncio.create_task(
                process.run(bus, AgentSettings(node_id=name, probe_listen="127.0.0.1:0", **QUICK), stop)
            )
            for name, bus in zip(("attic", "cellar"), buses[1:], strict=True)
        ]

        async def measured() -> dict[tuple[str, str], GPUBandwidthMeasured]:
            assert not any(task.done() for task in agents)
            messages = [received.message for received in await said(buses[0], TELEMETRY)]
            return {
                (each.from_node, each.to_node): each
                for each in messages
                if isinstance(each, GPUBandwidthMeasured) and each.method == "probe"
            }

        async def both_ways() -> bool:
            return len(await measured()) == 2

        await until(both_ways, within=40)
        found = await measured()
        for link in found.values():
            assert link.samples is not None
            assert link.interface == "lo"
            assert link.bandwidth_bytes_per_second > 1e6
            assert 0 < link.latency_seconds < 0.1
        history = [*await said(buses[0], FLEET), *await said(buses[0], TELEMETRY)]
        fleet = fleet_of(fold(FleetState(), history), datetime.now(UTC))
        between = links_of(fleet, Policy()).between
        for pair, link in found.items():
            assert between[pair].bandwidth_bytes_per_second == link.bandwidth_bytes_per_second
        # What other processes use of this machine is not of interest here.
        rest = {"memory_used_bytes": 0, "compute_utilization_percent": 0.0}
        nodes = [
            node.model_copy(update={"devices": tuple(device.model_copy(update=rest) for device in node.devices)})
            for node in fleet.nodes
        ]
        fleet = fleet.model_copy(update={"nodes": tuple(nodes)})
        # A model that neither node holds alone: the plan has to use the link.
        total = next(device.memory_total_bytes for _, _, device in fleet.devices())
        assert total is not None
        model = ModelProfile(model_id=ModelId("big"), layers=24, layer_bytes=total // 20, hidden_size=4096)
        answer = plan(fleet, model, PlacementRequest(model_id=ModelId("big")), Policy())
        assert isinstance(answer, Placed), answer
        assert {hop.from_device.node_id for hop in answer.hops} <= {"attic", "cellar"}
        between_nodes = [hop for hop in answer.hops if hop.from_device.node_id != hop.to_device.node_id]
        assert between_nodes
        # Without the link there is none.
        cut = fleet.model_copy(update={"links": ()})
        assert not isinstance(plan(cut, model, PlacementRequest(model_id=ModelId("big")), Policy()), Placed)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*agents), 20)
        for bus in buses:
            await bus.close()

    asyncio.run(scenario())


def test_a_second_agent_of_the_node_is_refused_and_the_first_goes_on(nats_url: str) -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        buses = [await nats.connect(nats_url, name=name) for name in ("reader", "first", "second")]
        await reconcile(buses[0])
        first = asyncio.create_task(process.run(buses[1], AgentSettings(node_id="attic", **QUICK), stop))

        async def joined() -> int:
            return sum(isinstance(received.message, NodeJoined) for received in await said(buses[0], FLEET))

        await until(joined)
        with pytest.raises(DuplicateNodeError, match=r"speaks since .* for the node id 'attic'") as refused:
            await process.run(buses[2], AgentSettings(node_id="attic", **QUICK), stop)
        assert f"host {platform.node()} (process {os.getpid()})" in str(refused.value)
        assert "--node-id" in str(refused.value)
        assert await joined() == 1
        assert not first.done()
        stop.set()
        await asyncio.wait_for(first, 20)
        for bus in buses:
            await bus.close()

    asyncio.run(scenario())


def test_of_two_that_started_while_the_bus_was_away_one_goes_on(nats_restartable: EmbeddedNats) -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        buses = [await nats.connect(nats_restartable.url, name=name) for name in ("reader", "one", "two")]
        await reconcile(buses[0])
        await asyncio.to_thread(nats_restartable.kill)
        await until(lambda: not any(bus.health.connected for bus in buses))
        agents = [
            asyncio.create_task(process.run(bus, AgentSettings(node_id="attic", **QUICK), stop)) for bus in buses[1:]
        ]
        await asyncio.to_thread(nats_restartable.start)
        await until(lambda: any(task.done() for task in agents), within=40)
        (refused,) = [task for task in agents if task.done()]
        assert isinstance(refused.exception(), DuplicateNodeError)
        stop.set()
        (other,) = [task for task in agents if task is not refused]
        await asyncio.wait_for(other, 20)
        for bus in buses:
            await bus.close()

    asyncio.run(scenario())


@pytest.mark.slow
def test_on_the_command_line_the_second_agent_ends_with_what_to_do_unless_the_first_is_dead(
    nats_url: str, tmp_path: Path
) -> None:
    with running("agent", "--node-id", "attic", log=tmp_path / "first.log", SHARDBUS_NATS_URL=nats_url) as first:
        until_sync(lambda: "running on" in first.said, within=60)

        def is_refused() -> bool:
            done = shardbus("agent", "--node-id", "attic", SHARDBUS_NATS_URL=nats_url)
            assert done.returncode == 2, done.stderr
            assert "Traceback" not in done.stderr
            assert "for the node id 'attic'" in done.stderr
            return "--node-id" in done.stderr

        assert is_refused()
        assert first.alive
        first.kill()
        with running("agent", "--node-id", "attic", log=tmp_path / "next.log", SHARDBUS_NATS_URL=nats_url) as after:
            until_sync(lambda: "running on" in after.said, within=60)
            done = shardbus("agent", "--node-id", "attic", SHARDBUS_NATS_URL=nats_url)
            assert done.returncode == 2, done.stderr
            assert after.alive
            assert after.stop() == 0
