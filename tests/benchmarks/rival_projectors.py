"""What one would otherwise write: nats-py, a durable consumer, acknowledgements, SQLAlchemy. For ``bench_projector``.

Both write the same rows as the projector: each reading updates its device's row and is added to the history. Neither
promises what the projector does: they know no gap, no other stream of that name, no ticks that come twice, and what was
committed and not acknowledged before a crash is written twice.
"""

import asyncio
import json
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import nats
from nats.aio.msg import Msg
from shardbus_eventstore.read_model.tables import DEVICE_HISTORY, TABLES
from shardbus_schemas.events import DeviceGPUStateUpdated
from sqlalchemy import Engine, create_engine
from sqlalchemy.dialects.postgresql import insert

Row = dict[str, Any]

_STATES: Final = TABLES["device_states"]
_NEW_STATE: Final = insert(_STATES)
_KEYS: Final = ("node_id", "device_id")
_UPSERT: Final = _NEW_STATE.on_conflict_do_update(
    index_elements=_KEYS,
    set_={column.name: _NEW_STATE.excluded[column.name] for column in _STATES.columns if column.name not in _KEYS},
)
BATCHES: Final = {"one transaction per event": 1, "executemany batches": 500}
"""Each rival, and how many messages it fetches and commits at once."""


def rows_of(message: Msg) -> list[Row]:
    """Return the rows of one message."""
    event = DeviceGPUStateUpdated.model_validate_json(message.data)
    place = {"sequence": message.metadata.sequence.stream, "recorded_at": message.metadata.timestamp}
    return [state.model_dump() | place for state in event.states]


def write(engine: Engine, rows: list[Row]) -> None:
    """Commit the rows. SQLAlchemy makes an executemany of several."""
    with engine.begin() as connection:
        connection.execute(_UPSERT, rows)
        connection.execute(DEVICE_HISTORY.insert(), rows)


async def follow(nats_url: str, postgres_url: str, batch: int, log: Path) -> None:
    """Fetch, write, acknowledge, until told to stop; note in ``log`` how many messages were committed when."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = create_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://"),
        connect_args={"options": "-c search_path=shardbus -c timezone=UTC"},
    )
    client = await nats.connect(nats_url)
    commits: list[tuple[int, float]] = []
    done = 0
    try:
        subscription = await client.jetstream().pull_subscribe("shardbus.v1.telemetry.*", durable="rival")
        while not stop.is_set():
            messages: list[Msg] = []
            with suppress(TimeoutError):
                messages = await subscription.fetch(batch, timeout=0.5)
            if not messages:
                continue
            await asyncio.to_thread(write, engine, [row for message in messages for row in rows_of(message)])
            for message in messages:
                await message.ack()
            done += len(messages)
            commits.append((done, time.time()))
    finally:
        await client.close()
        engine.dispose()
    await asyncio.to_thread(log.write_text, json.dumps(commits))
