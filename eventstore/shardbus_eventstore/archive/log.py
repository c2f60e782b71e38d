"""An archive, read as if it were the bus: whatever reads a ``Log`` reads it."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

from shardbus_infra.bus.port import (
    BusUnreachableError,
    Stored,
    StreamInfo,
    StreamMissingError,
    StreamReplacedError,
    StreamShortenedError,
)
from shardbus_schemas.subjects import matches

from shardbus_eventstore.archive.errors import ArchiveDamagedError
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.manifest import Manifest, Segment

_REMEMBERED: Final = 2
"""Segments held in memory: one that is followed, one that single messages are looked up in."""
_LOOK_SECONDS: Final = 1.0
"""How often who follows looks for what a later run of the archiver added."""


class ArchiveLog:
    """Reads the archive in a folder. Each segment is checked against its sum before anything of it is used."""

    def __init__(self, root: Path) -> None:
        """Look into ``root``; raise ArchiveError if it is no archive."""
        self._files = Files(root)
        self._files.streams()
        self._manifests: dict[str, Manifest] = {}
        self._read: OrderedDict[str, Sequence[Stored]] = OrderedDict()
        self._closed = asyncio.Event()

    def streams(self) -> Sequence[str]:
        """Return the names of the archived streams."""
        return self._files.streams()

    async def follow(
        self,
        stream: str,
        *,
        start_sequence: int = 1,
        subjects: Sequence[str] = (),
        max_batch: int = 5000,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[Stored], None]:
        """Yield batches in stream order; see ``Log.follow``. At the end it waits for a later run of the archiver."""
        manifest = self._latest(stream)
        created, position = manifest.created, start_sequence - 1
        while not self._closed.is_set():
            index = manifest.index_from(position + 1)
            if index < len(manifest.segments):
                segment = manifest.segments[index]
                messages = await self._messages(stream, segment)
                if messages is None:
                    manifest = self._latest(stream)
                    continue
                wanted = [
                    stored
                    for stored in messages
                    if stored.sequence > position
                    and (not subjects or any(matches(pattern, stored.subject) for pattern in subjects))
                ]
                for start in range(0, len(wanted), max_batch):
                    if self._closed.is_set():
                        return
                    yield wanted[start : start + max_batch]
                position = segment.last
                continue
            if await self._closes_within(_LOOK_SECONDS if idle_seconds is None else idle_seconds):
                return
            manifest = self._latest(stream)
            if manifest.created != created:
                raise StreamReplacedError(
                    f"the archive of {stream} in {self._files.root} was made anew while it was read"
                )
            if manifest.last_sequence < position:
                raise StreamShortenedError(
                    f"the archive of {stream} in {self._files.root} was cut back while it was read"
                )
            if idle_seconds is not None and manifest.index_from(position + 1) == len(manifest.segments):
                yield []

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return one message, or ``None`` if the archive does not have it."""
        for manifest in (self._known(stream), self._latest(stream)):
            segment = manifest.holding(sequence)
            if segment is None:
                continue
            messages = await self._messages(stream, segment)
            if messages is not None:
                return next((stored for stored in messages if stored.sequence == sequence), None)
        return None

    async def last(self, stream: str, subjects: str) -> Stored | None:
        """Return the newest message whose subject matches; it may have to read the whole archive for it."""
        manifest = self._latest(stream)
        for segment in reversed(manifest.segments):
            for stored in reversed(await self._messages(stream, segment) or ()):
                if matches(subjects, stored.subject):
                    return stored
        return None

    async def info(self, stream: str) -> StreamInfo:
        """Return the stream's identity, and the extent of its archive."""
        manifest = self._latest(stream)
        return StreamInfo(
            name=stream,
            created=manifest.created,
            first_sequence=manifest.segments[0].first if manifest.segments else manifest.last_sequence + 1,
            last_sequence=manifest.last_sequence,
            messages=manifest.messages,
            bytes=sum(segment.payload_bytes for segment in manifest.segments),
        )

    async def close(self) -> None:
        """End the follows. Idempotent."""
        self._closed.set()
        self._read.clear()

    async def _closes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return False
        return True

    def _known(self, stream: str) -> Manifest:
        return self._manifests.get(stream) or self._latest(stream)

    def _latest(self, stream: str) -> Manifest:
        if self._closed.is_set():
            raise BusUnreachableError(f"the archive in {self._files.root} is closed")
        manifest = self._files.manifest(stream)
        if manifest is None:
            raise StreamMissingError(
                f"the archive in {self._files.root} has no stream {stream}; it has {', '.join(self._files.streams())}"
            )
        self._manifests[stream] = manifest
        return manifest

    async def _messages(self, stream: str, segment: Segment) -> Sequence[Stored] | None:
        """Return a segment's messages, or ``None`` if a later run has put another in its place."""
        key = f"{stream}/{segment.file}/{segment.sha256}"
        if key in self._read:
            self._read.move_to_end(key)
            return self._read[key]
        try:
            messages = await asyncio.to_thread(self._files.read, stream, segment)
        except FileNotFoundError as error:
            if segment in self._latest(stream).segments:
                remedy = "restore it from a copy of the archive"
                raise ArchiveDamagedError(
                    f"{error.filename}: missing, though the manifest names it; {remedy}"
                ) from error
            return None
        self._read[key] = messages
        while len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)
        return messages
