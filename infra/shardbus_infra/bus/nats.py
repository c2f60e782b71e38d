"""The bus on NATS JetStream: a thin transport of our own over nats-py.

nats-py's ``fetch`` and ``publish_async`` are slow, and wrong about errors; here its client carries the bytes, and
what is said to JetStream is said by ``nats_append``, ``nats_follow`` and ``nats_work``.
"""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import cast

from shardbus_infra.bus import nats_append, nats_messages
from shardbus_infra.bus.nats_connection import Connection, Health
from shardbus_infra.bus.nats_follow import follow
from shardbus_infra.bus.nats_lookup import find, information
from shardbus_infra.bus.nats_work import work
from shardbus_infra.bus.port import (
    Appended,
    BusUnreachableError,
    ExpectedLast,
    Heard,
    Outgoing,
    Stored,
    StreamInfo,
    StreamMissingError,
    WorkItem,
)


async def connect(
    url: str,
    *,
    name: str,
    timeout_seconds: float = 2,
    credentials_file: Path | None = None,
    tls: ssl.SSLContext | None = None,
    inbox_prefix: str = "_INBOX",
) -> "NatsBus":
    """Return a bus connected to ``url`` (several may be separated by commas); ``name`` is shown by the server.

    Raises BusUnreachableError if nothing answers within the timeout, BusError if the server is too old or has no
    JetStream. Once connected it comes back by itself, for ever.
    """
    connection = Connection(url, name, inbox_prefix=inbox_prefix)
    await connection.open(timeout_seconds, credentials_file, tls)
    return NatsBus(connection)


class NatsBus:
    """A connection to NATS; made by ``connect``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def health(self) -> Health:
        """Whether it is connected, where, and the last thing that went wrong."""
        return self._connection.health

    async def append(
        self, message: Outgoing, *, expected: ExpectedLast | None = None, timeout_seconds: float = 5
    ) -> Appended:
        """Append one message; see ``Bus.append``."""
        self._require_open()
        return await nats_append.append(self._connection, message, expected, timeout_seconds)

    async def append_many(self, messages: Sequence[Outgoing], *, timeout_seconds: float = 30) -> Sequence[Appended]:
        """Append messages in order; see ``Bus.append_many``. The timeout is for silence, not for the whole."""
        self._require_open()
        return await nats_append.append_many(self._connection, messages, timeout_seconds)

    def follow(
        self,
        stream: str,
        *,
        start_sequence: int = 1,
        subjects: Sequence[str] = (),
        max_batch: int = 5000,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[Stored], None]:
        """Yield batches in stream order; see ``Bus.follow``."""
        self._require_open()
        return follow(
            self._connection,
            stream,
            start_sequence=start_sequence,
            subjects=subjects,
            max_batch=max_batch,
            idle_seconds=idle_seconds,
        )

    def work(
        self, stream: str, *, durable: str, max_pending: int = 1, ack_wait_seconds: float = 30
    ) -> AsyncGenerator[WorkItem, None]:
        """Yield items of a work queue; see ``Bus.work``."""
        self._require_open()
        return work(
            self._connection, stream, durable=durable, max_pending=max_pending, ack_wait_seconds=ack_wait_seconds
        )

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return one message, or ``None``."""
        return await find(self._connection, stream, {"seq": sequence}) if sequence > 0 else None

    async def last(self, stream: str, subjects: str) -> Stored | None:
        """Return the newest message on ``subjects``, or ``None``."""
        return await find(self._connection, stream, {"last_by_subj": subjects})

    async def info(self, stream: str) -> StreamInfo:
        """Return a stream's identity and extent; raises StreamMissingError."""
        return await information(self._connection, stream)

    async def tell(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a message to whoever listens; see ``Bus.tell``."""
        self._require_open()
        nats_messages.tell(self._connection, subject, payload, headers or {})

    def listen(
        self, subjects: str, *, max_waiting: int = 1000, group: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[Heard]]:
        """Hear what is told; see ``Bus.listen``."""
        self._require_open()
        return nats_messages.listen(self._connection, subjects, max_waiting, group)

    async def request(self, subject: str, payload: bytes, *, timeout_seconds: float = 2) -> bytes:
        """Send a message and return the first answer; see ``Bus.request``."""
        self._require_open()
        return await nats_messages.request(self._connection, subject, payload, timeout_seconds)

    async def close(self) -> None:
        """Flush what is pending and disconnect; follows and works end. Idempotent."""
        await self._connection.close()

    async def stream_config(self, name: str) -> Mapping[str, object] | None:
        """Return a stream's configuration, or ``None``."""
        try:
            answer = await self._connection.api("STREAM.INFO", name)
        except StreamMissingError:
            return None
        return cast("Mapping[str, object]", answer["config"])

    async def create_stream(self, config: Mapping[str, object]) -> None:
        """Create a stream; raises BusError with the server's words."""
        await self._connection.api("STREAM.CREATE", str(config["name"]), body=config)

    async def update_stream(self, config: Mapping[str, object]) -> None:
        """Change a stream's configuration; raises BusError with the server's words."""
        await self._connection.api("STREAM.UPDATE", str(config["name"]), body=config)

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with all it holds."""
        await self._connection.api("STREAM.DELETE", name)

    def _require_open(self) -> None:
        if self._connection.closed:
            raise BusUnreachableError("this connection to the bus is closed")
