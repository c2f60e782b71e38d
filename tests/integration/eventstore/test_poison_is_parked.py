"""Messages that do harm, on a real Postgres: each is parked, the others are folded in their order."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from shardbus_eventstore import fold, tick_fold
from shardbus_eventstore import projector as projecting
from shardbus_eventstore.live import read_state
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.read_model.queries import DeadLetterView
from shardbus_eventstore.state import NodeHeard
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from shardbus_schemas.model import FrozenModel
from sqlalchemy import text
from support.deadly_projector import DEADLY, DIED
from support.histories import START, reading
from support.projecting import (
    assert_read_model_is_the_fold,
    bus_with_streams,
    caught_up,
    positions,
    projector,
)
from support.waiting import until, until_sync

pytestmark = pytest.mark.connected

POISON = 37
"""The tick that does harm; its sequence is one more."""


async def say(bus: Bus, messages: Sequence[FrozenModel]) -> None:
    await bus.append_many(
        [
            outgoing(message, source="test", event_id=f"{number}/{message!r:.80}", occurred_at=START)
            for number, message in enumerate(messages)
        ]
    )


def introductions() -> Sequence[FrozenModel]:
    return [
        NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10),
        DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1")),
    ]


def ticks(first: int = 0, last: int = 99) -> Sequence[FrozenModel]:
    return [
        DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=number, states=(reading(memory_used_bytes=number),))
        for number in range(first, last + 1)
    ]


def letters(postgres_url: str) -> Sequence[DeadLetterView]:
    with open_engine(postgres_url).connect() as connection:
        return queries.dead_letters(connection)


def attempts(postgres_url: str, stream: str) -> int:
    query = text("SELECT attempts FROM checkpoints WHERE stream = :stream")
    with open_engine(postgres_url).connect() as connection:
        return connection.scalar(query, {"stream": stream}) or 0


def _break_the_fold(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the fold fail on the poison; return where it notes each time that it did."""
    original, failures = fold.hear, list[int]()

    def hear(old: NodeHeard | None, said: fold.Spoken, sequence: int, recorded_at: datetime) -> tuple[NodeHeard, bool]:
        if said.tick == POISON:
            failures.append(sequence)
            raise ZeroDivisionError("the fold is broken")
        return original(old, said, sequence, recorded_at)

    monkeypatch.setattr(fold, "hear", hear)
    monkeypatch.setattr(tick_fold, "hear", hear)
    return failures


def test_what_the_fold_fails_on_is_tried_again_then_parked(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        await say(bus, introductions())
        upgrade(postgres_url)
        with monkeypatch.context() as broken:
            _break_the_fold(broken)
            async with projector(bus, postgres_url):
                await say(bus, ticks())
                await until(lambda: letters(postgres_url), within=60, what="the poison to be parked")
                await caught_up(bus, postgres_url)
            live = await read_state(bus)
        state = await assert_read_model_is_the_fold(bus, postgres_url, without=[(TELEMETRY, POISON + 1)])
        assert live.device_states == state.device_states
        assert live.node_heard == state.node_heard, "a placer skips the same message"

    asyncio.run(scenario())
    (letter,) = letters(postgres_url)
    assert (letter.code, letter.stream_sequence, letter.stream) == ("fold_failed", POISON + 1, TELEMETRY)
    assert letter.reason == "the fold fails on it: ZeroDivisionError: the fold is broken"
    assert sum("the fold fails on TELEMETRY:38; trying it again" in line for line in caplog.messages) == 1
    assert attempts(postgres_url, TELEMETRY) == 0


def test_a_fold_that_fails_once_loses_nothing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as on a state in memory that went bad: the next try has one from Postgres."""
    original, failures = projecting.take_ticks, list[int]()

    def take_badly_once(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as broken:
            if not failures:
                failures.extend(_break_the_fold(broken))
            taken = original(*arguments)
            failures.extend(projecting.fold_failures(taken))
            return taken

    monkeypatch.setattr(projecting, "take_ticks", take_badly_once)

    async def scenario() -> None:
        bus = MemoryBus()
        await say(bus, introductions())
        await say(bus, ticks())
        async with projector(bus, postgres_url):
            await caught_up(bus, postgres_url)
        await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())
    assert failures
    assert letters(postgres_url) == []


def test_a_row_that_postgres_refuses_is_found_and_parked(postgres_url: str) -> None:
    upgrade(postgres_url)
    with open_engine(postgres_url).begin() as connection:
        check = f"ALTER TABLE device_states ADD CONSTRAINT not_this CHECK (memory_used_bytes <> {POISON})"
        connection.execute(text(check))
        connection.execute(text(check.replace("device_states", "device_history")))

    async def scenario() -> None:
        bus = MemoryBus()
        await say(bus, introductions())
        await say(bus, ticks())
        async with projector(bus, postgres_url):
            await until(lambda: letters(postgres_url), within=60, what="the poison to be parked")
            await say(bus, ticks(100, 150))
            await caught_up(bus, postgres_url)
        await assert_read_model_is_the_fold(bus, postgres_url, without=[(TELEMETRY, POISON + 1)])

    asyncio.run(scenario())
    (letter,) = letters(postgres_url)
    assert (letter.code, letter.stream_sequence) == ("database_refused", POISON + 1)
    assert "violates check constraint" in letter.reason


def test_a_missing_table_is_waited_for(postgres_url: str) -> None:
    upgrade(postgres_url)

    def rename(old: str, new: str) -> None:
        with open_engine(postgres_url).begin() as connection:
            connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    async def scenario() -> None:
        bus = MemoryBus()
        await say(bus, introductions())
        async with projector(bus, postgres_url):
            await say(bus, ticks(0, 3))
            await caught_up(bus, postgres_url)
            rename("device_states", "elsewhere")
            await say(bus, ticks(4, 6))
            await asyncio.sleep(0.5)
            assert positions(postgres_url)[TELEMETRY] == 4
            rename("elsewhere", "device_states")
            await caught_up(bus, postgres_url)
        await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())
    assert letters(postgres_url) == []


@contextmanager
def deadly_projector(nats_url: str, postgres_url: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "support.deadly_projector", nats_url, postgres_url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_message_that_kills_the_process_is_parked_unseen(nats_url: str, postgres_url: str) -> None:
    def joined(name: str) -> NodeJoined:
        return NodeJoined(node_id=name, boot_id="b", heartbeat_seconds=10)

    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, [joined(f"n{number}") for number in range(20)])
            await say(bus, [joined(DEADLY)])
            await say(bus, [joined(f"m{number}") for number in range(20)])
            deaths = 0
            while deaths < 10:
                with deadly_projector(nats_url, postgres_url) as process:
                    until_sync(
                        lambda: process.poll() is not None or positions(postgres_url).get(FLEET) == 41,
                        within=60,
                        what="the projector to die, or to come through",
                    )
                    if process.poll() is None:
                        await caught_up(bus, postgres_url)
                        process.terminate()
                        assert process.wait(10) == 0
                        break
                    assert process.returncode == DIED
                    deaths += 1
            assert deaths == 4, "twice in a batch, twice alone"
            await assert_read_model_is_the_fold(bus, postgres_url, without=[(FLEET, 21)])

    asyncio.run(scenario())
    (letter,) = letters(postgres_url)
    assert (letter.code, letter.stream_sequence) == ("crashed", 21)
    assert attempts(postgres_url, FLEET) == 0
