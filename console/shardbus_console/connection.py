"""Finding and opening what a command talks to: what it is told, else the servers that ``shardbus up`` runs here."""

import json
import os
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError
from shardbus_infra.bus.port import Bus
from shardbus_infra.settings import CommonSettings

from shardbus_console.exits import CommandError, Exit, needs

if TYPE_CHECKING:
    from sqlalchemy import Connection

SettingsT = TypeVar("SettingsT", bound=CommonSettings)

_FILE = "running.json"


class _Running(BaseModel):
    pid: Annotated[int, Field(gt=0, le=2**31 - 1)]
    nats_url: str
    postgres_url: str


def settings_for(kind: type[SettingsT], **flags: object) -> SettingsT:
    """Return the settings of ``kind``: flags, environment, file; and where those are silent, what runs here."""
    given = {name: value for name, value in flags.items() if value is not None}
    settings = kind(**given)
    found = _running(settings.data_dir)
    silent = {name: url for name, url in found.items() if name not in settings.model_fields_set}
    return kind(**given, **silent) if silent else settings


def announce(data_dir: Path, urls: Mapping[str, str]) -> Path:
    """Write where this process' servers are, for other commands of the same user; return the file."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = data_dir / _FILE
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        json.dump({"pid": os.getpid(), **urls}, opened)
    return file


def _running(data_dir: Path) -> dict[str, str]:
    try:
        found = _Running.model_validate_json((data_dir / _FILE).read_bytes())
        os.kill(found.pid, 0)
    except (OSError, ValidationError):
        return {}  # nothing runs here, or it is not ours to see
    return {"nats_url": found.nats_url, "postgres_url": found.postgres_url}


@asynccontextmanager
async def open_bus(settings: CommonSettings) -> AsyncGenerator[Bus]:
    """Connect to NATS for the length of a command."""
    from shardbus_infra.bus.nats import connect

    bus = await connect(settings.nats_url, name="console")
    try:
        yield bus
    finally:
        await bus.close()


@contextmanager
def open_read_model(settings: CommonSettings) -> "Generator[Connection]":
    """Connect to Postgres for the length of a command, which sees the rows of one moment."""
    with needs("projector"):
        from shardbus_eventstore.errors import EventStoreError
        from shardbus_eventstore.read_model.database import failures_explained, open_engine, snapshot
        from sqlalchemy.exc import ProgrammingError
    try:
        engine = open_engine(settings.postgres_url, application_name="shardbus console")
        with failures_explained(engine), snapshot(engine) as connection:
            yield connection
    except ProgrammingError as error:
        raise CommandError(
            "the read model is not there yet: run `shardbus projector` once", Exit.UNREACHABLE
        ) from error
    except EventStoreError as error:
        raise CommandError(str(error), Exit.UNREACHABLE) from error
