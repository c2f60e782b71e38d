"""What every process may ask of the bus.

The adapters are ``nats.py`` (real) and ``memory.py`` (tests and offline tools); one contract suite runs on both.

A *stream* is an append-only log. ``append`` writes to it; ``follow`` reads it in order from any sequence and never
moves a cursor on the server; ``work`` shares a work queue between workers, each item acknowledged on its own.

Who only reads needs no more than a ``Log``.

A *message* that no stream keeps is for whoever listens now: ``tell`` sends one, ``listen`` hears them, ``request``
sends one and returns the first answer.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


class BusError(Exception):
    """Something on the way to the bus went wrong. The text says what, where, and what to do."""


class BusUnreachableError(BusError):
    """No server answered."""


class NoRespondersError(BusUnreachableError):
    """A server answered, but nobody listens on the subject: no such stream, no such agent, or JetStream is away."""


class NoAnswerError(BusError):
    """Somebody listens, or did a moment ago, and gave no answer in time."""


class AppendTimeoutError(BusError):
    """No acknowledgement came in time: the message may or may not be in the stream. Retry with the same id."""


class AppendRejectedError(BusError):
    """The server refused the message, and said why; it is not in the stream."""


class MessageRefusedError(AppendRejectedError):
    """The server refused this message for what it is, as one that is too large: it never will take it."""


class WrongSequenceError(AppendRejectedError):
    """Somebody else appended first: the expected last sequence is not the last any more."""


class StreamMissingError(BusError):
    """The stream does not exist on this server."""


class StreamReplacedError(StreamMissingError):
    """The stream is not the one that was followed: it was deleted and made anew."""


class StreamShortenedError(StreamReplacedError):
    """The stream lost its newest part, and gives its sequences a second time.

    A server that was killed may forget the last acknowledged messages of a stream it does not flush at every message
    (``TELEMETRY``); or an older copy was restored.
    """


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to append."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    message_id: str | None = None
    """Deduplicates within the stream's window; ``None`` where duplicates do no harm (telemetry)."""


@dataclass(frozen=True, slots=True)
class ExpectedLast:
    """An optimistic check: the newest message on ``subjects`` (wildcards allowed) must have ``sequence``; 0 is none."""

    subjects: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the message is."""

    stream: str
    sequence: int
    duplicate: bool = False
    """The stream had a message of this id already; ``sequence`` is that one's."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream holds it."""

    stream: str
    sequence: int
    subject: str
    headers: Mapping[str, str]
    payload: bytes
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream's identity and extent."""

    name: str
    created: datetime
    """Differs when the stream was deleted and made anew."""
    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int
    replicas: int = 1
    """On how many servers it is. Of several, one that just became the leader may be a moment behind."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that no stream keeps."""

    subject: str
    payload: bytes
    reply: str | None = None
    """Where its sender waits for an answer: ``tell`` it there."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class WorkItem(Protocol):
    """A message of a work queue, held by this worker until it is settled."""

    @property
    def stored(self) -> Stored:
        """The message."""
        ...

    @property
    def attempt(self) -> int:
        """1 on first delivery."""
        ...

    async def ack(self) -> None:
        """Remove it from the queue; returns when the server has confirmed."""
        ...

    async def nak(self, delay_seconds: float = 0) -> None:
        """Give it back, to be delivered again after ``delay_seconds``."""
        ...

    async def in_progress(self) -> None:
        """Ask for more time."""
        ...


class Log(Protocol):
    """What may be asked of streams by who only reads them: the bus answers, and so does an archive of it."""

    def follow(
        self,
        stream: str,
        *,
        start_sequence: int = 1,
        subjects: Sequence[str] = (),
        max_batch: int = 5000,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[Stored], None]:
        """Yield batches of messages in stream order, for ever: whatever has arrived, at most ``max_batch``.

        It heals itself over reconnects and server restarts without a gap or a repeat, and its memory is bounded.
        With ``idle_seconds`` an empty batch is yielded after that much silence. ``subjects`` filters; wildcards
        allowed. Raises StreamMissingError, and StreamReplacedError in the middle. Close it with ``aclose()``;
        it ends when the bus is closed.
        """
        ...

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return one message, or ``None`` if the stream does not hold it any more."""
        ...

    async def last(self, stream: str, subjects: str) -> Stored | None:
        """Return the newest message whose subject matches ``subjects`` (wildcards allowed)."""
        ...

    async def info(self, stream: str) -> StreamInfo:
        """Return a stream's identity and extent; raises StreamMissingError."""
        ...


class Bus(Log, Protocol):
    """A connection to the bus."""

    async def append(
        self, message: Outgoing, *, expected: ExpectedLast | None = None, timeout_seconds: float = 5
    ) -> Appended:
        """Append one message and return once it is stored.

        Raises WrongSequenceError, MessageRefusedError, AppendRejectedError, AppendTimeoutError, BusUnreachableError.
        """
        ...

    async def append_many(self, messages: Sequence[Outgoing], *, timeout_seconds: float = 30) -> Sequence[Appended]:
        """Append messages in order, with a bounded window of unacknowledged ones, and return their places.

        Raises as ``append``; then the messages before the failed one may or may not be stored.
        """
        ...

    def work(
        self, stream: str, *, durable: str, max_pending: int = 1, ack_wait_seconds: float = 30
    ) -> AsyncGenerator[WorkItem, None]:
        """Yield items of a work queue that all workers of one ``durable`` name share; heals itself likewise."""
        ...

    async def tell(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a message to whoever listens now; nobody need.

        Raises BusUnreachableError while the bus is away, MessageRefusedError for what cannot be sent.
        """
        ...

    def listen(
        self, subjects: str, *, max_waiting: int = 1000, group: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[Heard]]:
        """Hear what is told on ``subjects`` (wildcards allowed) within the ``async with``.

        Of all who listen as one ``group`` each message goes to one. Once entered, everything that is told afterwards is
        heard, one's own words too; while the bus is away nothing is, and it heals itself. Of what the reader has not
        taken yet only the newest ``max_waiting`` are kept. The iterator ends when the bus is closed.
        """
        ...

    async def request(self, subject: str, payload: bytes, *, timeout_seconds: float = 2) -> bytes:
        """Send a message and return the first answer.

        Raises NoRespondersError at once if nobody listens, NoAnswerError after the timeout, BusUnreachableError while
        the bus is away.
        """
        ...

    async def close(self) -> None:
        """Flush what is pending and disconnect. Idempotent."""
        ...
