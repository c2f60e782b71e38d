"""``story INSTANCE`` on a real server and from its archive: one life, from the asking to the end."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from shardbus_eventstore.archive.archiver import archive
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.log import ArchiveLog
from shardbus_eventstore.life import Life
from shardbus_eventstore.life_reading import read_life
from support.command_line import document, shardbus_here
from support.lives import NAME, eventful
from support.projecting import bus_with_streams

pytestmark = pytest.mark.connected


def test_a_life_is_told_from_nats_and_the_same_from_its_archive(nats_url: str, tmp_path: Path) -> None:
    told = eventful()
    now = datetime(2126, 1, 1, tzinfo=UTC)

    async def scenario() -> Life | None:
        async with bus_with_streams(nats_url) as bus:
            await told.publish(bus)
            life = await read_life(bus, NAME, now)
            assert await read_life(bus, "nobody", now) is None
            await archive(bus, Files(tmp_path))
            log = ArchiveLog(tmp_path)
            assert await read_life(log, NAME, now) == life
            await log.close()
            return life

    life, as_written = asyncio.run(scenario()), told.life()
    assert life is not None
    assert as_written is not None
    assert [(one.kind, one.sequence) for one in life.moments] == [
        (one.kind, one.sequence) for one in as_written.moments
    ]
    assert all(one.because is not None for one in life.moments if one.kind not in ("shard", "elsewhere"))

    text = shardbus_here("story", NAME, "--archive", tmp_path, SHARDBUS_POSTGRES_URL="postgresql://127.0.0.1:1/x")
    assert text.returncode == 0, text.stderr
    for said in (
        "asked\n  Place cli-1",
        f"the life of {NAME}: llama-3.3-70b-4bit, priority 5",
        "placed        on rig/cuda:0 [0-39], rig/cuda:1 [40-79]: 11.2 tokens/s predicted",
        "why: rig/cuda:1 was lost with 40 of its 80 layers",
        "asked for by console/ben: place deepseek-r1-distill with priority 10",
        "moved 6 times, 1 shard failure",
        "deleted, since ",
    ):
        assert said in text.stdout
    told_json = document(shardbus_here("story", NAME, "--json", SHARDBUS_NATS_URL=nats_url))
    assert told_json["life"]["totals"]["moves"] == 6
    assert told_json["answer"]["instance_id"] == NAME
