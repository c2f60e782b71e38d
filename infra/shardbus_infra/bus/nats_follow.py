"""Following a stream: in order, without a gap or a repeat, whatever happens to the connection or the server."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final

from shardbus_infra.bus.nats_connection import Connection
from shardbus_infra.bus.nats_lookup import find, information
from shardbus_infra.bus.nats_pull import Puller, Session
from shardbus_infra.bus.port import (
    BusUnreachableError,
    Stored,
    StreamInfo,
    StreamReplacedError,
    StreamShortenedError,
)
from shardbus_infra.bus.wire import Headers, delivery_of, moment

_PULL_MESSAGES: Final = 2000
"""Two pulls of this size overlap: one arrives while the other is worked on."""
BELIEVED_AFTER_SECONDS: Final = 15.0
"""How long a stream on several servers must seem to have lost messages before it is believed: until its leader knows
all that the others have, and one that is cut off has noticed it."""
_FORGOTTEN_AFTER_NANOSECONDS: Final = 60 * 1_000_000_000


async def follow(
    connection: Connection,
    stream: str,
    *,
    start_sequence: int,
    subjects: Sequence[str],
    max_batch: int,
    idle_seconds: float | None,
) -> AsyncGenerator[Sequence[Stored], None]:
    """Yield batches in stream order; see ``Bus.follow``."""
    loop = asyncio.get_running_loop()
    follower = _Follower(connection, stream, start_sequence, subjects)
    heard = loop.time()
    try:
        while True:
            batch = follower.take(max_batch)
            if batch:
                yield batch
                heard = loop.time()
                continue
            if connection.closed:
                return
            if follower.puller.failure is not None:
                raise follower.puller.failure
            remaining = None if idle_seconds is None else heard + idle_seconds - loop.time()
            if remaining is not None and remaining <= 0:
                yield []
                heard = loop.time()
                continue
            await follower.puller.changed(remaining)
    finally:
        await follower.close()


class _Follower:
    """An ephemeral consumer without acknowledgements; the position is this object's."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        start_sequence: int,
        subjects: Sequence[str],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subjects = subjects
        self._next_sequence = max(1, start_sequence)
        self._next_delivery = 1
        """The consumer's own count has no holes; the stream's may have."""
        self._created: datetime | None = None
        self._newest: Stored | None = None
        self._doubted_since: float | None = None
        self._reading: Session | None = None
        self.puller: Puller = Puller(connection, stream, create=self._create, room=self._room)

    def take(self, most: int) -> list[Stored]:
        """Return what has arrived, at most so many, and ask for more."""
        session = self.puller.session
        if session is None:
            return []
        if session is not self._reading:
            self._reading, self._next_delivery = session, 1
        batch: list[Stored] = []
        arrived = session.arrived
        while arrived and len(batch) < most:
            subject, reply, payload, headers = arrived.popleft()
            session.arrived_bytes -= len(payload) + len(headers or b"")
            stored = self._check(subject, reply, payload, headers)
            if stored is None:
                arrived.clear()
                session.arrived_bytes = 0
                break
            if stored.sequence >= self._next_sequence:
                batch.append(stored)
                self._next_sequence = stored.sequence + 1
        if batch:
            self._newest = batch[-1]
        self.puller.ask()
        return batch

    def _check(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> Stored | None:
        """Return the message; ``None``, and a new session, if one before it is missing."""
        sequence, delivery, _, nanoseconds = delivery_of(reply)
        if delivery != self._next_delivery:
            self.puller.restart(f"message {delivery} came where {self._next_delivery} was due")
            return None
        self._next_delivery += 1
        return Stored(
            self._stream,
            sequence,
            subject.decode("utf-8", "replace"),
            Headers(headers),
            payload,
            moment(nanoseconds),
        )

    def _room(self, session: Session) -> int:
        waiting = session.outstanding + len(session.arrived)
        return _PULL_MESSAGES if waiting <= _PULL_MESSAGES and not self.puller.crowded else 0

    async def _create(self) -> str:
        await self._require_same_stream()
        name = f"follow-{self._connection.client.new_inbox().rpartition('.')[2]}"
        filters = {"filter_subjects": list(self._subjects)} if self._subjects else {}
        await self._connection.api(
            "CONSUMER.CREATE",
            self._stream,
            name,
            body={
                "stream_name": self._stream,
                "action": "create",
                "config": {
                    "name": name,
                    "description": "follows without acknowledging; its reader keeps the position",
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": self._next_sequence,
                    "ack_policy": "none",
                    "replay_policy": "instant",
                    "mem_storage": True,
                    "num_replicas": 1,
                    "inactive_threshold": _FORGOTTEN_AFTER_NANOSECONDS,
                    **filters,
                },
            },
        )
        return name

    async def _require_same_stream(self) -> None:
        """Raise StreamReplacedError if the stream is not the one that was followed before."""
        # The reader may go on meanwhile, with what an earlier session brings: a look at the stream is held against what
        # was read before it, or it seems to have lost what came after.
        newest = self._newest
        info = await information(self._connection, self._stream)
        if self._created is not None and info.created != self._created:
            raise StreamReplacedError(
                f"stream {self._stream} was made anew at {info.created}; followed was the one of {self._created}"
            )
        self._created = info.created
        shortened = await self._shortening(info, newest)
        if shortened is None:
            self._doubted_since = None
            return
        now = asyncio.get_running_loop().time()
        if self._doubted_since is None:
            self._doubted_since = now
        if info.replicas > 1 and now < self._doubted_since + BELIEVED_AFTER_SECONDS:
            raise BusUnreachableError(f"{shortened}, or its new leader is behind; looking again")
        raise StreamShortenedError(
            f"{shortened}: it lost its newest part in a crash, or was restored from an older copy"
        )

    async def _shortening(self, info: StreamInfo, newest: Stored | None) -> str | None:
        """Return how the stream lost messages that were read from it; ``None`` if it did not."""
        # A server asked from beyond its end starts at its end, without a word; and a sequence may be given again.
        if newest is None:
            return None
        if info.last_sequence < newest.sequence:
            return f"stream {self._stream} ends at {info.last_sequence}, but {newest.sequence} was read from it"
        same = await find(self._connection, self._stream, {"seq": newest.sequence})
        if same is not None and same.recorded_at != newest.recorded_at:
            return f"message {newest.sequence} of stream {self._stream} is another one than before"
        return None

    async def close(self) -> None:
        """Leave nothing behind on the server."""
        session = await self.puller.close()
        if session is not None and self._connection.up:
            self._connection.client.write(f"$JS.API.CONSUMER.DELETE.{self._stream}.{session.consumer}", "", b"", b"")
            self._connection.client.kick()
