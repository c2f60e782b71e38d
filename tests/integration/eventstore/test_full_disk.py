"""A disk that runs full under Postgres: the projector waits, and nothing is lost."""

import asyncio
import random
from pathlib import Path

import pytest
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import TELEMETRY
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from support.histories import reading
from support.projecting import assert_read_model_is_the_fold, bus_with_streams, caught_up, positions, projector
from support.small_disk import small_disk

pytestmark = [pytest.mark.connected, pytest.mark.slow]

DEVICES = 40


def test_a_disk_that_is_full_under_postgres_holds_the_projector_up_and_loses_nothing(
    nats_url: str, folder_for_servers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(postgres: EmbeddedPostgres) -> None:
        async with bus_with_streams(nats_url) as bus, projector(bus, postgres.url, projector_max_batch=20):
            await publish(bus, NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=4), source="test")
            for index in range(DEVICES):
                device = DeviceFacts(device_id=f"g{index}")
                await publish(bus, DeviceRegistered(node_id="n1", device=device), source="test")
            await caught_up(bus, postgres.url)
            disk.fill()
            draw, ticks = random.Random(1), 0
            while "is interrupted" not in caplog.text:
                ticks += 1
                states = tuple(
                    reading(f"g{index}", "n1", memory_used_bytes=draw.randrange(2**40)) for index in range(DEVICES)
                )
                update = DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=ticks, heartbeat=True, states=states)
                await publish(bus, update, source="test")
            behind = await asyncio.to_thread(positions, postgres.url)
            assert behind.get(TELEMETRY, 0) < ticks
            disk.clear()
            if postgres.pid is None:  # a server that cannot write its log ahead ends itself
                await asyncio.to_thread(postgres.start)
            await caught_up(bus, postgres.url)
            state = await assert_read_model_is_the_fold(bus, postgres.url)
            assert len(state.device_states) == DEVICES

    with small_disk(folder_for_servers, megabytes=400) as disk, EmbeddedPostgres(folder_for_servers / "pg") as postgres:
        asyncio.run(scenario(postgres))
