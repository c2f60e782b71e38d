"""Telemetry is acknowledged before the disk has it: what a crash takes must not linger in the read model."""

import asyncio
import random
import shutil
from pathlib import Path

import pytest
from shardbus_eventstore.live import LiveState
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, GPUBandwidthMeasured, NodeJoined
from shardbus_schemas.model import FrozenModel
from support.histories import START, reading
from support.projecting import assert_read_model_is_the_fold, bus_with_streams, caught_up, projector
from support.waiting import until

pytestmark = pytest.mark.connected


async def say(bus: Bus, *messages: FrozenModel) -> None:
    await bus.append_many(
        [outgoing(message, source="test", event_id=str(random.random()), occurred_at=START) for message in messages]
    )


def ticks(*numbers: int, device: str = "g0") -> list[DeviceGPUStateUpdated]:
    return [
        DeviceGPUStateUpdated(
            node_id="n", boot_id="b", tick=number, states=(reading(device, "n", memory_used_bytes=number),)
        )
        for number in numbers
    ]


def copy_while_stopped(server: EmbeddedNats, source: Path, target: Path) -> None:
    server.stop()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    server.start()


def test_what_a_crash_took_from_telemetry_is_forgotten_and_the_rest_stays(
    nats_restartable: EmbeddedNats, postgres_url: str, tmp_path: Path
) -> None:
    store, older = nats_restartable.data_dir / "jetstream", tmp_path / "older"

    async def scenario() -> None:
        async with bus_with_streams(nats_restartable.url) as bus:
            stop, live = asyncio.Event(), LiveState(bus)
            following = asyncio.create_task(live.run(stop))
            async with projector(bus, postgres_url):
                # Registered, or DEAD gets letters about them, some time or other, and is shortened too.
                devices = [
                    DeviceRegistered(node_id="n", device=DeviceFacts(device_id=device)) for device in ("g0", "gone")
                ]
                await say(bus, NodeJoined(node_id="n", boot_id="b", heartbeat_seconds=10), *devices)
                await say(bus, *ticks(1, 2, 3))
                await caught_up(bus, postgres_url)
                await asyncio.to_thread(copy_while_stopped, nats_restartable, store, older)
                await say(bus, *ticks(4, 5, 6, 7), *ticks(8, device="gone"))
                await caught_up(bus, postgres_url)
                await live.wait_until(TELEMETRY, 8, 20)
                # The server comes back without the last five, and counts on from there.
                await asyncio.to_thread(copy_while_stopped, nats_restartable, older, store)
                link = {"from": "n", "to": "m", "bandwidth_bytes_per_second": 1e9, "latency_seconds": 0.001}
                measured = GPUBandwidthMeasured.model_validate({**link, "measured_at": START})
                await say(bus, *ticks(9), measured)
                await until(lambda: "gone" not in str(live.state.device_states) and live.state.links, within=30)
                await caught_up(bus, postgres_url, within=60)
                state = await assert_read_model_is_the_fold(bus, postgres_url)
                assert [record.reading.memory_used_bytes for record in state.device_states.values()] == [9]
                assert live.state.device_states == state.device_states
                assert live.state.positions[FLEET] == state.positions[FLEET]
            stop.set()
            await following
        with open_engine(postgres_url).connect() as connection:
            (gap,) = queries.gaps(connection)
        # Which of 4 to 8 were given again before anybody looked, nobody can tell.
        assert (gap.stream, gap.to_sequence) == (TELEMETRY, 8)

    asyncio.run(scenario())
