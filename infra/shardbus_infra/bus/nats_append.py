"""Appending to JetStream: one message awaited, or many in a window of unacknowledged ones."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, Final, cast

from shardbus_infra.bus.bell import Bell
from shardbus_infra.bus.nats_connection import (
    LEADERLESS,
    Connection,
    ConnectionLostError,
    DeniedError,
)
from shardbus_infra.bus.nats_lookup import find
from shardbus_infra.bus.port import (
    Appended,
    AppendRejectedError,
    AppendTimeoutError,
    BusError,
    BusUnreachableError,
    ExpectedLast,
    MessageRefusedError,
    NoRespondersError,
    Outgoing,
    StreamMissingError,
    WrongSequenceError,
)
from shardbus_infra.bus.wire import (
    MESSAGE_ID,
    checked_subject,
    encode_headers,
    message_headers,
)

_WINDOW_MESSAGES: Final = 2000
_WINDOW_BYTES: Final = 8 * 1024 * 1024
_WRONG_SEQUENCE: Final = (10071, 10164)
_TOO_LARGE: Final = (10054, 10097)
"""The message, or its headers, for the stream."""
_PASSING: Final = (*LEADERLESS, 10158)
"""Nobody leads, or an earlier try of the same message is on its way to the other servers of the cluster."""
_LEADERLESS_PAUSE_SECONDS: Final = 0.1

_ACKNOWLEDGEMENT: Final = re.compile(rb'\{"stream":"([^"\\]+)", ?"seq":(\d+)\}')


def acknowledged(payload: bytes) -> Appended:
    """Return the place that an acknowledgement names.

    Raises AppendRejectedError with the server's words, AppendTimeoutError if these are that it does not know yet.
    """
    usual = _ACKNOWLEDGEMENT.fullmatch(payload)
    if usual is not None:
        return Appended(usual[1].decode(), int(usual[2]))
    document = cast("dict[str, Any]", json.loads(payload))
    error = cast("dict[str, Any] | None", document.get("error"))
    if error is None:
        return Appended(str(document["stream"]), int(document["seq"]), duplicate=bool(document.get("duplicate")))
    code = int(error.get("err_code", 0))
    words = f"{error.get('description', 'no reason given')} (NATS error {code})"
    if code in _PASSING:
        raise AppendTimeoutError(f"the server cannot tell yet whether it has the message: {words}")
    if code in _WRONG_SEQUENCE:
        raise WrongSequenceError(f"somebody else appended first: {words}")
    kind = MessageRefusedError if code in _TOO_LARGE else AppendRejectedError
    raise kind(f"the server refused the message: {words}")


def _framed(connection: Connection, message: Outgoing, expected: ExpectedLast | None = None) -> bytes:
    """Return the header block of ``message``; raises MessageRefusedError for what can never be stored."""
    checked_subject(message.subject)
    headers = encode_headers(message_headers(message, expected))
    size, limit = len(headers) + len(message.payload), connection.client.max_payload
    if size > limit:
        # The server would close the connection for it.
        raise MessageRefusedError(f"a message of {size} bytes on {message.subject}; the server takes up to {limit}")
    return headers


async def append(
    connection: Connection, message: Outgoing, expected: ExpectedLast | None, timeout_seconds: float
) -> Appended:
    """Append one message; see ``Bus.append``. Sent again after a lost connection if its id makes that safe."""
    headers = _framed(connection, message, expected)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while True:
        try:
            await connection.wait_up(deadline)
            answer = await connection.request(
                message.subject, message.payload, headers, deadline=deadline, again=message.message_id is not None
            )
        except ConnectionLostError as error:
            if message.message_id is None:
                raise AppendTimeoutError(f"{error}, before the message on {message.subject} was confirmed") from error
        except NoRespondersError:
            # Not stored, so it may be sent again whether it has an id or not.
            await _require_stream(connection, message.subject)
            await asyncio.sleep(_LEADERLESS_PAUSE_SECONDS)
        except (TimeoutError, BusUnreachableError) as error:
            if connection.closed:
                raise
            await connection.unheard()
            raise _timed_out(connection, message.subject, timeout_seconds) from error
        except DeniedError as error:
            raise AppendRejectedError(str(error)) from error
        else:
            try:
                place = acknowledged(answer.payload)
            except AppendTimeoutError:
                if message.message_id is None or loop.time() + _LEADERLESS_PAUSE_SECONDS >= deadline:
                    raise
                await asyncio.sleep(_LEADERLESS_PAUSE_SECONDS)
            except WrongSequenceError:
                before = await _stored_before(connection, message, expected, answer.payload)
                if before is None:
                    raise
                return before
            else:
                connection.heard()
                return place


async def _stored_before(
    connection: Connection, message: Outgoing, expected: ExpectedLast | None, payload: bytes
) -> Appended | None:
    """Return the place of ``message`` if an earlier try of it is why the expectation fails now.

    The server looks at the expectation first and at the id afterwards, so without this whoever retries after a
    lost acknowledgement would be told that somebody else was faster. An earlier try that was stored is the very
    next message after the expected one.
    """
    if message.message_id is None or expected is None:
        return None
    stream = str(json.loads(payload)["stream"])
    which = {"seq": expected.sequence + 1, "next_by_subj": expected.subjects}
    found = await find(connection, stream, which)
    if found is None or found.headers.get(MESSAGE_ID) != message.message_id:
        return None
    return Appended(stream, found.sequence, duplicate=True)


def _timed_out(connection: Connection, subject: str, timeout_seconds: float) -> AppendTimeoutError:
    return AppendTimeoutError(
        f"a message on {subject} was not confirmed by NATS at {connection.shown_url} within {timeout_seconds:g} s"
        + (f": {connection.last_error}" if connection.last_error and not connection.up else "")
    )


async def _require_stream(connection: Connection, subject: str) -> None:
    """Return if a stream takes ``subject``: then it is without a leader for a moment. Else raise what is missing."""
    try:
        names = (await connection.api("STREAM.NAMES", body={"subject": subject})).get("streams")
    except NoRespondersError as error:
        raise BusUnreachableError(f"JetStream at {connection.shown_url} is away") from error
    if not names:
        raise StreamMissingError(
            f"no stream at {connection.shown_url} takes messages on {subject}. `shardbus up` sets the streams up"
        )


async def append_many(
    connection: Connection, messages: Sequence[Outgoing], timeout_seconds: float
) -> Sequence[Appended]:
    """Append messages in order; see ``Bus.append_many``. The timeout is that of silence, not of the whole."""
    window = _Window(connection, messages)
    try:
        return await window.run(timeout_seconds)
    finally:
        window.close()


class _Window:
    """The messages of one call: sent in order, at most so many of them unacknowledged."""

    def __init__(self, connection: Connection, messages: Sequence[Outgoing]) -> None:
        self._connection = connection
        self._messages = messages
        self._blocks = [_framed(connection, message) for message in messages]
        self._places: list[Appended | None] = [None] * len(messages)
        self._confirmed = 0
        self._sent = 0
        self._unconfirmed_bytes = 0
        self._failure: Exception | None = None
        self._bell = Bell()
        self._owner = connection.new_token()
        connection.receivers[self._owner.encode()] = self._receive
        connection.watchers.add(self._bell.ring)
        for subject in {message.subject for message in messages}:
            connection.forgive(subject)

    def close(self) -> None:
        """Stop listening."""
        del self._connection.receivers[self._owner.encode()]
        self._connection.watchers.discard(self._bell.ring)

    async def run(self, timeout_seconds: float) -> Sequence[Appended]:
        """Send everything and return the places."""
        loop = asyncio.get_running_loop()
        epoch, confirmed, heard = self._connection.epoch, -1, loop.time()
        while self._confirmed < len(self._messages):
            if self._failure is not None:
                raise await self._explained(self._failure)
            if self._confirmed != confirmed:
                confirmed, heard = self._confirmed, loop.time()
            if loop.time() >= heard + timeout_seconds:
                raise _timed_out(self._connection, self._messages[self._first_unconfirmed()].subject, timeout_seconds)
            if self._connection.epoch != epoch:
                self._go_back()
                epoch = self._connection.epoch
            if self._connection.up:
                self._send()
            await self._changed(heard + timeout_seconds - loop.time())
        return cast("list[Appended]", self._places)  # all are set: as many are confirmed as there are

    def _first_unconfirmed(self) -> int:
        return self._places.index(None)

    def _go_back(self) -> None:
        """Begin again at the first unconfirmed message, if all that may be stored already have ids."""
        first = self._first_unconfirmed()
        for index in range(first, self._sent):
            if self._places[index] is None and self._messages[index].message_id is None:
                raise AppendTimeoutError(
                    f"the connection to NATS at {self._connection.shown_url} was lost, before message {index + 1} of "
                    f"{len(self._messages)}, on {self._messages[index].subject}, was confirmed"
                )
        self._sent, self._unconfirmed_bytes = first, 0

    def _send(self) -> None:
        client, inbox = self._connection.client, f"{self._connection.inbox}.{self._owner}."
        # Everything up to `_sent` is in flight or confirmed; after `_go_back` some of what follows is confirmed too.
        room = _WINDOW_MESSAGES - (self._sent - self._confirmed)
        if room < _WINDOW_MESSAGES // 4:
            return
        while room > 0 and self._sent < len(self._messages) and self._unconfirmed_bytes < _WINDOW_BYTES:
            index = self._sent
            self._sent += 1
            if self._places[index] is None:
                message = self._messages[index]
                client.write(message.subject, f"{inbox}{index}", self._blocks[index], message.payload)
                self._unconfirmed_bytes += len(message.payload)
                room -= 1
        client.kick()

    def _receive(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        index = int(rest)
        if self._places[index] is not None:
            return  # the acknowledgement of a message sent twice
        if headers:
            # The server sends headers only to say that nobody took the message.
            self._failure = NoRespondersError(self._messages[index].subject)
        else:
            try:
                self._places[index] = acknowledged(payload)
            except (BusError, ValueError, KeyError, TypeError) as error:
                self._failure = error
            else:
                self._confirmed += 1
                self._unconfirmed_bytes = max(0, self._unconfirmed_bytes - len(self._messages[index].payload))
        self._bell.ring()

    async def _changed(self, timeout_seconds: float) -> None:
        if self._connection.denials:
            self._raise_if_denied()
        if self._connection.closed:
            raise BusUnreachableError("this connection to the bus is closed")
        await self._bell.wait(timeout_seconds)

    def _raise_if_denied(self) -> None:
        for subject in {self._messages[i].subject for i in range(self._sent) if self._places[i] is None}:
            words = self._connection.denial(subject)
            if words is not None:
                raise AppendRejectedError(f"NATS at {self._connection.shown_url} does not permit it: {words}")

    async def _explained(self, failure: Exception) -> BusError:
        if isinstance(failure, NoRespondersError):
            subject = str(failure)
            await _require_stream(self._connection, subject)
            return BusUnreachableError(f"the stream of {subject} has no leader now; some messages are not stored")
        if isinstance(failure, BusError):
            return failure
        return BusError(f"an acknowledgement could not be read: {failure}")
