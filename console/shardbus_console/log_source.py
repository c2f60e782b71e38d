"""What a command reads the streams from: NATS, or an archive of them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from shardbus_infra.bus.port import Log
from shardbus_infra.settings import CommonSettings

from shardbus_console.connection import open_bus
from shardbus_console.exits import needs

ArchiveFolder = Annotated[
    Path | None,
    typer.Option("--archive", metavar="FOLDER", help="Read what `shardbus archive` wrote in place of NATS."),
]


@asynccontextmanager
async def open_log(settings: CommonSettings, archive: Path | None) -> AsyncGenerator[Log]:
    """Open the archive in a folder for the length of a command, or without one connect to NATS."""
    if archive is None:
        async with open_bus(settings) as bus:
            yield bus
        return
    with needs("projector"):
        from shardbus_eventstore.archive.log import ArchiveLog
    log = ArchiveLog(archive)
    try:
        yield log
    finally:
        await log.close()
