"""Whether an archive is whole: every file read, every sum and every sequence checked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shardbus_eventstore.archive.errors import ArchiveDamagedError
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.manifest import Manifest
from shardbus_eventstore.archive.segment import SUFFIX


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found of one stream; ``problems`` are empty if its archive is whole."""

    stream: str
    manifest: Manifest | None
    problems: tuple[str, ...]


def verify(
    files: Files, progress: Callable[[str, int, int], None] = lambda _stream, _done, _total: None
) -> list[Verified]:
    """Read the whole archive and return what is wrong with it; raise ArchiveError if there is none."""
    return [_verified(files, stream, progress) for stream in files.streams()]


def _verified(files: Files, stream: str, progress: Callable[[str, int, int], None]) -> Verified:
    try:
        manifest = files.manifest(stream)
    except ArchiveDamagedError as error:
        return Verified(stream, None, (str(error),))
    assert manifest is not None  # ``streams`` names only those that have one
    return Verified(stream, manifest, tuple(_problems(files, manifest, progress)))


def _problems(files: Files, manifest: Manifest, progress: Callable[[str, int, int], None]) -> Iterator[str]:
    folder = files.root / manifest.stream
    for done, segment in enumerate(manifest.segments, start=1):
        try:
            files.read(manifest.stream, segment)
        except FileNotFoundError:
            yield f"{folder / segment.file}: missing"
        except ArchiveDamagedError as error:
            yield str(error)
        progress(manifest.stream, done, len(manifest.segments))
    for hole in manifest.unaccounted():
        yield f"{folder}: neither a segment nor a gap has the sequences {hole.first} to {hole.last}"
    named = {segment.file for segment in manifest.segments}
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        if file.name not in named:
            yield f"{file}: no manifest names it; an interrupted run left it, and the next one removes it"
