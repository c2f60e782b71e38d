"""The state in memory, on a bus in memory."""

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest
from shardbus_eventstore import live as live_module
from shardbus_eventstore.live import LiveState, StateBehindError, read_state
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import BusUnreachableError, Outgoing, StreamInfo, StreamMissingError, StreamReplacedError
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined
from support.histories import reading
from support.waiting import until

JOINED = NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10)


def test_the_state_follows_both_streams() -> None:
    async def scenario() -> None:
        bus, stop = MemoryBus(), asyncio.Event()
        live = LiveState(bus)
        running = asyncio.create_task(live.run(stop))
        await publish(bus, JOINED, source="test")
        tick = await publish(bus, DeviceGPUStateUpdated(node_id="n1", states=(reading(),)), source="test")
        await live.wait_until(TELEMETRY, tick.sequence)
        await live.wait_until(FLEET, 1)
        assert list(live.state.nodes) == ["n1"]
        assert list(live.state.device_states) == ["n1/g1"]
        before = live.state
        await live.wait_until(FLEET, (await publish(bus, JOINED, source="test", event_id="again")).sequence)
        assert before.positions == {TELEMETRY: 1, FLEET: 1}, "a state that was handed out never changes"
        stop.set()
        await asyncio.wait_for(running, 1)

    asyncio.run(scenario())


def test_whoever_waits_in_vain_is_told_how_far_it_is() -> None:
    async def scenario() -> None:
        with pytest.raises(StateBehindError, match=r"the state is at FLEET:0 and did not reach 5 in 0.01 s"):
            await LiveState(MemoryBus()).wait_until(FLEET, 5, 0.01)

    asyncio.run(scenario())


def test_the_state_at_once_is_that_of_the_streams_ends() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        assert (await read_state(bus)).positions == {}
        await publish(bus, JOINED, source="test")
        await bus.append(Outgoing("shardbus.v1.event.node.n1", b"nonsense", {"ce-type": "NodeJoined"}))
        state = await asyncio.wait_for(read_state(bus), 1)
        assert state.positions == {FLEET: 2}
        assert list(state.nodes) == ["n1"]

    asyncio.run(scenario())


def test_nobody_waits_for_messages_that_expired() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        for _ in range(3):
            await publish(bus, DeviceGPUStateUpdated(node_id="n1"), source="test")
        for sequence in (1, 2, 3):
            bus.server.log(TELEMETRY).remove(sequence)
        state = await asyncio.wait_for(read_state(bus), 1)
        assert state.positions == {TELEMETRY: 3}

    asyncio.run(scenario())


def test_what_cannot_be_folded_is_counted() -> None:
    async def scenario() -> None:
        bus, stop = MemoryBus(), asyncio.Event()
        live = LiveState(bus)
        running = asyncio.create_task(live.run(stop))
        last = await bus.append(Outgoing("shardbus.v1.telemetry.n1", b"nonsense"))
        await live.wait_until(TELEMETRY, last.sequence)
        assert live.skipped == {"not_json": 1}
        stop.set()
        await running

    asyncio.run(scenario())


def test_a_stream_that_is_made_anew_ends_the_following() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        live = LiveState(bus)
        running = asyncio.create_task(live.run(asyncio.Event()))
        await live.wait_until(FLEET, (await publish(bus, JOINED, source="test")).sequence)
        config = await bus.stream_config(FLEET)
        assert config is not None
        with contextlib.suppress(StreamMissingError):
            await bus.delete_stream(FLEET)
        await bus.create_stream(config)
        with pytest.raises(StreamReplacedError):
            await asyncio.wait_for(running, 5)

    asyncio.run(scenario())


def test_it_says_since_when_it_hears_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_IDLE_SECONDS", 0.01)
    monkeypatch.setattr(live_module, "_DEAF_SECONDS", 0.2)

    async def scenario() -> None:
        bus, stop = MemoryBus(), asyncio.Event()
        live = LiveState(bus)
        before = datetime.now(UTC)
        assert live.listening_since >= before, "it hears nothing yet"

        async def hears() -> bool:
            since = live.listening_since
            await asyncio.sleep(0.001)
            return live.listening_since == since

        running = asyncio.create_task(live.run(stop))
        await until(hears, what="to hear it")
        since, info = live.listening_since, bus.info
        await publish(bus, JOINED, source="test")
        await live.wait_until(FLEET, 1)
        assert live.listening_since == since, "messages or none, the bus was never away"

        async def away(stream: str) -> StreamInfo:
            raise BusUnreachableError(f"the test took {stream} away")

        bus.info = away  # type: ignore[method-assign]  # the test takes it away
        await until(lambda: live.listening_since > since, what="to be deaf")
        back = datetime.now(UTC)
        bus.info = info  # type: ignore[method-assign]
        await until(hears, what="to hear it again")
        assert live.listening_since >= back
        stop.set()
        await asyncio.wait_for(running, 5)

    asyncio.run(scenario())
