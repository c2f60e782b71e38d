"""A database full of data that the former version made, brought up to date.

``tests/data/revision-0003.*`` hold what a fleet played by ``shardbus up`` left behind: the database (its tables still
in the schema ``public``) as ``pg_dump --inserts`` wrote it, and the streams up to its checkpoints.
"""

import asyncio
import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from shardbus_eventstore.migrate import current_revision, head_revision, upgrade
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import LIVE, open_engine
from shardbus_eventstore.replay import rehearse
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.publish import outgoing
from shardbus_schemas.events import DeviceGPUStateUpdated
from sqlalchemy import text
from support.histories import START, reading
from support.projecting import assert_read_model_is_the_fold, caught_up, positions, projector, settings_for

pytestmark = pytest.mark.connected

DATA = Path(__file__).parents[2] / "data"
DUMP = gzip.decompress((DATA / "revision-0003.sql.gz").read_bytes()).decode()
ROWS = Counter(re.findall(r"^INSERT INTO public\.(\w+) VALUES", DUMP, re.MULTILINE))
FOR_EVER = 36_500
"""Days: the past readings grow older than the usual week."""
FULL = {
    "checkpoints",
    "dead_letters",
    "decisions",
    "device_history",
    "device_states",
    "devices",
    "instances",
    "links",
    "models",
    "node_heard",
    "nodes",
    "refusals",
    "shards",
}


def restore(postgres_url: str) -> None:
    """Run the dump in an empty database."""
    address = open_engine(postgres_url).url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(DUMP.encode())


def old_bus() -> MemoryBus:
    """Return the streams that the old database was folded from."""
    bus = MemoryBus()
    lines = gzip.decompress((DATA / "revision-0003.streams.jsonl.gz").read_bytes()).splitlines()
    for each in map(json.loads, lines):
        log = bus.server.log(each["stream"])
        if "created" in each:
            log.created = datetime.fromisoformat(each["created"])
            continue
        moment = datetime.fromisoformat(each["recorded_at"])
        message = each["stream"], each["sequence"], each["subject"], each["headers"], each["payload"].encode(), moment
        log.messages.append(Stored(*message))
        log.last_sequence = each["sequence"]
        log.sequence_by_subject[each["subject"]] = each["sequence"]
    return bus


def counts(postgres_url: str, tables: Sequence[str]) -> dict[str, int]:
    with open_engine(postgres_url).connect() as connection:
        return {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in tables}


def test_every_row_of_an_old_database_is_there_after_the_upgrade(postgres_url: str) -> None:
    assert set(ROWS) == FULL | {"alembic_version"}
    restore(postgres_url)
    upgrade(postgres_url)
    upgrade(postgres_url)
    assert counts(postgres_url, sorted(FULL)) == {table: ROWS[table] for table in sorted(FULL)}
    with open_engine(postgres_url).connect() as connection:
        assert current_revision(connection) == head_revision()
        assert connection.scalar(text("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")) == 0
        seen = connection.execute(text("SELECT device, name, memory_used_bytes FROM fleet_devices")).all()
        assert len(seen) == ROWS["devices"]
        assert all(row.memory_used_bytes is not None for row in seen)
        assert len(queries.devices(connection, datetime.now(UTC))) == ROWS["devices"]
        assert len(queries.instances(connection, include_deleted=True)) == ROWS["instances"]
        assert len(queries.decisions(connection)) == ROWS["decisions"]
        assert len(queries.refusals(connection)) == ROWS["refusals"]
        assert len(queries.models(connection)) == ROWS["models"]
        assert len(queries.links(connection)) == ROWS["links"]
        assert len(queries.dead_letters(connection)) == ROWS["dead_letters"]
        queries.activity(connection)


def test_a_projector_goes_on_in_an_old_database_and_it_is_the_fold(postgres_url: str) -> None:
    restore(postgres_url)

    async def scenario() -> None:
        bus = old_bus()
        async with projector(bus, postgres_url, history_keep_days=FOR_EVER):
            await caught_up(bus, postgres_url)
            news = DeviceGPUStateUpdated(
                node_id="attic", boot_id="another", tick=1, states=(reading("cuda:0", "attic", memory_used_bytes=1),)
            )
            await bus.append(outgoing(news, source="test", event_id="news", occurred_at=START))
            await caught_up(bus, postgres_url)
        assert positions(postgres_url)["TELEMETRY"] == bus.server.log("TELEMETRY").last_sequence
        await assert_read_model_is_the_fold(bus, postgres_url)
        # And what the former version made is, row by row, what this one makes of the same streams.
        found = (await rehearse(bus, settings_for(postgres_url, history_keep_days=FOR_EVER), comparing=True)).comparison
        assert found is not None
        assert (found.differences, found.shown) == (0, [])
        assert found.rows["device_history"] == counts(postgres_url, ["device_history"])["device_history"]

    asyncio.run(scenario())
    with open_engine(postgres_url).connect() as connection:
        assert connection.scalar(text("SELECT current_schema()")) == LIVE
