"""``shardbus replay``: the read model rebuilt from the streams."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from shardbus_console.connection import settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.log_source import ArchiveFolder, open_log
from shardbus_console.options import Json, NatsUrl, PostgresUrl
from shardbus_console.output import data, print_json, say

if TYPE_CHECKING:
    from shardbus_eventstore.replay import Replayed


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(replay)


def replay(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Rebuild, and drop it again: change nothing.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="With --dry-run: report how the live read model differs; exit 1 if so.")
    ] = False,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="Begin anew instead of going on with one that was interrupted.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also replace a read model that was folded from other streams than these.")
    ] = False,
    archive: ArchiveFolder = None,
    nats_url: NatsUrl = None,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """Rebuild the read model beside the live one, and switch.

    The live one serves meanwhile; projectors go on by themselves. An interrupted replay is gone on with by the next.
    With --archive the read model of an empty database is made from the files that `shardbus archive` wrote.
    """
    if compare and not dry_run:
        raise CommandError("--compare goes with --dry-run: what was replaced cannot be compared")
    if forget and dry_run:
        raise CommandError("--forget replaces a read model, and --dry-run replaces none")
    with needs("projector"):
        from shardbus_eventstore import replay as replaying
        from shardbus_eventstore.settings import ProjectorSettings
        from shardbus_eventstore.shadow import failures_of_replay
    from shardbus_console.replay_view import ReplayView

    settings = settings_for(ProjectorSettings, nats_url=nats_url, postgres_url=postgres_url)

    async def run() -> "Replayed":
        with ReplayView() as view:
            async with open_log(settings, archive) as log:
                if dry_run:
                    return await replaying.rehearse(log, settings, comparing=compare, start_over=start_over, watch=view)
                return await replaying.replay(log, settings, start_over=start_over, forget=forget, watch=view)

    try:
        with failures_of_replay(settings.postgres_url):
            done = asyncio.run(run())
    except KeyboardInterrupt:
        say("interrupted: the live read model is as it was; the next `shardbus replay` goes on from here")
        raise
    if json:
        print_json(document_of(done))
    else:
        _print(done)
    if done.comparison and done.comparison.differences:
        raise typer.Exit(Exit.FAILED)


def document_of(done: "Replayed") -> dict[str, object]:
    """Return what a replay did as JSON's values."""
    found = done.comparison
    document: dict[str, object] = {
        "messages": done.messages,
        "seconds": round(done.seconds, 3),
        "messages_per_second": round(done.messages / done.seconds) if done.seconds else None,
        "resumed": done.resumed,
        "switched": done.switched,
        "positions": dict(done.positions),
    }
    if found is not None:
        shown = [
            {"table": each.table, "key": each.key, "column": each.column, "live": each.live, "rebuilt": each.rebuilt}
            for each in found.shown
        ]
        document["comparison"] = {
            "rows": found.rows,
            "differences": found.differences,
            "shown": shown,
            "left_out": found.left_out,
        }
    return document


def _print(done: "Replayed") -> None:
    rate = f" ({done.messages / done.seconds:,.0f}/s)" if done.messages and done.seconds else ""
    places = ", ".join(f"{stream} {sequence:,}" for stream, sequence in sorted(done.positions.items()))
    data.print(
        f"{done.messages:,} messages in {done.seconds:.1f} s{rate}; {places or 'the streams are empty'}", markup=False
    )
    found = done.comparison
    if found is None:
        data.print("the rebuilt read model is live" if done.switched else "nothing was changed", markup=False)
        return
    rows = sum(found.rows.values())
    data.print(f"compared {rows:,} rows of {len(found.rows)} tables: {found.differences:,} differences", markup=False)
    for each in found.shown:
        data.print(f"  {each}", markup=False, soft_wrap=True)
    if found.differences > len(found.shown):
        data.print(f"  … and {found.differences - len(found.shown):,} more", markup=False)
    for text in found.left_out:
        say(f"not compared: {text}")
