"""Streams to archive, and archives of them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shardbus_eventstore.archive.archiver import Archived, Limits, archive
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.log import ArchiveLog
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Log, Outgoing, Stored
from shardbus_infra.bus.streams import FLEET

NODE = "shardbus.v1.event.node"
SMALL = Limits(messages=4, bytes=10_000)


class Ticking:
    """A clock that is a little later at each look."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=7)
        return self.now


def bus_with(count: int) -> MemoryBus:
    """Return a bus whose ``FLEET`` holds so many messages."""
    bus = MemoryBus(now=Ticking())
    say(bus, count)
    return bus


def say(bus: MemoryBus, count: int, text: str = "") -> None:
    """Append so many messages more."""
    start = bus.server.log(FLEET).last_sequence
    for number in range(start + 1, start + count + 1):
        bus.server.append(Outgoing(f"{NODE}.n{number % 3}", f"{text}{number}".encode(), {"number": str(number)}), None)


def archived(
    log: Log, root: Path, streams: Sequence[str] = (FLEET,), *, limits: Limits = SMALL, files: Files | None = None
) -> Sequence[Archived]:
    """Run the archiver once."""
    return asyncio.run(archive(log, files or Files(root), streams, limits=limits, now=Ticking()))


def read_back(root: Path, stream: str = FLEET) -> list[Stored]:
    """Return all that an archive holds of a stream, as a reader gets it."""

    async def read() -> list[Stored]:
        log, found = ArchiveLog(root), list[Stored]()
        info = await log.info(stream)
        batches = log.follow(stream, max_batch=3, idle_seconds=0)
        async for batch in batches:
            found += batch
            if not batch:
                break
        await batches.aclose()
        assert len(found) == info.messages
        await log.close()
        return found

    return asyncio.run(read())
