"""A projector whose servers are away for a while catches up, and takes no more memory for what waited."""

import asyncio
import time
from pathlib import Path

import pytest
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from sqlalchemy import create_engine, text
from support.outages import introductions, position_reader, projector, publish_ticks, reached, watched_memory
from support.projecting import bus_with_streams

pytestmark = [pytest.mark.connected, pytest.mark.slow]

MEBIBYTE = 2**20
MOST_BYTES = 240 * MEBIBYTE
"""It takes 147 MiB before an outage and about 50 more for the transaction in hand, however much waits."""
BACKLOG_TICKS = 60
"""Of 50 nodes with 8 devices: 24,000 readings. The benchmark of outages has an hour of them."""


def test_what_waited_while_postgres_was_away_is_projected_once_with_flat_memory(
    nats_url: str, postgres_restartable: EmbeddedPostgres, tmp_path: Path
) -> None:
    async def scenario() -> None:
        postgres_url = postgres_restartable.url
        read = position_reader(postgres_url)
        async with bus_with_streams(nats_url) as bus:
            await bus.append_many(list(introductions()))
            first = await publish_ticks(bus, 0, 20)
            with (
                projector(nats_url, postgres_url, tmp_path / "log") as running,
                watched_memory(running.process.pid) as memory,
            ):
                await reached(read, 20 * 50, within=60)
                await asyncio.to_thread(postgres_restartable.kill)
                waiting = await publish_ticks(bus, 20, 20 + BACKLOG_TICKS)
                assert running.alive, running.said
                await asyncio.to_thread(postgres_restartable.start)
                back = time.monotonic()
                await reached(read, (20 + BACKLOG_TICKS) * 50, within=60)
            assert memory.most(since=back) <= MOST_BYTES
        assert past_readings(postgres_url) == (first + waiting, first + waiting)

    asyncio.run(scenario())


def test_a_projector_outlives_its_bus_and_takes_what_comes_afterwards(
    nats_restartable: EmbeddedNats, postgres_url: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        read = position_reader(postgres_url)
        async with bus_with_streams(nats_restartable.url) as bus:
            await bus.append_many(list(introductions()))
            first = await publish_ticks(bus, 0, 20)
            with (
                projector(nats_restartable.url, postgres_url, tmp_path / "log") as running,
                watched_memory(running.process.pid) as memory,
            ):
                await reached(read, 20 * 50, within=60)
                # Politely: a killed server may forget telemetry, which is another test's matter.
                await asyncio.to_thread(nats_restartable.stop)
                await asyncio.to_thread(nats_restartable.start)
                waiting = await publish_ticks(bus, 20, 20 + BACKLOG_TICKS)
                await reached(read, (20 + BACKLOG_TICKS) * 50, within=60)
            assert memory.most() <= MOST_BYTES
        assert past_readings(postgres_url) == (first + waiting, first + waiting)

    asyncio.run(scenario())


def past_readings(postgres_url: str) -> tuple[int, int]:
    """Return how many past readings there are, and how many different ones."""
    engine = create_engine(postgres_url)
    query = text("SELECT count(*), count(DISTINCT (sequence, device_id)) FROM shardbus.device_history")
    with engine.connect() as connection:
        row = connection.execute(query).one()
    engine.dispose()
    return row[0], row[1]
