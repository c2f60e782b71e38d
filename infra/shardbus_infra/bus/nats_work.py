"""Working off a queue: a durable consumer that all workers of one name share, each item settled on its own.

At least once: the server confirms an acknowledgement a moment before its disk has it, so an item settled just before
a crash of the server may come again. Who works must know what is done already.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Final

from shardbus_infra.bus.nats_connection import Connection, ConnectionLostError, LeaderlessError
from shardbus_infra.bus.nats_lookup import find
from shardbus_infra.bus.nats_pull import Puller, Session
from shardbus_infra.bus.port import BusUnreachableError, NoRespondersError, Stored, WorkItem
from shardbus_infra.bus.wire import decode_headers, delivery_of, moment

_log = logging.getLogger(__name__)

_NANOSECONDS: Final = 1_000_000_000
_MOST_UNSETTLED: Final = 1000
"""Of all workers together. Delayed items count too, so a small bound would let one delayed item stop the queue."""
_ANSWER_SECONDS: Final = 2.0
_ACK_TRIES: Final = 3
_ELECTION_SECONDS: Final = 15.0
"""How long a consumer may be without a leader: an election takes 4 to 9 s, and may fail."""
_LEADERLESS_PAUSE_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 10 * 365 * 24 * 3600.0


async def work(
    connection: Connection, stream: str, *, durable: str, max_pending: int, ack_wait_seconds: float
) -> AsyncGenerator[WorkItem, None]:
    """Yield items; see ``Bus.work``."""
    worker = _Worker(connection, stream, durable, max_pending, ack_wait_seconds)
    try:
        while True:
            item = worker.take()
            if item is not None:
                yield item
                continue
            if connection.closed:
                return
            if worker.puller.failure is not None:
                raise worker.puller.failure
            await worker.puller.changed(worker.next_expiry())
    finally:
        await worker.close()


class _Worker:
    """A durable consumer, and the items this worker holds of it."""

    def __init__(
        self, connection: Connection, stream: str, durable: str, max_pending: int, ack_wait_seconds: float
    ) -> None:
        self.connection: Connection = connection
        self.ack_wait_seconds: float = ack_wait_seconds
        self._stream = stream
        self._durable = durable
        self._max_pending = max_pending
        self._loop = asyncio.get_running_loop()
        self._held: dict[bytes, float] = {}
        """When the server gives an item to somebody else, by the item's reply subject."""
        self.puller: Puller = Puller(connection, stream, create=self._create, room=self._room, keep_arrived=True)

    def take(self) -> "_Item | None":
        """Return an item if one has arrived, and ask for more."""
        session = self.puller.session
        item = None
        if session is not None and session.arrived:
            subject, reply, payload, headers = session.arrived.popleft()
            session.arrived_bytes -= len(payload) + len(headers or b"")
            sequence, _, _, nanoseconds = delivery_of(reply)
            where, what = subject.decode("utf-8", "replace"), decode_headers(headers)
            item = _Item(self, Stored(self._stream, sequence, where, what, payload, moment(nanoseconds)), reply)
            self.hold(reply)
        self.puller.ask()
        return item

    def hold(self, reply: bytes) -> None:
        """Count the item as held, from now on."""
        self._held[reply] = self._loop.time() + self.ack_wait_seconds

    def release(self, reply: bytes) -> None:
        """Count the item as settled."""
        self._held.pop(reply, None)
        self.puller.ask()

    def next_expiry(self) -> float | None:
        """Return the seconds until an item that was never settled goes to somebody else; ``None`` if there is none."""
        return min(self._held.values()) - self._loop.time() if self._held else None

    def _room(self, session: Session) -> int:
        now = self._loop.time()
        self._held = {reply: expiry for reply, expiry in self._held.items() if expiry > now}
        return self._max_pending - len(self._held) - len(session.arrived) - session.outstanding

    async def _create(self) -> str:
        await self.connection.api(
            "CONSUMER.CREATE",
            self._stream,
            self._durable,
            body={
                "stream_name": self._stream,
                "config": {
                    "name": self._durable,
                    "durable_name": self._durable,
                    "deliver_policy": "all",
                    "ack_policy": "explicit",
                    "ack_wait": int(self.ack_wait_seconds * _NANOSECONDS),
                    # Without end: who gives up on a message buries it, and says why.
                    "max_deliver": -1,
                    "max_ack_pending": _MOST_UNSETTLED,
                    "replay_policy": "instant",
                },
            },
        )
        return self._durable

    async def close(self) -> None:
        """Give back what arrived and was not taken, so that nobody waits for it."""
        session = await self.puller.close()
        if session is None or not self.connection.up:
            return
        for _, reply, _, _ in session.arrived:
            self.connection.client.write(reply.decode(), "", b"", b"-NAK")
        self.connection.client.kick()


class _Item:
    """A message of the queue in this worker's hands."""

    def __init__(self, worker: _Worker, stored: Stored, reply: bytes) -> None:
        self._worker = worker
        self._stored = stored
        self._reply = reply

    @property
    def stored(self) -> Stored:
        return self._stored

    @property
    def attempt(self) -> int:
        return delivery_of(self._reply)[2]

    async def ack(self) -> None:
        await self._settle(b"+ACK", tries=_ACK_TRIES)

    async def nak(self, delay_seconds: float = 0) -> None:
        delay = {"delay": int(delay_seconds * _NANOSECONDS)}
        # Unheard it has the same end, only later: the item comes again.
        await self._settle(b"-NAK " + json.dumps(delay).encode() if delay_seconds > 0 else b"-NAK", tries=1)

    async def in_progress(self) -> None:
        if self._worker.connection.up:
            self._worker.connection.client.write(self._reply.decode(), "", b"", b"+WPI")
            self._worker.connection.client.kick()
        self._worker.hold(self._reply)

    async def _settle(self, word: bytes, *, tries: int) -> None:
        """Say the word until the server confirms it, however long the server is away.

        After a crash of the server its consumer may not know of this delivery any more, and leaves the word
        without an answer; in a cluster nobody hears it until the consumer has a new leader. Then either the message
        is gone, or it comes again.
        """
        connection, loop = self._worker.connection, asyncio.get_running_loop()
        again, leaderless_until = False, loop.time() + _ELECTION_SECONDS
        try:
            while tries:
                await connection.wait_up(loop.time() + _PATIENCE_SECONDS)
                try:
                    if again and await self._is_gone():
                        return
                    again = True
                    deadline = loop.time() + _ANSWER_SECONDS
                    await connection.request(self._reply.decode(), word, b"", deadline=deadline)
                except ConnectionLostError:
                    continue
                except (NoRespondersError, LeaderlessError):
                    if loop.time() >= leaderless_until:
                        tries -= 1
                    await asyncio.sleep(_LEADERLESS_PAUSE_SECONDS)
                except (BusUnreachableError, TimeoutError):
                    if connection.closed:
                        raise
                    tries -= 1
                else:
                    return
            _log.info("message %d of %s was not confirmed as settled", self._stored.sequence, self._stored.stream)
        finally:
            self._worker.release(self._reply)

    async def _is_gone(self) -> bool:
        return await find(self._worker.connection, self._stored.stream, {"seq": self._stored.sequence}) is None
