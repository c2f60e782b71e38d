"""Reading an archive while it grows, and what a reader is told of one that changed under it."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from shardbus_eventstore.archive.archiver import archive
from shardbus_eventstore.archive.errors import ArchiveDamagedError, ArchiveError
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.log import ArchiveLog
from shardbus_eventstore.live import read_state
from shardbus_eventstore.past_decisions import past_decisions
from shardbus_infra.bus.port import StreamMissingError, StreamReplacedError, StreamShortenedError
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from support.archives import SMALL, archived, bus_with, say
from support.simulated_decisions import Day


def test_who_follows_gets_what_a_later_run_added(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = bus_with(2)
        await archive(bus, Files(tmp_path), (FLEET,), limits=SMALL)
        log = ArchiveLog(tmp_path)
        async with aclosing(log.follow(FLEET, idle_seconds=0.01)) as batches:
            assert len(await anext(batches)) == 2
            assert list(await anext(batches)) == []
            say(bus, 4)
            await archive(bus, Files(tmp_path), (FLEET,), limits=SMALL)  # the short file's place is taken by another
            found = [stored.sequence for _ in range(2) for stored in await anext(batches)]
            assert found == [3, 4, 5, 6]

    asyncio.run(scenario())


def test_a_reader_with_an_old_manifest_finds_the_file_that_took_the_place_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = bus_with(2)
        await archive(bus, Files(tmp_path), (FLEET,), limits=SMALL)
        log = ArchiveLog(tmp_path)
        await log.info(FLEET)  # it has the manifest now, and not yet the file
        say(bus, 1)
        await archive(bus, Files(tmp_path), (FLEET,), limits=SMALL)
        assert await log.get(FLEET, 1) == await bus.get(FLEET, 1)
        assert await log.get(FLEET, 3) == await bus.get(FLEET, 3)

    asyncio.run(scenario())


def test_who_follows_is_told_of_an_archive_made_anew_or_cut_back(tmp_path: Path) -> None:
    async def follow_over(change: str) -> None:
        root = tmp_path / change
        (done,) = await archive(bus_with(6), Files(root), (FLEET,), limits=SMALL)
        async with aclosing(ArchiveLog(root).follow(FLEET, idle_seconds=0.01)) as batches:
            assert len(await anext(batches)) == 4
            assert len(await anext(batches)) == 2
            manifest = done.manifest
            if change == "anew":
                manifest = manifest.model_copy(update={"created": manifest.created.replace(year=2001)})
            else:
                manifest = manifest.cut_back(1, manifest.created, "lost")
            Files(root).write_manifest(manifest)
            await anext(batches)

    with pytest.raises(StreamReplacedError, match="made anew"):
        asyncio.run(follow_over("anew"))
    with pytest.raises(StreamShortenedError, match="cut back"):
        asyncio.run(follow_over("cut"))


def test_a_missing_file_is_named_and_a_missing_stream_too(tmp_path: Path) -> None:
    archived(bus_with(10), tmp_path)
    (tmp_path / FLEET / "000000000001-000000000004.jsonl.zst").unlink()

    async def scenario() -> None:
        log = ArchiveLog(tmp_path)
        with pytest.raises(ArchiveDamagedError, match=r"000000000001.*missing"):
            await log.get(FLEET, 1)
        assert (await log.get(FLEET, 5)) is not None
        with pytest.raises(StreamMissingError, match="has no stream TELEMETRY; it has FLEET"):
            await log.info(TELEMETRY)

    asyncio.run(scenario())
    with pytest.raises(ArchiveError, match="no such folder"):
        ArchiveLog(tmp_path / "nowhere")


def test_the_state_and_the_decisions_of_an_archive_are_those_of_the_bus(tmp_path: Path) -> None:
    day = Day(5)
    day.run(15)

    async def scenario() -> None:
        await archive(day.bus, Files(tmp_path), limits=SMALL)
        live, decided = await read_state(day.bus), [one async for one in past_decisions(day.bus)]
        for stream in (TELEMETRY, FLEET):
            day.bus.server.log(stream).messages.clear()
        log = ArchiveLog(tmp_path)
        assert await read_state(log) == live
        assert [one async for one in past_decisions(log)] == decided
        await log.close()

    asyncio.run(scenario())
