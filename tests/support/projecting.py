"""Running projectors in tests, and comparing what they wrote with the pure fold of the streams."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import replace

from shardbus_eventstore.intake import advance, take
from shardbus_eventstore.projector import run
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.read_model.load import load_decisions, load_state
from shardbus_eventstore.read_model.queries import checkpoints
from shardbus_eventstore.read_model.rows import Row, reading_row
from shardbus_eventstore.read_model.tables import DEVICE_HISTORY
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_eventstore.state import Decision, FleetState
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Bus, Stored
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas.ids import CommandId
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from support.waiting import until

STREAMS = (TELEMETRY, FLEET, DEAD)


@contextlib.asynccontextmanager
async def bus_with_streams(nats_url: str) -> AsyncGenerator[Bus]:
    """Yield a connection to a server that has the streams."""
    bus = await connect(nats_url, name="test")
    try:
        await reconcile(bus)
        yield bus
    finally:
        await bus.close()


def settings_for(postgres_url: str, **values: object) -> ProjectorSettings:
    return ProjectorSettings.model_validate({"postgres_url": postgres_url} | values)


@contextlib.asynccontextmanager
async def projector(bus: Bus, postgres_url: str, **values: object) -> AsyncGenerator[asyncio.Task[None]]:
    """Run a projector within the block, and stop it politely at its end; what it raised is raised then."""
    stop = asyncio.Event()
    running = asyncio.create_task(run(bus, settings_for(postgres_url, **values), stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)


async def caught_up(bus: Bus, postgres_url: str, *, within: float = 30) -> None:
    """Return when the read model has all that the streams hold."""

    async def all_there() -> bool:
        ends = {stream: (await bus.info(stream)).last_sequence for stream in STREAMS}
        return await asyncio.to_thread(positions, postgres_url) == {s: end for s, end in ends.items() if end}

    await until(all_there, within=within, what="the projector to catch up")


def positions(postgres_url: str) -> dict[str, int]:
    """Return how far the read model is; nothing while there are no tables, or no Postgres."""
    engine = open_engine(postgres_url)
    with contextlib.suppress(DBAPIError), engine.connect() as connection:
        return {row.stream: row.sequence for row in checkpoints(connection) if row.sequence}
    return {}


async def whole_stream(bus: Bus, stream: str) -> Sequence[Stored]:
    """Return every message of a stream."""
    end = (await bus.info(stream)).last_sequence
    found: list[Stored] = []
    if end:
        async with contextlib.aclosing(bus.follow(stream)) as batches:
            async for batch in batches:
                found += batch
                if found[-1].sequence >= end:
                    break
    return found


async def assert_read_model_is_the_fold(
    bus: Bus, postgres_url: str, *, without: Collection[tuple[str, int]] = ()
) -> FleetState:
    """Compare every record and every past reading with the pure fold; return the state.

    ``without`` names messages that are left out of the fold, by stream and sequence.
    """
    folded, history, decisions = FleetState(), list[Row](), dict[CommandId, Decision]()
    for stream in STREAMS:
        messages = await whole_stream(bus, stream)
        kept = [message for message in messages if (stream, message.sequence) not in without]
        taken = take(folded, kept)
        if messages:
            taken = replace(taken, state=advance(taken.state, stream, messages[-1].sequence))
        folded = taken.state
        history += [reading_row(record) for record in taken.changes.readings]
        decisions |= {decision.command_id: decision for decision in taken.changes.decisions}
    loaded, decided, past = await asyncio.to_thread(read_back, postgres_url)
    for name in FleetState.__dataclass_fields__:
        assert getattr(loaded, name) == getattr(folded, name), name
    assert decided == decisions
    assert sorted(past, key=_order) == sorted(history, key=_order)
    return folded


def read_back(postgres_url: str) -> tuple[FleetState, Mapping[CommandId, Decision], Sequence[Row]]:
    """Return the state, the decisions and the past readings as the rows have them."""
    with open_engine(postgres_url).connect() as connection:
        past = [dict(row) for row in connection.execute(select(DEVICE_HISTORY)).mappings()]
        return load_state(connection), load_decisions(connection), past


def _order(row: Row) -> tuple[object, ...]:
    return row["sequence"], row["device_id"], str(dict(row))
