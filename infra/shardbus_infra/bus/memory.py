"""The bus in memory: what a NATS server does, within one process, for tests and offline tools."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self, cast

from shardbus_schemas.subjects import matches

from shardbus_infra.bus.bell import Bell
from shardbus_infra.bus.hearing import Hearing
from shardbus_infra.bus.port import (
    Appended,
    AppendTimeoutError,
    BusError,
    BusUnreachableError,
    ExpectedLast,
    Heard,
    NoAnswerError,
    NoRespondersError,
    Outgoing,
    Stored,
    StreamInfo,
    StreamMissingError,
    StreamReplacedError,
    WorkItem,
    WrongSequenceError,
)
from shardbus_infra.bus.streams import STREAMS, StreamSpec
from shardbus_infra.bus.wire import MESSAGE_ID, checked_subject, decode_headers, encode_headers, message_headers


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Hold:
    """A message that a worker has, or that waits out its delay."""

    attempt: int
    until: float
    """Loop time at which it may be delivered again."""


@dataclass(slots=True)
class _Log:
    """One stream."""

    config: Mapping[str, object]
    created: datetime
    messages: list[Stored] = field(default_factory=list[Stored])
    last_sequence: int = 0
    sequence_by_subject: dict[str, int] = field(default_factory=dict[str, int])
    seen_ids: dict[str, tuple[datetime, int]] = field(default_factory=dict[str, tuple[datetime, int]])
    holds: dict[str, dict[int, _Hold]] = field(default_factory=dict[str, dict[int, _Hold]])
    """By durable name and sequence."""

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def subjects(self) -> Sequence[str]:
        return cast("Sequence[str]", self.config["subjects"])

    def takes(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.subjects)

    def index_of(self, sequence: int) -> int:
        """Return where the first message of ``sequence`` or above is."""
        return bisect_left(self.messages, sequence, key=lambda stored: stored.sequence)

    def get(self, sequence: int) -> Stored | None:
        index = self.index_of(sequence)
        found = self.messages[index] if index < len(self.messages) else None
        return found if found is not None and found.sequence == sequence else None

    def last(self, pattern: str) -> Stored | None:
        sequences = [last for subject, last in self.sequence_by_subject.items() if matches(pattern, subject)]
        return self.get(max(sequences)) if sequences else None

    def next(self, sequence: int, pattern: str) -> Stored | None:
        """Return the first message of ``sequence`` or above whose subject matches."""
        following = self.messages[self.index_of(sequence) :]
        return next((stored for stored in following if matches(pattern, stored.subject)), None)

    def remove(self, sequence: int) -> None:
        removed = self.get(sequence)
        if removed is None:
            return
        del self.messages[self.index_of(sequence)]
        if self.sequence_by_subject[removed.subject] == sequence:
            del self.sequence_by_subject[removed.subject]
            earlier = next((stored for stored in reversed(self.messages) if stored.subject == removed.subject), None)
            if earlier is not None:
                self.sequence_by_subject[removed.subject] = earlier.sequence


class MemoryServer:
    """The streams and who waits for them; any number of ``MemoryBus`` may share one."""

    def __init__(self, streams: Sequence[StreamSpec] = STREAMS, *, now: Callable[[], datetime] = _now) -> None:
        self.now: Callable[[], datetime] = now
        self.logs: dict[str, _Log] = {spec.name: _Log(spec.config, now()) for spec in streams}
        self.hearings: list[Hearing] = []
        self._bells: set[Bell] = set()
        self._inboxes = 0
        self._told = 0

    def tell(self, heard: Heard) -> int:
        """Give a message to whoever listens, of a group to one, and return to how many."""
        listening = [hearing for hearing in self.hearings if matches(hearing.subjects, heard.subject)]
        groups: dict[str, list[Hearing]] = {}
        for hearing in listening:
            if hearing.group:
                groups.setdefault(hearing.group, []).append(hearing)
        self._told += 1
        chosen = [hearing for hearing in listening if not hearing.group]
        chosen += [members[self._told % len(members)] for members in groups.values()]
        for hearing in chosen:
            hearing.put(heard)
        return len(chosen)

    def new_inbox(self) -> str:
        """Return a subject that nobody has listened on."""
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    def log(self, stream: str) -> _Log:
        """Return the log of ``stream``; raises StreamMissingError."""
        found = self.logs.get(stream)
        if found is None:
            raise StreamMissingError(
                f"there is no stream {stream} in memory; there are {', '.join(self.logs) or 'none'}"
            )
        return found

    def append(self, message: Outgoing, expected: ExpectedLast | None) -> Appended:
        """Store ``message`` in the stream that takes its subject; raises as ``Bus.append``."""
        subject = checked_subject(message.subject)
        headers = decode_headers(encode_headers(message_headers(message, expected)))
        log = next((log for log in self.logs.values() if log.takes(subject)), None)
        if log is None:
            raise StreamMissingError(f"no stream takes messages on {subject}")
        now = self.now()
        if expected is not None:
            last = log.last(expected.subjects)
            sequence = 0 if last is None else last.sequence
            if sequence != expected.sequence:
                before = log.next(expected.sequence + 1, expected.subjects)
                before_id = None if before is None else before.headers.get(MESSAGE_ID)
                if before is not None and before_id is not None and before_id == message.message_id:
                    return Appended(log.name, before.sequence, duplicate=True)
                raise WrongSequenceError(
                    f"the last message on {expected.subjects} has sequence {sequence}, not {expected.sequence}"
                )
        if message.message_id is not None:
            window = timedelta(microseconds=cast("int", log.config["duplicate_window"]) // 1000)
            while log.seen_ids and now - next(iter(log.seen_ids.values()))[0] >= window:
                del log.seen_ids[next(iter(log.seen_ids))]
            seen = log.seen_ids.get(message.message_id)
            if seen is not None:
                return Appended(log.name, seen[1], duplicate=True)
        log.last_sequence += 1
        if message.message_id is not None:
            log.seen_ids[message.message_id] = now, log.last_sequence
        log.messages.append(Stored(log.name, log.last_sequence, subject, headers, message.payload, now))
        log.sequence_by_subject[subject] = log.last_sequence
        self.notify()
        return Appended(log.name, log.last_sequence)

    def notify(self) -> None:
        """Wake everybody who waits."""
        for bell in self._bells:
            bell.ring()

    async def changed(self, timeout_seconds: float | None) -> None:
        """Return after the next change, or when the time has passed."""
        bell = Bell()
        self._bells.add(bell)
        try:
            await bell.wait(timeout_seconds)
        finally:
            self._bells.discard(bell)


class _Item:
    """A message of a work queue in a worker's hands."""

    def __init__(
        self, server: MemoryServer, durable: str, stored: Stored, hold: _Hold, ack_wait_seconds: float
    ) -> None:
        self._server = server
        self._durable = durable
        self._stored = stored
        self._hold = hold
        self._ack_wait_seconds = ack_wait_seconds
        self.settled: bool = False
        self.attempt: int = hold.attempt

    @property
    def stored(self) -> Stored:
        return self._stored

    @property
    def held(self) -> bool:
        return not self.settled and self._hold.until > asyncio.get_running_loop().time()

    @property
    def expires(self) -> float:
        """Loop time at which the message goes to somebody else."""
        return self._hold.until

    async def ack(self) -> None:
        log = self._server.log(self._stored.stream)
        if log.config["retention"] == "workqueue":
            log.remove(self._stored.sequence)
            log.holds[self._durable].pop(self._stored.sequence, None)
        else:
            self._hold.until = float("inf")
        self._settle()

    async def nak(self, delay_seconds: float = 0) -> None:
        self._hold.until = asyncio.get_running_loop().time() + delay_seconds
        self._settle()

    async def in_progress(self) -> None:
        self._hold.until = asyncio.get_running_loop().time() + self._ack_wait_seconds

    def _settle(self) -> None:
        self.settled = True
        self._server.notify()


