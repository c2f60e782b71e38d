"""A running agent whose server refuses, whose server's disk is full, and which is stopped or killed."""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from shardbus_agents.agent import Agent, Identity
from shardbus_agents.collector import Sampled
from shardbus_agents.node import Node
from shardbus_agents.readings import Pace
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.intake import take
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus import nats
from shardbus_infra.bus.nats import NatsBus
from shardbus_infra.bus.port import Bus, BusError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.ports import HOST
from shardbus_schemas.events import DeviceLost, DeviceRegistered, NodeJoined, NodeLeft
from shardbus_schemas.ids import BootId
from shardbus_schemas.registry import Received
from support.command_line import running
from support.nats_with import server
from support.projecting import whole_stream
from support.readings import NODE, facts, state
from support.scripted_devices import Scripted
from support.small_disk import small_disk
from support.waiting import until, until_sync

pytestmark = pytest.mark.connected

QUICK = Pace(sample_interval_seconds=0.02, heartbeat_seconds=0.1, report_seconds=60, smoothing_seconds=0)


async def said(bus: Bus, stream: str) -> Sequence[Received[Any]]:
    return [receive(stored) for stored in await whole_stream(bus, stream)]


async def folded(bus: Bus) -> FleetState:
    now = FleetState()
    for stream in (FLEET, TELEMETRY):
        now = take(now, await whole_stream(bus, stream)).state
    return now


@contextlib.asynccontextmanager
async def reporting(bus: Bus, devices: Scripted) -> AsyncGenerator[Node]:
    """Run a node within the block, and stop it at its end."""
    agent = Agent(Identity(NODE, BootId("boot")), QUICK)
    node = Node(agent, (devices,), bus, pace=QUICK, now=lambda: datetime.now(UTC))
    stop = asyncio.Event()
    task = asyncio.create_task(node.run(stop))
    try:
        yield node
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


async def reads(bus: Bus, **reading: object) -> bool:
    """Return whether the fold has these readings of the device ``cuda-1``."""
    with contextlib.suppress(BusError):
        records = (await folded(bus)).device_states.values()
        return any(
            record.reading.device_id == "cuda-1"
            and all(getattr(record.reading, name) == value for name, value in reading.items())
            for record in records
        )
    return False


async def limit(bus: NatsBus, stream: str, **options: object) -> Mapping[str, object]:
    """Change a stream's options and return what they were."""
    before = await bus.stream_config(stream)
    assert before is not None
    await bus.update_stream({**before, **options})
    return before


