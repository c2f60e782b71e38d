"""From a runner's word at the socket to the stream, over a bus that goes away, and the runners of a played fleet."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shardbus_agents import process
from shardbus_agents.runners.client import report
from shardbus_agents.settings import AgentSettings
from shardbus_infra.bus import nats
from shardbus_infra.bus.port import Bus, BusError
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas import subjects
from shardbus_schemas.events import DeviceGPUStateUpdated, InstanceDeleted, InstancePlaced, ShardReported
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.telemetry import DeviceGPUState
from support.answers import placed_event, plan_on
from support.waiting import until

pytestmark = pytest.mark.connected

GIB = 2**30
FLEET_FILE = """
nodes:
- node_id: attic
  devices:
  - {device_id: "cuda:0", name: NVIDIA GeForce RTX 3090, memory_used_bytes: 0}
  - {device_id: "cuda:1", name: NVIDIA GeForce RTX 3090, memory_used_bytes: 0}
"""
QUICK: dict[str, Any] = {"sample_interval_seconds": 0.1, "heartbeat_seconds": 0.5, "leave_patience_seconds": 10}


def placed(instance: str, device: str, memory: int) -> InstancePlaced:
    return placed_event(instance).model_copy(update={"plan": plan_on(device, memory=memory)})


async def said(bus: Bus, stream: str, kind: type) -> Sequence[Any]:
    """Return the messages of one kind that a stream holds; nothing while the server is away."""
    try:
        last = (await bus.info(stream)).last_sequence
        stored = [await bus.get(stream, sequence) for sequence in range(1, last + 1)]
    except BusError:
        return []
    messages = [receive(message).message for message in stored if message is not None]
    return [message for message in messages if isinstance(message, kind)]


async def shards(bus: Bus) -> list[tuple[str, str]]:
    return [(each.device_id, each.state) for each in await said(bus, FLEET, ShardReported)]


async def readings(bus: Bus, device_id: str) -> list[DeviceGPUState]:
    told = await said(bus, TELEMETRY, DeviceGPUStateUpdated)
    return [state for each in told for state in each.states if state.device_id == device_id]


def test_what_a_runner_says_while_the_bus_is_away_is_stored_once_and_in_order(
    nats_restartable: EmbeddedNats, folder_for_servers: Path
) -> None:
    path = folder_for_servers / "a.sock"

    async def scenario() -> None:
        bus = await nats.connect(nats_restartable.url, name="test runners")
        await reconcile(bus)
        stop = asyncio.Event()
        settings = AgentSettings(node_id="here", backends=("psutil",), runner_socket=path, **QUICK)
        running = asyncio.create_task(process.run(bus, settings, stop))

        async def say(instance: str, state: str, **what: Any) -> None:
            await asyncio.to_thread(report, path, instance_id=instance, device="cpu", state=state, **what)

        await until(path.exists)
        await say("before", "loading")
        await until(lambda: _has(bus, 1))
        await asyncio.to_thread(nats_restartable.kill)
        await say("a", "loading", start_layer=0, end_layer=4)
        await say("b", "ready", memory_used_bytes=GIB)
        await say("a", "failed", message="out of memory")
        await asyncio.to_thread(nats_restartable.start)
        await until(lambda: _has(bus, 4), within=20)
        stop.set()
        await asyncio.wait_for(running, 15)
        told = [(each.instance_id, each.state) for each in await said(bus, FLEET, ShardReported)]
        assert told == [("before", "loading"), ("a", "loading"), ("b", "ready"), ("a", "failed")]
        stored = await bus.last(FLEET, subjects.any_event("shard"))
        assert stored is not None
        assert stored.subject == subjects.event("shard", "a")
        assert receive(stored).envelope.source == "agent/here"
        assert not path.exists()
        await bus.close()

    asyncio.run(scenario())


async def _has(bus: Bus, count: int) -> bool:
    return len(await shards(bus)) == count


def test_after_a_report_comes_a_reading_that_holds_it(nats_url: str, folder_for_servers: Path) -> None:
    path = folder_for_servers / "a.sock"

    async def scenario() -> None:
        bus = await nats.connect(nats_url, name="test runners")
        await reconcile(bus)
        stop = asyncio.Event()
        # Nothing moves by these thresholds, and no full report comes: there is no other reason for a second reading.
        still: dict[str, Any] = {
            "memory_threshold_percent": 100,
            "utilization_threshold_points": 100,
            "temperature_threshold_c": 1000,
            "power_threshold_watts": 1e9,
            "report_seconds": 3600,
        }
        settings = AgentSettings(
            node_id="here", backends=("psutil",), runner_socket=path, **QUICK | {"heartbeat_seconds": 600} | still
        )
        running = asyncio.create_task(process.run(bus, settings, stop))
        await until(path.exists)
        await until(lambda: readings(bus, "cpu"))
        fields: dict[str, Any] = {"instance_id": "a", "device": "cpu", "state": "ready", "memory_used_bytes": 5}
        await asyncio.to_thread(report, path, **fields)

        async def has_another() -> bool:
            return len(await readings(bus, "cpu")) == 2

        await until(has_another)
        (shard,) = await said(bus, FLEET, ShardReported)
        assert (await readings(bus, "cpu"))[-1].last_update >= shard.occurred_at
        stop.set()
        await asyncio.wait_for(running, 10)
        await bus.close()

    asyncio.run(scenario())


def test_a_played_fleet_loads_what_is_placed_until_it_is_deleted(nats_url: str, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET_FILE)
    scenario_file = tmp_path / "scenario.yaml"
    scenario_file.write_text("time_scale: 20\nsteps:\n- {at: 1h, do: fail_shard, on: attic}\n")

    async def scenario() -> None:
        bus = await nats.connect(nats_url, name="test runners")
        await reconcile(bus)
        # What was decided and taken back before the fleet was there is nobody's to load.
        await _publish(bus, placed("old", "attic/cuda:1", GIB))
        await _publish(bus, InstanceDeleted(instance_id=InstanceId("old")))
        stop = asyncio.Event()
        settings = AgentSettings(
            simulate=file,
            simulate_scenario=scenario_file,
            simulate_shards=True,
            simulate_loading_bytes_per_second=GIB / 4,
            **QUICK,
        )
        running = asyncio.create_task(process.run(bus, settings, stop))

        async def has(state: str) -> bool:
            return ("cuda:0", state) in await shards(bus)

        await until(lambda: _told(bus))
        await _publish(bus, placed("llama", "attic/cuda:0", 8 * GIB))
        await until(lambda: has("ready"))

        async def is_used(low: float, high: float) -> bool:
            return low <= ((await readings(bus, "cuda:0"))[-1].memory_used_bytes or 0) / GIB <= high

        await until(lambda: is_used(7.5, 8.6), what="a reading that holds the shard")
        await _publish(bus, InstanceDeleted(instance_id=InstanceId("llama")))
        await until(lambda: has("stopped"))
        await until(lambda: is_used(0, 0.6), what="a reading that does not hold it any more")
        stop.set()
        await asyncio.wait_for(running, 10)
        told = await said(bus, FLEET, ShardReported)
        assert {each.instance_id for each in told} == {"llama"}
        assert [each.state for each in told if each.state != "loading"] == ["ready", "stopped"]
        assert told[0].state == "loading"
        ready = next(each for each in told if each.state == "ready")
        assert (ready.memory_used_bytes, ready.start_layer, ready.end_layer) == (8 * GIB, 0, 1)
        await bus.close()

    asyncio.run(scenario())


async def _publish(bus: Bus, message: Any) -> None:
    await publish(bus, message, source="placer", occurred_at=datetime.now(UTC))


async def _told(bus: Bus) -> bool:
    return bool(await readings(bus, "cuda:0"))
