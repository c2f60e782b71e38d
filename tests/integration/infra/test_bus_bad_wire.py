"""Messages that get lost, doubled or held up between the server and the reader."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing

import pytest
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.nats_pull import Session
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY

pytestmark = [pytest.mark.connected]

COUNT = 300
Receive = Callable[[Session, bytes, bytes, bytes, bytes | None], None]


def losing(numbers: Iterator[int], receive: Receive) -> Receive:
    """Every 90th message never arrives."""

    def lossy(session: Session, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        if next(numbers) % 90 != 89:
            receive(session, subject, reply, payload, headers)

    return lossy


def doubling(numbers: Iterator[int], receive: Receive) -> Receive:
    """Every 90th message arrives twice."""

    def twice(session: Session, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        for _ in range(2 if next(numbers) % 90 == 89 else 1):
            receive(session, subject, reply, payload, headers)

    return twice


def swapping(numbers: Iterator[int], receive: Receive) -> Receive:
    """Every 90th message is overtaken by the next."""
    held: list[tuple[bytes, bytes, bytes, bytes | None]] = []

    def swapped(session: Session, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        if next(numbers) % 90 == 89:
            held.append((subject, reply, payload, headers))
            return
        receive(session, subject, reply, payload, headers)
        while held:
            receive(session, *held.pop())

    return swapped


def falling_silent(numbers: Iterator[int], receive: Receive) -> Receive:
    """The first session falls silent after 90 messages."""
    silent: list[Session] = []

    def mute(session: Session, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        if next(numbers) == 90:
            silent.append(session)
        if session not in silent:
            receive(session, subject, reply, payload, headers)

    return mute


@pytest.mark.parametrize(
    "fault",
    [losing, doubling, swapping, pytest.param(falling_silent, marks=pytest.mark.slow)],
    ids=lambda f: f.__name__,
)
def test_a_follow_sees_everything_once_and_in_order(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Iterator[int], Receive], Receive]
) -> None:
    async def scenario() -> None:
        bus = await connect(nats_url, name="bad-wire")
        try:
            await reconcile(bus)
            monkeypatch.setattr(Session, "receive", fault(iter(range(10**9)), Session.receive))
            await bus.append_many([Outgoing("shardbus.v1.event.node.a", b"%d" % i) for i in range(COUNT)])
            seen: list[int] = []
            async with asyncio.timeout(30), aclosing(bus.follow(FLEET, max_batch=40)) as batches:
                async for batch in batches:
                    seen += [int(stored.payload) for stored in batch]
                    if len(seen) >= COUNT:
                        break
            assert seen == list(range(COUNT))
        finally:
            await bus.close()

    asyncio.run(scenario())


def test_a_reader_that_does_not_read_holds_a_bounded_number(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    receive = Session.receive

    def counting(session: Session, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        receive(session, subject, reply, payload, headers)
        waiting.append(len(session.arrived))

    async def scenario() -> None:
        bus = await connect(nats_url, name="lazy")
        try:
            await reconcile(bus)
            monkeypatch.setattr(Session, "receive", counting)
            await bus.append_many([Outgoing("shardbus.v1.telemetry.a", b"%d" % i) for i in range(20_000)])
            async with aclosing(bus.follow(TELEMETRY, max_batch=1)) as batches:
                for _ in range(3):
                    await anext(batches)
                    await asyncio.sleep(0.2)  # time to be flooded in
            assert len(waiting) >= 3000
            assert max(waiting) <= 4000
        finally:
            await bus.close()

    asyncio.run(scenario())