class MemoryBus:
    """A connection to streams in memory. Without arguments it has the declared streams, empty."""

    def __init__(
        self,
        streams: Sequence[StreamSpec] = STREAMS,
        *,
        now: Callable[[], datetime] = _now,
        server: MemoryServer | None = None,
    ) -> None:
        self.server: MemoryServer = server or MemoryServer(streams, now=now)
        self._closed = False
        self._hearings: list[Hearing] = []

    def another(self) -> Self:
        """Return another connection to the same streams, as another process would have."""
        return type(self)(server=self.server)

    def _require_open(self) -> None:
        if self._closed:
            raise BusUnreachableError("this connection to the bus is closed")

    async def append(
        self, message: Outgoing, *, expected: ExpectedLast | None = None, timeout_seconds: float = 5
    ) -> Appended:
        """Append one message; see ``Bus.append``."""
        self._require_open()
        if timeout_seconds <= 0:
            raise AppendTimeoutError(f"no time was given to append to {message.subject}")
        return self.server.append(message, expected)

    async def append_many(self, messages: Sequence[Outgoing], *, timeout_seconds: float = 30) -> Sequence[Appended]:
        """Append messages in order; see ``Bus.append_many``."""
        return [await self.append(message, timeout_seconds=timeout_seconds) for message in messages]

    async def follow(
        self,
        stream: str,
        *,
        start_sequence: int = 1,
        subjects: Sequence[str] = (),
        max_batch: int = 5000,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[Stored], None]:
        """Yield batches in stream order; see ``Bus.follow``. It ends when the bus is closed."""
        self._require_open()
        loop = asyncio.get_running_loop()
        following = self.server.log(stream)
        after, heard = start_sequence - 1, loop.time()
        while not self._closed:
            if self.server.logs.get(stream) is not following:
                raise StreamReplacedError(f"stream {stream} was deleted, or made anew, while it was followed")
            index = following.index_of(after + 1)
            batch: list[Stored] = []
            while index < len(following.messages) and len(batch) < max_batch:
                stored = following.messages[index]
                index += 1
                after = stored.sequence
                if not subjects or any(matches(pattern, stored.subject) for pattern in subjects):
                    batch.append(stored)
            idle = idle_seconds is not None and loop.time() >= heard + idle_seconds
            if batch or idle:
                yield batch
                heard = loop.time()
            elif index >= len(following.messages):
                await self.server.changed(None if idle_seconds is None else heard + idle_seconds - loop.time())

    async def work(
        self, stream: str, *, durable: str, max_pending: int = 1, ack_wait_seconds: float = 30
    ) -> AsyncGenerator[WorkItem, None]:
        """Yield items of a work queue; see ``Bus.work``. It ends when the bus is closed."""
        self._require_open()
        mine: list[_Item] = []
        while not self._closed:
            log = self.server.log(stream)
            holds = log.holds.setdefault(durable, {})
            now = asyncio.get_running_loop().time()
            mine = [item for item in mine if item.held]
            if len(mine) >= max_pending:
                await self.server.changed(min(item.expires for item in mine) - now)
                continue
            stored = next((s for s in log.messages if s.sequence not in holds or holds[s.sequence].until <= now), None)
            if stored is None:
                await self.server.changed(min((hold.until - now for hold in holds.values()), default=None))
                continue
            earlier = holds.get(stored.sequence)
            hold = _Hold(1 if earlier is None else earlier.attempt + 1, now + ack_wait_seconds)
            holds[stored.sequence] = hold
            item = _Item(self.server, durable, stored, hold, ack_wait_seconds)
            mine.append(item)
            yield item

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return one message, or ``None``."""
        self._require_open()
        return self.server.log(stream).get(sequence)

    async def last(self, stream: str, subjects: str) -> Stored | None:
        """Return the newest message on ``subjects``, or ``None``."""
        self._require_open()
        return self.server.log(stream).last(subjects)

    async def info(self, stream: str) -> StreamInfo:
        """Return a stream's identity and extent."""
        self._require_open()
        log = self.server.log(stream)
        return StreamInfo(
            name=log.name,
            created=log.created,
            first_sequence=log.messages[0].sequence if log.messages else log.last_sequence + 1,
            last_sequence=log.last_sequence,
            messages=len(log.messages),
            bytes=sum(len(stored.payload) for stored in log.messages),
        )

    async def tell(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a message to whoever listens; see ``Bus.tell``."""
        self._require_open()
        sent = decode_headers(encode_headers(headers or {}))
        self.server.tell(Heard(checked_subject(subject), payload, None, sent))

    @asynccontextmanager
    async def listen(
        self, subjects: str, *, max_waiting: int = 1000, group: str = ""
    ) -> AsyncGenerator[AsyncIterator[Heard], None]:
        """Hear what is told; see ``Bus.listen``."""
        self._require_open()
        hearing = Hearing(subjects, max_waiting, group)
        self.server.hearings.append(hearing)
        self._hearings.append(hearing)
        try:
            yield hearing
        finally:
            self._hearings.remove(hearing)
            if hearing in self.server.hearings:
                self.server.hearings.remove(hearing)

    async def request(self, subject: str, payload: bytes, *, timeout_seconds: float = 2) -> bytes:
        """Send a message and return the first answer; see ``Bus.request``."""
        self._require_open()
        inbox = self.server.new_inbox()
        async with self.listen(inbox) as answers:
            if not self.server.tell(Heard(checked_subject(subject), payload, inbox)):
                raise NoRespondersError(f"nobody listens on {subject}")
            try:
                async with asyncio.timeout(timeout_seconds):
                    return (await anext(answers)).payload
            except TimeoutError as error:
                raise NoAnswerError(
                    f"somebody listens on {subject}, but gave no answer in {timeout_seconds:g} s"
                ) from error
            except StopAsyncIteration as error:
                raise BusUnreachableError("this connection to the bus is closed") from error

    async def close(self) -> None:
        """End this connection's follows, works and listening. What is in the streams stays."""
        self._closed = True
        for hearing in self._hearings:
            hearing.end()
            self.server.hearings.remove(hearing)
        self.server.notify()

    async def stream_config(self, name: str) -> Mapping[str, object] | None:
        """Return a stream's configuration, or ``None``."""
        self._require_open()
        log = self.server.logs.get(name)
        return None if log is None else log.config

    async def create_stream(self, config: Mapping[str, object]) -> None:
        """Create a stream."""
        self._require_open()
        name = str(config["name"])
        if name in self.server.logs:
            raise BusError(f"stream {name} exists already")
        self.server.logs[name] = _Log(dict(config), self.server.now())

    async def update_stream(self, config: Mapping[str, object]) -> None:
        """Change a stream's configuration."""
        self._require_open()
        self.server.log(str(config["name"])).config = dict(config)

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with all it holds."""
        self._require_open()
        del self.server.logs[self.server.log(name).name]
        self.server.notify()