def test_a_stream_that_is_full_keeps_the_lifecycle_waiting_and_nothing_else(
    nats_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bus = await nats.connect(nats_url, name="test agent")
        await reconcile(bus)
        devices = Scripted()
        async with reporting(bus, devices):
            await until(lambda: reads(bus))
            # Streams are compressed block by block; a bound in messages is exact.
            before = await limit(bus, FLEET, max_msgs=(await bus.info(FLEET)).messages)
            lost_at = datetime.now(UTC)
            devices.now = Sampled((facts("other"), facts()), (state("other"), state(health="degraded")))
            await until(lambda: reads(bus, health="degraded"), what="readings of the device that is known")
            devices.now = Sampled((facts(),), (state(health="ok"),))
            await until(lambda: reads(bus, health="ok"))
            assert [type(each.message) for each in await said(bus, FLEET)] == [NodeJoined, DeviceRegistered]
            assert "maximum messages exceeded" in caplog.text
            assert caplog.text.count("refuses what is told") == 1
            there_again = datetime.now(UTC)
            await bus.update_stream(before)
            await until(lambda: told(bus, 4), what="what waited for room")
        fleet = await said(bus, FLEET)
        assert [type(each.message) for each in fleet][2:] == [DeviceRegistered, DeviceLost, NodeLeft]
        assert all(lost_at <= each.envelope.occurred_at <= there_again < each.recorded_at for each in fleet[2:4])
        await bus.close()

    async def told(bus: Bus, count: int) -> bool:
        return len(await said(bus, FLEET)) >= count

    asyncio.run(scenario())


def test_an_event_that_is_too_large_for_the_stream_is_given_up_and_the_next_goes_on(
    nats_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bus = await nats.connect(nats_url, name="test agent")
        await reconcile(bus)
        before = await limit(bus, FLEET, max_msg_size=4000)
        devices = Scripted()
        async with reporting(bus, devices):
            await until(lambda: reads(bus))
            devices.now = Sampled((facts(driver="x" * 5000), facts("other")), (state(health="degraded"),))
            await until(lambda: reads(bus, health="degraded"))
        fleet = [each.message for each in await said(bus, FLEET)]
        assert [type(message) for message in fleet] == [NodeJoined, DeviceRegistered, DeviceRegistered, NodeLeft]
        assert fleet[2].device == facts("other")
        assert caplog.text.count("gave up DeviceRegistered") == 1
        assert "message size exceeds maximum allowed" in caplog.text
        await bus.update_stream(before)
        await bus.close()

    asyncio.run(scenario())


def test_a_right_that_is_missing_is_asked_for_again_and_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent: dict[str, Any] = {"user": "agent", "password": "s3cret"}
    readings_alone = {"publish": ["$JS.API.>", "shardbus.v1.telemetry.>"], "subscribe": "_INBOX.>"}
    options: dict[str, Any] = {"jetstream": {"store_dir": str(tmp_path / "js")}}

    def users(**permissions: Any) -> dict[str, Any]:
        return {"authorization": {"users": [{"user": "all", "password": "s3cret"}, agent | permissions]}}

    async def scenario(port: int, process: "subprocess.Popen[bytes]") -> None:
        owner = await nats.connect(f"nats://all:s3cret@{HOST}:{port}", name="owner", timeout_seconds=20)
        await reconcile(owner)
        bus = await nats.connect(f"nats://agent:s3cret@{HOST}:{port}", name="test agent")
        async with reporting(bus, Scripted()):
            await until(lambda: caplog.text.lower().count("permissions violation") >= 1)
            # Long enough for three tries: at once, after 0.25 s and 0.5 s more.
            await asyncio.sleep(1)
            assert not (await owner.info(FLEET)).messages
            assert not (await owner.info(TELEMETRY)).messages
            configuration = tmp_path / "server.conf"
            configuration.write_text(json.dumps(json.loads(configuration.read_text()) | users()))
            process.send_signal(signal.SIGHUP)
            await until(lambda: reads(owner))
        assert [type(each.message) for each in await said(owner, FLEET)] == [NodeJoined, DeviceRegistered, NodeLeft]
        await bus.close()
        await owner.close()

    with server(tmp_path, **options, **users(permissions=readings_alone)) as (port, process):
        asyncio.run(scenario(port, process))
    complaints = [record.name for record in caplog.records if "permissions violation" in record.getMessage().lower()]
    assert complaints == ["shardbus_infra.bus.nats_connection", "shardbus_agents.node"]


@pytest.mark.slow
def test_a_disk_that_is_full_under_nats_loses_nothing(
    folder_for_servers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: EmbeddedNats) -> None:
        bus = await nats.connect(server.url, name="test agent")
        await reconcile(bus)
        devices = Scripted()
        async with reporting(bus, devices):
            await until(lambda: reads(bus))
            disk.fill()
            round_trip = 0
            while "agent/attic: " not in caplog.text:
                # What a device's coming and going writes is small; a full disk shows when the block at hand is.
                round_trip += 1
                devices.now = Sampled((facts(), facts(f"new-{round_trip}")), (state(power_watts=20.0 * round_trip),))
                await asyncio.sleep(0.03)
            devices.now = Sampled((facts(), facts("last")), (state(health="failed"),))
            disk.clear()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await until(lambda: reads(bus, health="failed"), within=30)
        fleet = await said(bus, FLEET)
        ids = [each.envelope.event_id for each in fleet]
        # Every event of this boot, each once, in order.
        assert ids == [f"attic/boot/event-{number}" for number in range(1, len(ids) + 1)]
        assert isinstance(fleet[-1].message, NodeLeft)
        await bus.close()

    with small_disk(folder_for_servers, megabytes=16) as disk, EmbeddedNats(folder_for_servers / "nats") as server:
        asyncio.run(scenario(server))


@pytest.mark.slow
def test_a_stopped_agent_says_that_it_leaves(nats_url: str, tmp_path: Path) -> None:
    with running("agent", "--node-id", "here", log=tmp_path / "log", SHARDBUS_NATS_URL=nats_url) as agent:
        until_sync(lambda: asyncio.run(heard(nats_url)), within=30, what="the agent's first readings")
        assert agent.stop(signal.SIGTERM) == 0
        assert "Traceback" not in agent.said
    state = asyncio.run(read(nats_url))
    assert state.nodes["here"].left_reason == "stopped"
    assert status(state, datetime.now(UTC)) == {"lost"}


@pytest.mark.slow
def test_a_stopped_agent_ends_within_its_patience_where_the_server_is_away(
    nats_restartable: EmbeddedNats, tmp_path: Path
) -> None:
    url = nats_restartable.url
    with running("agent", "--node-id", "here", log=tmp_path / "log", SHARDBUS_NATS_URL=url) as agent:
        until_sync(lambda: asyncio.run(heard(url)), within=30, what="the agent's first readings")
        nats_restartable.kill()
        began = time.monotonic()
        assert agent.stop(signal.SIGTERM) == 0
        # Three seconds are its patience; the rest is an interpreter's end on a machine that is busy.
        assert time.monotonic() - began < 3 + 5
        assert "left without telling" in agent.said
        assert "Traceback" not in agent.said


@pytest.mark.slow
def test_a_killed_agent_is_seen_as_stale_within_15_seconds(nats_url: str, tmp_path: Path) -> None:
    with running("agent", "--node-id", "here", log=tmp_path / "log", SHARDBUS_NATS_URL=nats_url) as agent:
        until_sync(lambda: asyncio.run(heard(nats_url)), within=30, what="the agent's first readings")
        agent.kill()
        killed_at = datetime.now(UTC)
    state = asyncio.run(read(nats_url))
    assert status(state, killed_at) == {"ok"}
    assert status(state, killed_at + timedelta(seconds=15)) == {"stale"}
    # A living one gives its next word a heartbeat after its last; two of them may be lost.
    last = state.node_heard["here"].recorded_at
    assert status(state, last + timedelta(seconds=11.9)) == {"ok"}


async def read(url: str) -> FleetState:
    bus = await nats.connect(url, name="reader")
    try:
        return await folded(bus)
    finally:
        await bus.close()


async def heard(url: str) -> bool:
    with contextlib.suppress(BusError):
        return bool((await read(url)).device_states)
    return False


def status(state: FleetState, now: datetime) -> set[str]:
    (node,) = fleet_of(state, now).nodes
    return {device.status for device in node.devices}
