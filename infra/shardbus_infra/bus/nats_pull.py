"""A pull consumer kept alive: messages as they arrive, and a new beginning whenever something is off."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from nats.aio.subscription import Subscription

from shardbus_infra.bus.bell import Bell
from shardbus_infra.bus.nats_connection import (
    ApiError,
    Connection,
    DeniedError,
)
from shardbus_infra.bus.port import BusError, BusUnreachableError, StreamMissingError, StreamReplacedError
from shardbus_infra.bus.wire import decode_headers, status_of

_log = logging.getLogger(__name__)

EXPIRES_SECONDS: Final = 30
HEARTBEAT_SECONDS: Final = 1.5
_SILENCE_SECONDS: Final = 5.0
"""Three missed heartbeats and a little."""
_LOOK_SECONDS: Final = 1.0
_MISSING_SECONDS: Final = 5.0
"""How long a stream that was there may be missing: a cluster that starts does not know all its streams at once."""
_LONGEST_PAUSE_SECONDS: Final = 2.0
_MOST_BYTES: Final = 16 * 1024 * 1024
_NANOSECONDS: Final = 1_000_000_000

# These statuses end one pull; any other error ends the session.
_PULL_ENDED: Final = ("no messages", "request timeout", "batch completed", "message size exceeds maxbytes")


Arrival = tuple[bytes, bytes, bytes, bytes | None]
"""A message as it came: subject, reply subject, payload, header block."""


class Session:
    """One life of a pull consumer, from its creation to the first thing that goes wrong."""

    def __init__(self, stream: str, consumer: str, changed: Callable[[], None], now: Callable[[], float]) -> None:
        self.consumer: str = consumer
        self.next_subject: str = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self.arrived: deque[Arrival] = deque()
        self.arrived_bytes: int = 0
        self.outstanding: int = 0
        """Messages asked for that have not come."""
        self.heard: float = now()
        self.broken: str | None = None
        self.subscription: Subscription | None = None
        self._changed = changed
        self._now = now

    def receive(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        """Take what the server sent: a message, or a word about a pull."""
        self.heard = self._now()
        if reply.startswith(b"$JS.ACK."):
            self.arrived.append((subject, reply, payload, headers))
            self.arrived_bytes += len(payload) + len(headers or b"")
            self.outstanding -= 1
            if len(self.arrived) == 1:  # who reads goes on until nothing is left
                self._changed()
        else:
            self._take_status(headers)
            self._changed()

    def _take_status(self, headers: bytes | None) -> None:
        status = status_of(headers)
        if status is None or status.code == 100:  # noqa: PLR2004 - an idle heartbeat
            return
        unsent = decode_headers(headers).get("Nats-Pending-Messages", "")
        if status.description.lower().startswith(_PULL_ENDED) and unsent.isdigit():
            self.outstanding -= int(unsent)
        else:
            self.broken = f"{status.code} {status.description}".strip()


class Puller:
    """Keeps a session going, on behalf of a reader that takes from ``session.arrived``.

    ``create`` makes (or finds) the consumer and returns its name; ``room`` says how many more messages may be
    asked for now.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        create: Callable[[], Awaitable[str]],
        room: Callable[[Session], int],
        keep_arrived: bool = False,
    ) -> None:
        self.session: Session | None = None
        self.failure: BaseException | None = None
        self._connection = connection
        self._stream = stream
        self._create = create
        self._room = room
        self._keep_arrived = keep_arrived
        self._reader = Bell()
        self._keeper = Bell()
        self._was_open = False
        self._epoch = connection.epoch
        self._loop = asyncio.get_running_loop()
        self._last_good = self._loop.time()
        self._task = self._loop.create_task(self._keep_going())
        self._task.add_done_callback(self._on_end)
        connection.watchers.add(self._wake)

    async def close(self) -> Session | None:
        """Stop asking, and return the last session with what arrived and was not taken."""
        self._connection.watchers.discard(self._wake)
        self._task.cancel()
        await asyncio.wait({self._task})
        session, self.session = self.session, None
        if session is not None and session.subscription is not None:
            await self._connection.client.forget(session.subscription)
        return session

    async def changed(self, timeout_seconds: float | None) -> None:
        """Return when something arrived, failed or changed, or when the time has passed."""
        await self._reader.wait(timeout_seconds)

    def ask(self) -> None:
        """Ask for as many messages as there is room for."""
        session = self.session
        if session is None or session.broken is not None or not self._connection.up:
            return
        room = self._room(session)
        if room <= 0:
            return
        if session.outstanding <= 0:
            # From now on heartbeats are due.
            session.heard = self._loop.time()
        session.outstanding += room
        pull = {
            "batch": room,
            "max_bytes": max(_MOST_BYTES, 2 * self._connection.client.max_payload),
            "expires": EXPIRES_SECONDS * _NANOSECONDS,
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANOSECONDS),
        }
        reply = "" if session.subscription is None else session.subscription.subject
        self._connection.client.write(session.next_subject, reply, b"", json.dumps(pull).encode())
        self._connection.client.kick()

    def restart(self, reason: str) -> None:
        """Begin a new session: this one cannot be trusted any more."""
        if self.session is not None:
            self.session.broken = reason
        self._wake()

    @property
    def crowded(self) -> bool:
        """Whether what has arrived and was not taken is large."""
        return self.session is not None and self.session.arrived_bytes > _MOST_BYTES

    def _wake(self) -> None:
        self._reader.ring()
        self._keeper.ring()

    def _on_session_changed(self) -> None:
        self._reader.ring()
        if self.session is not None and self.session.broken is not None:
            self._keeper.ring()

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        """Hand an error that nobody foresaw to the reader; he must not wait for ever."""
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
        self._wake()

    async def _keep_going(self) -> None:
        pause = 0.05
        while not self._connection.closed:
            try:
                await self._open()
            except BusError as error:
                if not self._may_pass(error):
                    self.failure = error
                    return
                _log.info("stream %s: %s; trying again", self._stream, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            pause = 0.05
            reason = await self._until_broken()
            if not self._connection.closed:
                _log.info("stream %s: a new consumer, because %s", self._stream, reason)

    def _may_pass(self, error: BusError) -> bool:
        """Return whether trying again may help."""
        if isinstance(error, DeniedError | StreamReplacedError):
            return False
        if isinstance(error, StreamMissingError | ApiError):
            # At first it is an answer; later it may be a server in the middle of its start.
            return self._was_open and self._loop.time() < self._last_good + _MISSING_SECONDS
        return isinstance(error, BusUnreachableError)

    async def _open(self) -> None:
        await self._connection.wait_up(self._loop.time() + 3600)
        self._epoch = self._connection.epoch
        consumer = await self._create()
        session = Session(self._stream, consumer, self._on_session_changed, self._loop.time)
        session.subscription = await self._connection.listen(session.receive)
        old, self.session = self.session, session
        if old is not None:
            if self._keep_arrived:
                session.arrived.extend(old.arrived)
                session.arrived_bytes = old.arrived_bytes
            if old.subscription is not None:
                await self._connection.client.forget(old.subscription)
        self._was_open = True
        self._connection.forgive(session.next_subject)
        self.ask()
        self._wake()

    async def _until_broken(self) -> str:
        """Return why the session cannot go on, once it cannot."""
        session = self.session
        assert session is not None
        while True:
            before = self._loop.time()
            await self._keeper.wait(_LOOK_SECONDS)
            now = self._loop.time()
            if now - before > 2 * _LOOK_SECONDS:
                # This process itself was busy or asleep: what arrived meanwhile has yet to be read.
                session.heard = now
            reason = self._trouble(session, now)
            if reason is not None:
                session.broken = reason
                return reason
            self._last_good = now

    def _trouble(self, session: Session, now: float) -> str | None:
        denied = self._connection.denial(session.next_subject)
        if denied is not None:
            self.failure = DeniedError(f"NATS at {self._connection.shown_url} does not permit it: {denied}")
            return denied
        if self._connection.closed:
            return "the connection is closed"
        if self._connection.epoch != self._epoch:
            return "the connection was lost"
        if session.broken is not None:
            return session.broken
        if session.outstanding > 0 and now > session.heard + _SILENCE_SECONDS:
            return f"the server was silent for {now - session.heard:.1f} s"
        return None
