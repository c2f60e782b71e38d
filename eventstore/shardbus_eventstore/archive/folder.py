"""The files of an archive: each appears whole or not at all, whenever the writer is interrupted.

``FOLDER/<STREAM>/manifest.json`` names the segments beside it. A segment is written under another name, flushed to the
disk, and renamed; only then does a new manifest, written likewise, name it. What no manifest names is nothing.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from shardbus_infra.bus.port import Stored
from shardbus_schemas.problems import explain

from shardbus_eventstore.archive.errors import ArchiveDamagedError, ArchiveError, ArchiveInUseError
from shardbus_eventstore.archive.manifest import NAME, Manifest, Segment, file_name
from shardbus_eventstore.archive.segment import SUFFIX, BadSegmentError, pack, unpack

_TEMPORARY: Final = ".writing"
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True)
class Files:
    """The folder of an archive."""

    root: Path
    step: Callable[[str], None] = lambda _: None
    """Called before each change on the disk: where a test lets the power fail."""

    def streams(self) -> Sequence[str]:
        """Return the streams that are archived here; raise ArchiveError if this is no archive."""
        if not self.root.is_dir():
            raise ArchiveError(f"{self.root}: no such folder; `shardbus archive {self.root}` makes an archive")
        found = sorted(file.parent.name for file in self.root.glob(f"*/{NAME}"))
        if not found:
            raise ArchiveError(f"{self.root}: not an archive, or an empty one: no folder in it has a {NAME}")
        return found

    def manifest(self, stream: str) -> Manifest | None:
        """Return what is archived of ``stream``, ``None`` if nothing is; raise ArchiveDamagedError."""
        file = self.root / stream / NAME
        try:
            manifest = Manifest.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ArchiveDamagedError(f"{file}: not a manifest of this version: {explain(error, Manifest)}") from error
        if manifest.stream != stream:
            raise ArchiveDamagedError(f"{file}: it is the manifest of {manifest.stream}; was a folder renamed?")
        return manifest

    def read(self, stream: str, segment: Segment) -> Sequence[Stored]:
        """Return a segment's messages; raise ArchiveDamagedError unless they are exactly what was written."""
        file = self.root / stream / segment.file
        data = file.read_bytes()  # FileNotFoundError: a later run may have put another in its place
        if len(data) != segment.bytes or hashlib.sha256(data).hexdigest() != segment.sha256:
            raise ArchiveDamagedError(
                f"{file}: damaged: it has {len(data)} bytes and not the contents that {NAME} names; "
                "restore this file from a copy of the archive"
            )
        try:
            found = unpack(data, stream)
        except BadSegmentError as error:
            raise ArchiveDamagedError(f"{file}: {error}") from error
        sequences = [stored.sequence for stored in found]
        fits = len(found) == segment.count and (sequences[0], sequences[-1]) == (segment.first, segment.last)
        if not fits or any(a >= b for a, b in pairwise(sequences)):
            raise ArchiveDamagedError(f"{file}: its messages are not those that {NAME} names")
        return found

    def write_segment(self, stream: str, lines: Iterable[bytes], messages: Sequence[Stored]) -> Segment:
        """Write a segment and return its entry; until a manifest names it, it is nothing."""
        data = pack(lines)
        name = file_name(messages[0].sequence, messages[-1].sequence)
        self._replace(self.root / stream / name, data)
        times = [stored.recorded_at for stored in messages]
        return Segment(
            file=name,
            first=messages[0].sequence,
            last=messages[-1].sequence,
            count=len(messages),
            bytes=len(data),
            payload_bytes=sum(len(stored.payload) for stored in messages),
            sha256=hashlib.sha256(data).hexdigest(),
            recorded_from=min(times),
            recorded_to=max(times),
        )

    def write_manifest(self, manifest: Manifest) -> None:
        """Put the manifest in the place of the former one."""
        text = manifest.model_dump_json(indent=1).encode() + b"\n"
        self._replace(self.root / manifest.stream / NAME, text)

    def make(self, stream: str) -> None:
        """Make the stream's folder."""
        (self.root / stream).mkdir(parents=True, exist_ok=True)

    def tidy(self, stream: str, manifest: Manifest | None) -> None:
        """Remove what an interrupted run left behind: segments that no manifest names, and half-written files."""
        named = {segment.file for segment in manifest.segments} if manifest else set[str]()
        for file in (self.root / stream).iterdir():
            if file.name.endswith(_TEMPORARY) or (file.name.endswith(SUFFIX) and file.name not in named):
                self.step(f"remove {file.name}")
                file.unlink()

    def put_aside(self, stream: str, segments: Sequence[Segment], folder: str) -> None:
        """Give files a second name in a folder beside, where only a person will find them."""
        aside = self.root / stream / folder
        aside.mkdir(exist_ok=True)
        for segment in segments:
            self.step(f"put aside {segment.file}")
            target = aside / segment.file
            if not target.exists():
                os.link(self.root / stream / segment.file, target)
        _flush(aside)

    @contextmanager
    def writing(self) -> Generator[None]:
        """Hold the archive for this process alone; raise ArchiveInUseError, ArchiveError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / _LOCK).open("w")
        except OSError as error:
            raise ArchiveError(f"{self.root}: cannot be written: {error.strerror or error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArchiveInUseError(
                    f"{self.root}: another process writes to this archive; let it finish"
                ) from error
            yield

    def _replace(self, file: Path, data: bytes) -> None:
        temporary = file.with_name(file.name + _TEMPORARY)
        self.step(f"write {file.name}")
        with temporary.open("wb") as opened:
            half = len(data) // 2
            opened.write(data[:half])
            self.step(f"write the rest of {file.name}")
            opened.write(data[half:])
            opened.flush()
            os.fsync(opened.fileno())
        self.step(f"rename {file.name}")
        temporary.replace(file)
        _flush(file.parent)
        self.step(f"renamed {file.name}")


def _flush(folder: Path) -> None:
    """Let the disk have the folder's names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
