"""Messages that no stream keeps: NATS core."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from shardbus_infra.bus.hearing import Hearing
from shardbus_infra.bus.nats_connection import Connection
from shardbus_infra.bus.port import AppendRejectedError, BusError, BusUnreachableError, Heard, NoAnswerError
from shardbus_infra.bus.wire import Headers, checked_subject, encode_headers

_FLUSH_SECONDS = 2


def tell(connection: Connection, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
    """Send a message; see ``Bus.tell``."""
    block = encode_headers(headers)
    _check(connection, subject, block + payload)
    if not connection.up:
        raise BusUnreachableError(f"there is no connection to NATS at {connection.shown_url}")
    connection.client.write(subject, "", block, payload)
    connection.client.kick()


async def request(connection: Connection, subject: str, payload: bytes, timeout_seconds: float) -> bytes:
    """Return the first answer; see ``Bus.request``."""
    _check(connection, subject, payload)
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    try:
        return (await connection.request(subject, payload, b"", deadline=deadline)).payload
    except TimeoutError as error:
        raise NoAnswerError(
            f"somebody listens on {subject} at {connection.shown_url}, but gave no answer in {timeout_seconds:g} s"
        ) from error


@asynccontextmanager
async def listen(
    connection: Connection, subjects: str, max_waiting: int, group: str
) -> AsyncGenerator[AsyncIterator[Heard], None]:
    """Hear what is told on ``subjects``; see ``Bus.listen``."""
    hearing = Hearing(subjects, max_waiting, group)

    def hear(subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        back = reply.decode("utf-8", "replace") if reply else None
        hearing.put(Heard(subject.decode("utf-8", "replace"), bytes(payload), back, Headers(headers)))

    def watch() -> None:
        if connection.closed:
            hearing.end()

    subscription = await connection.client.listen(subjects, hear, group)
    connection.watchers.add(watch)
    try:
        # While the bus is away this waits for nothing: the subscription is made again when it is back.
        # nats-py's flush would not do: its ping overtakes what is queued. A request comes after the subscription.
        with suppress(BusError, TimeoutError):
            deadline = asyncio.get_running_loop().time() + _FLUSH_SECONDS
            await connection.request(connection.client.new_inbox(), b"", b"", deadline=deadline)
        yield hearing
    finally:
        connection.watchers.discard(watch)
        await connection.client.forget(subscription)


def _check(connection: Connection, subject: str, payload: bytes) -> None:
    checked_subject(subject)
    if len(payload) > connection.client.max_payload:
        # The server would close the connection for it.
        raise AppendRejectedError(
            f"a message of {len(payload)} bytes on {subject}; the server takes up to {connection.client.max_payload}"
        )
