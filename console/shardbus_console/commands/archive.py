"""``shardbus archive``: the streams as compressed files, to keep and to read again."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.bus.port import BusUnreachableError
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.units import bytes_text

from shardbus_console.commands.history import Stream
from shardbus_console.connection import open_bus, settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import Progress, data, print_json, print_table, say

if TYPE_CHECKING:
    from shardbus_eventstore.archive.archiver import Archived
    from shardbus_eventstore.archive.manifest import Manifest
    from shardbus_eventstore.archive.verify import Verified

_RIGHT = frozenset({"new", "messages", "files", "size", "gaps"})


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(archive)


def archive(
    folder: Annotated[Path, typer.Argument(help="Where the archive is, or is to be.")],
    *,
    stream: Annotated[list[Stream] | None, typer.Option(help="Only this stream; may be repeated.")] = None,
    every: Annotated[
        float | None,
        typer.Option("--every", metavar="SECONDS", min=1, help="Go on, with a run so often, until interrupted."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Write nothing; check that the archive is whole.")] = False,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Write the streams into compressed, checked files.

    Run again, it appends what is new. Interrupted at any moment, the next run goes on. What NATS trimmed before it was
    archived is noted as a gap. The other commands read the archive with --archive FOLDER. With --verify each file and
    each sum is checked, and the exit code is 1 if anything is wrong.
    """
    with needs("projector"):
        from shardbus_eventstore.archive import archiver
    if verify:
        if every is not None or stream:
            raise CommandError("--verify checks the whole archive, once: it has no --every and no --stream")
        _verify(folder, json=json)
        return
    chosen = [one.name for one in stream or ()]
    streams = [name for name in archiver.STREAMS if name in chosen or not chosen]
    settings = settings_for(CommonSettings, nats_url=nats_url)

    def tell(done: "Sequence[Archived]") -> None:
        if json:
            print_json([_document(one) for one in done])
        else:
            _print(folder, done)

    if every is None:
        tell(asyncio.run(_archive(settings, folder, streams)))
        return
    say(f"archiving into {folder} every {every:g} s; Ctrl-C stops")
    while True:
        began = time.monotonic()
        try:
            done = asyncio.run(_archive(settings, folder, streams))
        except BusUnreachableError as error:
            say(f"{error}; the next run tries again")
        else:
            if any(one.new for one in done):
                tell(done)
        time.sleep(max(0, began + every - time.monotonic()))


async def _archive(settings: CommonSettings, folder: Path, streams: Sequence[str]) -> "Sequence[Archived]":
    from shardbus_eventstore.archive import archiver
    from shardbus_eventstore.archive.folder import Files

    shown: dict[str, Progress] = {}

    def progress(stream: str, done: int, total: int) -> None:
        shown.setdefault(stream, Progress(f"messages of {stream}"))(done, total)
        if done == total:
            shown[stream].end()

    async with open_bus(settings) as bus:
        return await archiver.archive(bus, Files(folder), streams, progress=progress)


def _verify(folder: Path, *, json: bool) -> None:
    from shardbus_eventstore.archive.folder import Files
    from shardbus_eventstore.archive.verify import verify

    progress = Progress("files")
    found = verify(Files(folder), lambda _, done, total: progress(done, total))
    progress.end()
    problems = [problem for one in found for problem in one.problems]
    if json:
        print_json([_verdict(one) for one in found])
    else:
        print_table(None, [_row(one.manifest) for one in found if one.manifest], right=_RIGHT)
        for problem in problems:
            say(problem)
        if not problems:
            data.print("whole: every file has the contents that it was written with")
    if problems:
        raise typer.Exit(Exit.FAILED)


def _verdict(one: "Verified") -> dict[str, object]:
    return {"stream": one.stream, "problems": one.problems, "manifest": one.manifest}


def _document(one: "Archived") -> dict[str, object]:
    return {
        "stream": one.stream,
        "new": one.new,
        "messages": one.manifest.messages,
        "last_sequence": one.manifest.last_sequence,
        "files": len(one.manifest.segments),
        "bytes": sum(segment.bytes for segment in one.manifest.segments),
        "gaps": list(one.gaps),
        "put_aside": one.put_aside,
    }


def _print(folder: Path, done: "Sequence[Archived]") -> None:
    print_table(None, [{"new": one.new, **_row(one.manifest)} for one in done], right=_RIGHT)
    for one in done:
        for gap in one.gaps:
            say(f"{one.stream} {gap.first} to {gap.last}: gone before it was archived; noted as a gap")
        if one.put_aside:
            say(
                f"{one.stream} lost readings that were archived, and gave their sequences to others; their files are "
                f"in {folder / one.stream / one.put_aside}"
            )


def _row(manifest: "Manifest") -> dict[str, object]:
    segments = manifest.segments
    return {
        "stream": manifest.stream,
        "messages": manifest.messages,
        "sequences": f"{segments[0].first} to {segments[-1].last}" if segments else "",
        "recorded": f"{segments[0].recorded_from:%Y-%m-%d %H:%M} to {segments[-1].recorded_to:%Y-%m-%d %H:%M}"
        if segments
        else "",
        "files": len(segments),
        "size": bytes_text(sum(segment.bytes for segment in segments)),
        "gaps": len(manifest.gaps) or "",
    }
