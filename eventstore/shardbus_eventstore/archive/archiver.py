"""Streams into files: what is new since the last run, in segments that are closed one by one."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from shardbus_infra.bus.port import Log, Stored, StreamInfo
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY

from shardbus_eventstore.archive.errors import ArchiveMismatchError
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.manifest import Gap, Manifest, Segment
from shardbus_eventstore.archive.segment import line_of

STREAMS: Final = (TELEMETRY, FLEET, DEAD)
"""What can be archived. ``COMMANDS`` is a queue: its messages go when they are answered."""

_BATCH = 2000
_IDLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """When a segment is closed. Both bound the memory, too: one segment is held at a time."""

    messages: int = 10_000
    bytes: int = 16 * 2**20
    """Of its lines, before they are compressed."""


@dataclass(frozen=True, slots=True)
class Archived:
    """What one run did to one stream."""

    stream: str
    new: int
    """Messages."""
    manifest: Manifest
    gaps: Sequence[Gap] = ()
    """What was gone before it could be archived."""
    put_aside: str | None = None
    """The folder with segments that the stream disowned."""


def _now() -> datetime:
    return datetime.now(UTC)


async def archive(
    log: Log,
    files: Files,
    streams: Sequence[str] = STREAMS,
    *,
    limits: Limits = Limits(),
    progress: Callable[[str, int, int], None] = lambda _stream, _done, _total: None,
    now: Callable[[], datetime] = _now,
) -> Sequence[Archived]:
    """Append to the archive what the streams hold now and it does not, and return what was done.

    Interrupted at any moment it loses no more than the segment in hand; the next run goes on from there. Raises
    ArchiveError and its kinds, BusError, OSError.
    """
    with files.writing():
        return [await _Run(log, files, stream, limits, progress, now).run() for stream in streams]


@dataclass(slots=True)
class _Run:
    """One run over one stream."""

    log: Log
    files: Files
    stream: str
    limits: Limits
    progress: Callable[[str, int, int], None]
    now: Callable[[], datetime]
    _lines: list[bytes] = field(default_factory=list[bytes])
    _open: list[Stored] = field(default_factory=list[Stored])
    """The messages of the segment in hand."""
    _open_bytes: int = 0
    _reopened: Segment | None = None
    """A short segment at the end, which the one in hand begins with and will replace."""
    _gaps: list[Gap] = field(default_factory=list[Gap])

    async def run(self) -> Archived:
        info = await self.log.info(self.stream)
        self.files.make(self.stream)
        manifest = self.files.manifest(self.stream)
        self.files.tidy(self.stream, manifest)
        if manifest is None:
            manifest = Manifest(stream=self.stream, created=info.created)
        known = len(manifest.lost)
        manifest = await self._of_this_stream(manifest, info)
        before, gaps_before = manifest.messages, len(manifest.gaps)
        manifest = await self._append(manifest, info.last_sequence)
        return Archived(
            self.stream,
            manifest.messages - before,
            manifest,
            manifest.gaps[gaps_before:],
            manifest.lost[-1].folder if len(manifest.lost) > known else None,
        )

    async def _of_this_stream(self, manifest: Manifest, info: StreamInfo) -> Manifest:
        """Return the manifest, cut back to what this stream has in common with it; raise ArchiveMismatchError."""
        folder = self.files.root / self.stream
        if manifest.created != info.created:
            raise ArchiveMismatchError(
                f"{folder} is the archive of a {self.stream} that was made on {manifest.created:%Y-%m-%d %H:%M:%S}Z; "
                f"the one on the bus was made on {info.created:%Y-%m-%d %H:%M:%S}Z, and counts anew: "
                "archive it to another folder"
            )
        kept = len(manifest.segments)
        while kept and await self._differs(manifest.segments[kept - 1], info):
            kept -= 1
        if kept == len(manifest.segments) and info.last_sequence >= manifest.last_sequence:
            return manifest
        if self.stream != TELEMETRY:
            raise ArchiveMismatchError(
                f"{folder} holds {self.stream} up to {manifest.last_sequence}, and the bus does not have the same: "
                "it was restored from an older backup, or is another system's. Nothing was written; archive it to "
                "another folder, and keep this one: it may hold what the bus lost"
            )
        if kept == len(manifest.segments):  # nothing archived is wrong, but the stream was looked at beyond its end
            return manifest.model_copy(
                update={
                    "last_sequence": max([0, *(one.last for one in manifest.segments)]),
                    "gaps": tuple(gap for gap in manifest.gaps if gap.last <= info.last_sequence),
                }
            )
        aside = f"lost-{self.now():%Y%m%dT%H%M%S}"
        self.files.put_aside(self.stream, manifest.segments[kept:], aside)
        cut = manifest.cut_back(kept, self.now(), aside)
        self.files.write_manifest(cut)
        self.files.tidy(self.stream, cut)
        return cut

    async def _differs(self, segment: Segment, info: StreamInfo) -> bool:
        """Return whether the stream holds another message, or none yet, where the segment ends."""
        if segment.last > info.last_sequence:
            return True
        there = await self.log.get(self.stream, segment.last)
        if there is None:
            return False  # trimmed since: then it is old, and not of the tail that a crash takes
        return there != self.files.read(self.stream, segment)[-1]

    async def _append(self, manifest: Manifest, end: int) -> Manifest:
        if end <= manifest.last_sequence:
            if not (self.files.root / self.stream / "manifest.json").exists():
                self.files.write_manifest(manifest)  # an empty stream is known to be empty
            return manifest
        start, total = manifest.last_sequence, end - manifest.last_sequence
        self._reopen(manifest)
        position = start
        async with aclosing(self._messages(start + 1, end)) as messages:
            async for stored in messages:
                self._note_gap(position + 1, stored.sequence - 1)
                position = stored.sequence
                self._take(stored)
                if len(self._open) >= self.limits.messages or self._open_bytes >= self.limits.bytes:
                    manifest = await self._close(manifest, position)
                    self.progress(self.stream, position - start, total)
        self._note_gap(position + 1, end)
        manifest = await self._close(manifest, end)
        self.progress(self.stream, total, total)
        return manifest

    async def _messages(self, start: int, end: int) -> AsyncGenerator[Stored, None]:
        """Yield what the stream holds from ``start`` to ``end``."""
        batches = self.log.follow(self.stream, start_sequence=start, max_batch=_BATCH, idle_seconds=_IDLE_SECONDS)
        async with aclosing(batches):
            async for batch in batches:
                for stored in batch:
                    if stored.sequence > end:
                        return
                    yield stored
                    if stored.sequence == end:
                        return
                if not batch and await self.log.get(self.stream, end) is None:
                    return  # the tail was trimmed before we came to it

    def _reopen(self, manifest: Manifest) -> None:
        """Begin with the messages of a short last segment: runs by the minute shall not make a file by the minute."""
        last = manifest.segments[-1] if manifest.segments else None
        if last is None or last.count >= self.limits.messages:
            return
        for stored in self.files.read(self.stream, last):
            self._take(stored)
        if self._open_bytes >= self.limits.bytes:
            self._open, self._lines, self._open_bytes = [], [], 0
        else:
            self._reopened = last

    def _take(self, stored: Stored) -> None:
        line = line_of(stored)
        self._open.append(stored)
        self._lines.append(line)
        self._open_bytes += len(line)

    def _note_gap(self, first: int, last: int) -> None:
        if first <= last:
            self._gaps.append(Gap(first=first, last=last, noticed_at=self.now()))

    async def _close(self, manifest: Manifest, position: int) -> Manifest:
        """Write the segment in hand and name it in the manifest."""
        lines, messages, gaps, replaced = self._lines, self._open, tuple(self._gaps), self._reopened
        self._lines, self._open, self._open_bytes, self._gaps, self._reopened = [], [], 0, [], None

        def write() -> Manifest:
            segment = self.files.write_segment(self.stream, lines, messages) if messages else None
            grown = manifest.grown(segment, gaps, position, instead_of=0 if replaced is None else 1)
            self.files.write_manifest(grown)
            self.files.tidy(self.stream, grown)
            return grown

        # In a thread, so that a slow disk does not cost the connection to the bus.
        return await asyncio.to_thread(write)
