"""An archive of NATS stands in for NATS: the fold, the read model and the decisions from it are the same."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from shardbus_eventstore import rollups
from shardbus_eventstore.archive.archiver import Limits, archive
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.log import ArchiveLog
from shardbus_eventstore.archive.verify import verify
from shardbus_eventstore.intake import take
from shardbus_eventstore.past_decisions import past_decisions
from shardbus_eventstore.projector import run as run_projector
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.read_model.rows import Row, reading_row
from shardbus_eventstore.read_model.tables import TABLES
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.nats import NatsBus
from shardbus_infra.bus.port import Appended, Bus, Log, Outgoing
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from sqlalchemy import Connection, select
from support.databases import fresh_database
from support.projecting import STREAMS, bus_with_streams, caught_up, positions, projector, settings_for
from support.simulated_decisions import Day
from support.waiting import until

pytestmark = pytest.mark.connected

SMALL = Limits(messages=50)


async def fill(bus: Bus, day: Day) -> None:
    """Give NATS what the simulated day said, and some that cannot be read."""
    for stream in (TELEMETRY, FLEET):
        messages = [Outgoing(s.subject, s.payload, s.headers) for s in day.bus.server.log(stream).messages]
        await bus.append_many(messages)
    await bus.append(Outgoing("shardbus.v1.telemetry.n0", b"\xff nonsense"))
    await bus.append(Outgoing("shardbus.v1.event.node.n0", b"{}", {"ce-type": "FromTheFuture"}))


async def folded(log: Log) -> tuple[FleetState, Sequence[Row]]:
    """Return the state and the history rows that folding the whole log gives."""
    state, history = FleetState(), list[Row]()
    for stream in STREAMS:
        end = (await log.info(stream)).last_sequence
        if not end:
            continue
        async with aclosing(log.follow(stream)) as batches:
            async for batch in batches:
                taken = take(state, batch)
                state = taken.state
                history += [reading_row(record) for record in taken.changes.readings]
                if batch and batch[-1].sequence >= end:
                    break
    return state, history


async def trim(bus: NatsBus, stream: str, first: int) -> None:
    """Let the server forget what is before ``first``, as retention does."""
    await bus._connection.api("STREAM.PURGE", stream, body={"seq": first})


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of the read model, but for when the projector wrote it."""
    with open_engine(url).connect() as connection:
        return {name: _rows(connection, table) for name, table in TABLES.items()}


def _rows(connection: Connection, table: Any) -> list[dict[str, Any]]:
    left_out = {"updated_at", "owner", "epoch", "noticed_at"}
    found = [dict(row) for row in connection.execute(select(table)).mappings()]
    return sorted(({name: value for name, value in row.items() if name not in left_out} for row in found), key=repr)


def test_what_is_folded_from_an_archive_is_what_is_folded_from_nats_also_after_it_was_trimmed(
    nats_url: str, tmp_path: Path
) -> None:
    day = Day(7)
    day.run(60)

    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            assert isinstance(bus, NatsBus)
            await fill(bus, day)
            await archive(bus, Files(tmp_path), limits=SMALL)
            state, history = await folded(bus)
            log = ArchiveLog(tmp_path)
            assert await folded(log) == (state, history)
            for stream in STREAMS:
                there = await bus.info(stream)
                assert (await log.info(stream)).created == there.created
            end = (await bus.info(TELEMETRY)).last_sequence
            await trim(bus, TELEMETRY, end - 10)
            assert (await folded(bus))[0] != state
            assert await folded(log) == (state, history)
            # A run after the trimming finds nothing to add, and nothing to complain of.
            done = await archive(bus, Files(tmp_path), limits=SMALL)
            assert [(one.new, one.gaps) for one in done] == [(0, ())] * 3
            await bus.append(Outgoing("shardbus.v1.telemetry.n0", b"more nonsense"))
            done = await archive(bus, Files(tmp_path), limits=SMALL)
            assert [one.new for one in done] == [1, 0, 0]
            assert await log.get(TELEMETRY, end + 1) == await bus.get(TELEMETRY, end + 1)
            await log.close()
            assert all(not one.problems for one in verify(Files(tmp_path)))

    asyncio.run(scenario())


def test_past_decisions_that_nats_has_forgotten_are_known_from_the_archive(nats_url: str, tmp_path: Path) -> None:
    day = Day(8)
    day.run(40)

    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            assert isinstance(bus, NatsBus)
            await fill(bus, day)
            before = [one async for one in past_decisions(bus)]
            assert len(before) == day.answers.total()
            await archive(bus, Files(tmp_path), limits=SMALL)
            await trim(bus, TELEMETRY, (await bus.info(TELEMETRY)).last_sequence)
            gone = [one async for one in past_decisions(bus)]
            assert {one.missing for one in gone if one.event.position.telemetry_sequence} == {"telemetry_gone"}
            log = ArchiveLog(tmp_path)
            assert [one async for one in past_decisions(log)] == before
            await log.close()

    asyncio.run(scenario())


def test_an_archive_projected_into_an_empty_system_equals_the_live_read_model_row_by_row(
    nats_url: str, postgres_url: str, tmp_path: Path
) -> None:
    day = Day(9)
    day.run(60)

    async def scenario(empty_url: str) -> None:
        async with bus_with_streams(nats_url) as bus:
            await fill(bus, day)
            async with projector(bus, postgres_url):
                await caught_up(bus, postgres_url)
                await caught_up(bus, postgres_url)  # with the letters about what could not be read
            await archive(bus, Files(tmp_path), limits=SMALL)
        # No NATS from here on.
        log, stop = ArchiveLog(tmp_path), asyncio.Event()
        ends = {stream: (await log.info(stream)).last_sequence for stream in STREAMS}
        running = asyncio.create_task(run_projector(cast("Bus", ReadOnly(log)), settings_for(empty_url), stop))

        async def all_there() -> bool:
            return await asyncio.to_thread(positions, empty_url) == ends

        try:
            await until(all_there, within=30, what="the archive to be projected")
        finally:
            stop.set()
            await asyncio.wait_for(running, 20)
            await log.close()

    with fresh_database(postgres_url) as empty_url:
        asyncio.run(scenario(empty_url))
        for url in (postgres_url, empty_url):
            roll_up(url)  # how far the keepers came by themselves is a matter of time
        live, restored = rows(postgres_url), rows(empty_url)
    assert live["device_history"]
    assert live["decisions"]
    assert live["dead_letters"]
    assert restored.keys() == live.keys()
    for name, found in live.items():
        assert restored[name] == found, name


def roll_up(postgres_url: str) -> None:
    with open_engine(postgres_url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        rollups.complete(cast("psycopg.Connection[Any]", connection.connection.driver_connection))


class ReadOnly(ArchiveLog):
    """An archive in the place of a bus: what the projector would bury again is in the archive already."""

    def __init__(self, log: ArchiveLog) -> None:
        super().__init__(log._files.root)

    async def append(self, message: Outgoing, **_: object) -> Appended:
        return Appended("DEAD", 1, duplicate=True)
