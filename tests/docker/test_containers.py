"""The same code as everywhere, on the servers that people run in production."""

import asyncio
from datetime import UTC, datetime

import pytest
from shardbus_infra.bus import streams
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import ExpectedLast, WrongSequenceError
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.reconcile import reconcile
from shardbus_schemas import subjects
from shardbus_schemas.commands import Place
from shardbus_schemas.events import DeviceGPUStateUpdated, InstanceDeleted, NodeJoined
from shardbus_schemas.telemetry import DeviceGPUState

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def tick(number: int) -> DeviceGPUStateUpdated:
    state = DeviceGPUState(device_id="gpu", node_id="attic", memory_used_bytes=number, last_update=datetime.now(UTC))
    return DeviceGPUStateUpdated(node_id="attic", boot_id="b", tick=number, states=(state,))


def test_the_streams_are_set_up_as_declared_and_a_second_time_changes_nothing(nats_container: str) -> None:
    async def scenario() -> None:
        bus = await connect(nats_container, name="docker-test")
        try:
            await reconcile(bus)
            before = [await bus.stream_config(spec.name) for spec in streams.STREAMS]
            await reconcile(bus)
            assert [await bus.stream_config(spec.name) for spec in streams.STREAMS] == before
        finally:
            await bus.close()

    asyncio.run(scenario())


def test_what_is_published_is_followed_in_order_and_whole(nats_container: str) -> None:
    async def scenario() -> None:
        bus = await connect(nats_container, name="docker-test")
        try:
            await reconcile(bus)
            start = (await bus.info(streams.TELEMETRY)).last_sequence + 1
            sent = [tick(number) for number in range(50)]
            for message in sent:
                await publish(bus, message, source="agent/attic")
            got = []
            batches = bus.follow(streams.TELEMETRY, start_sequence=start)
            async for batch in batches:
                got += [receive(stored).message for stored in batch]
                if len(got) >= len(sent):
                    break
            await batches.aclose()
            assert got == sent
        finally:
            await bus.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_command_is_worked_on_once_and_a_stale_decision_is_refused(nats_container: str) -> None:
    async def scenario() -> None:
        bus = await connect(nats_container, name="docker-test")
        try:
            await reconcile(bus)
            await publish(bus, Place(model_id="llama-3.1-8b"), source="console")
            items = bus.work(streams.COMMANDS, durable="docker-test")
            item = await anext(items)
            assert receive(item.stored).message == Place(model_id="llama-3.1-8b")
            await item.ack()
            await items.aclose()
            assert (await bus.info(streams.COMMANDS)).messages == 0

            decision = InstanceDeleted(instance_id="i")
            newest = await bus.last(streams.FLEET, subjects.INSTANCES_ALL)
            expected = ExpectedLast(subjects.INSTANCES_ALL, newest.sequence if newest else 0)
            await publish(bus, decision, source="placer/one", expected=expected)
            with pytest.raises(WrongSequenceError):
                await publish(bus, decision, source="placer/two", expected=expected)
        finally:
            await bus.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_the_same_id_twice_is_stored_once(nats_container: str) -> None:
    async def scenario() -> None:
        bus = await connect(nats_container, name="docker-test")
        try:
            await reconcile(bus)
            joined = NodeJoined(node_id="attic", boot_id="b", heartbeat_seconds=10)
            first = await publish(bus, joined, source="agent/attic", event_id="once")
            second = await publish(bus, joined, source="agent/attic", event_id="once")
            assert (first.duplicate, second.duplicate) == (False, True)
            assert second.sequence == first.sequence
        finally:
            await bus.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
