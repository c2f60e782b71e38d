"""Messages of a newer producer: parked with their bytes, noted, and pointed out once they can be read."""

import asyncio
import base64
import json

import pytest
from shardbus_eventstore import unread
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Bus, Outgoing
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import NodeJoined
from sqlalchemy import text
from support.projecting import assert_read_model_is_the_fold, caught_up, projector

pytestmark = pytest.mark.connected


async def say_things_of_the_future(bus: Bus) -> None:
    for number in range(3):
        payload = json.dumps({"number": number}).encode()
        await bus.append(
            Outgoing("shardbus.v1.event.node.n1", payload, {"ce-type": "NodeMoved", "ce-typeversion": "1"})
        )
    flood = {"ce-type": "DeviceGPUStateUpdated", "ce-typeversion": "3"}
    for number in range(500):
        await bus.append(Outgoing(f"shardbus.v1.telemetry.n{number % 7}", b'{"denser": true}', flood))


def noted(postgres_url: str) -> dict[str, tuple[dict[str, int], int]]:
    with open_engine(postgres_url).connect() as connection:
        rows = connection.execute(text("SELECT stream, unread, skipped FROM checkpoints WHERE sequence > 0"))
        return {row.stream: (row.unread, row.skipped) for row in rows}


def test_they_are_parked_counted_and_do_not_flood(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = MemoryBus()

    async def scenario() -> None:
        await publish(bus, NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10), source="test")
        async with projector(bus, postgres_url, projector_max_batch=50):
            await say_things_of_the_future(bus)
            await caught_up(bus, postgres_url)
        await assert_read_model_is_the_fold(bus, postgres_url)
        async with projector(bus, postgres_url):  # another start parks nothing anew
            await say_things_of_the_future(bus)
            await caught_up(bus, postgres_url)

    asyncio.run(scenario())
    assert noted(postgres_url)[FLEET] == ({"NodeMoved.v1": 2}, 6)
    assert noted(postgres_url)[TELEMETRY] == ({"DeviceGPUStateUpdated.v3": 1}, 1000)
    with open_engine(postgres_url).connect() as connection:
        letters = queries.dead_letters(connection)
    parked = sorted((letter.stream, letter.stream_sequence, letter.code) for letter in letters)
    assert parked == [(FLEET, number, "unknown_type") for number in range(2, 8)] + [(TELEMETRY, 1, "future_version")]
    bytes_of = {
        letter.stream_sequence: base64.b64decode(letter.payload_base64) for letter in letters if letter.stream == FLEET
    }
    assert bytes_of[3] == b'{"number": 1}'
    assert not any("dead retry" in line for line in caplog.messages)

    monkeypatch.setattr(unread, "MESSAGE_TYPES", {**unread.MESSAGE_TYPES, "NodeMoved": NodeJoined})

    async def after_the_upgrade() -> None:
        async with projector(bus, postgres_url):
            await caught_up(bus, postgres_url)

    asyncio.run(after_the_upgrade())
    (hint,) = [line for line in caplog.messages if "dead retry" in line]
    assert hint.startswith(
        "FLEET has messages of kind NodeMoved.v1 from 2 on that could not be read, and can be now (6"
    )
