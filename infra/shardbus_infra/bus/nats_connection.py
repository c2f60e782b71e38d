"""A connection to NATS: its state, requests with their one answer, and JetStream's API."""

import asyncio
import json
import logging
import random
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from nats import errors
from nats.aio.client import Server
from nats.aio.subscription import Subscription

from shardbus_infra.bus.bell import Bell
from shardbus_infra.bus.nats_client import DirectClient, Handler
from shardbus_infra.bus.port import BusError, BusUnreachableError, NoRespondersError, StreamMissingError
from shardbus_infra.bus.wire import status_of

_log = logging.getLogger(__name__)

_OLDEST_SERVER: Final = (2, 12)
_NO_RESPONDERS: Final = 503
_STREAM_NOT_FOUND: Final = 10059
_DENIALS_REMEMBERED: Final = 1000
LEADERLESS: Final = (10005, 10008, 10009, 10118, 10119)
"""No suitable peers (a cluster that starts knows its servers one by one); JetStream temporarily unavailable; not the
leader; stream, consumer offline: all of them pass, or it is a cluster too small for what was asked."""
_LEASE_NANOSECONDS: Final = 3 * 1_000_000_000
"""A server that heard nothing from its leader for 4 to 9 s stands for election, so within this nobody else leads."""
_ELECTION_SECONDS: Final = 15.0
"""How long a cluster may take to agree on who leads it, some failed elections included."""
_ASK_AGAIN_SECONDS: Final = 1.0
"""Who leads a stream may die with the question in hand, and the next one has not heard it."""
_LEADERLESS_PAUSE_SECONDS: Final = 0.1
_MOVE_SECONDS: Final = 10.0
"""Longer than an election takes (4 to 9 s): who hears nothing for that long is cut off with his server."""
_NAME: Final = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]+")

Receiver = Callable[[bytes, bytes, bytes | None], None]
"""Takes the rest of the reply subject, the payload, the header block. It must not raise, nor take long."""


class ConnectionLostError(BusUnreachableError):
    """The connection broke before the answer came."""


class LeaderlessError(BusUnreachableError):
    """JetStream answers that nobody leads just now: an election goes on, or most of the cluster is away."""


class DeniedError(BusError):
    """The server does not permit this to this user."""


class ApiError(BusError):
    """JetStream's API refused."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code: int = code


class Answer(NamedTuple):
    """What came back for a request."""

    payload: bytes
    headers: bytes | None


@dataclass(frozen=True, slots=True)
class Health:
    """How the connection does, for a health page or a log."""

    connected: bool
    server: str
    reconnects: int
    last_error: str | None


def without_password(url: str) -> str:
    """Return ``url`` fit to be shown."""
    return re.sub(r"//[^/@,]*@", "//***@", url)


def is_led(cluster: Mapping[str, Any] | None) -> bool:
    """Return whether what a stream's server says of itself is the stream as it is, by its ``cluster`` part.

    A leader that is cut off from the others goes on answering for ten seconds and more, while they have elected
    another one and go on appending; and who has no leader answers with what he has. So most of the stream's servers,
    the leader among them, must have been in touch with each other a moment ago.
    """
    if cluster is None:  # a server without a cluster
        return True
    others: list[dict[str, Any]] = cluster.get("replicas") or []
    in_touch = sum(0 < int(other.get("active", 0)) < _LEASE_NANOSECONDS for other in others)
    return bool(cluster.get("leader")) and 2 * (1 + in_touch) > 1 + len(others)


class Connection:
    """A connection that comes back by itself. ``watchers`` are called when it is lost, back, closed or denied."""

    def __init__(self, url: str, name: str, *, inbox_prefix: str = "_INBOX") -> None:
        self.client: DirectClient = DirectClient()
        self.shown_url: str = without_password(url)
        self.epoch: int = 0
        """Grows with every loss of the connection."""
        self.up: bool = False
        self.closed: bool = False
        self.watchers: set[Callable[[], None]] = set()
        self.receivers: dict[bytes, Receiver] = {}
        self.inbox: str = ""
        self.last_error: str | None = None
        self.denials: dict[str, str] = {}
        """What the server refused, by the lower-cased subject, and its words."""
        self._url = url
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._requests: dict[bytes, asyncio.Future[Answer]] = {}
        self._logged: set[str] = set()
        self._tokens = 0
        self._tried: dict[str, float] = {}
        """When each server was last tried, by its address."""
        self._unanswered_since: float | None = None
        """When JetStream began to be silent or leaderless; ``None`` while it answers."""

    # --- coming and going

    async def open(self, timeout_seconds: float, credentials_file: Path | None, tls: ssl.SSLContext | None) -> None:
        """Connect; raises BusUnreachableError if nothing answers in time, BusError if it is not what we need.

        The time is for each address: one of them may be a machine that is off. A cluster, once one of it answers,
        has longer to agree on a leader.
        """
        addresses = [part.strip() for part in self._url.split(",")]
        for address in addresses:
            if "://" in address and not address.startswith(("nats://", "tls://")):
                raise BusUnreachableError(
                    f"{without_password(address)!r} cannot be connected to: an address begins with nats:// or tls://"
                )
        connecting = asyncio.ensure_future(
            self.client.connect(
                addresses,
                name=self._name,
                error_cb=self._on_error,
                disconnected_cb=self._on_lost,
                reconnected_cb=self._on_back,
                closed_cb=self._on_closed,
                # For ever; the default gives up after two minutes.
                max_reconnect_attempts=-1,
                reconnect_time_wait=cast("int", 0.25),  # a float is fine, whatever its annotation says
                reconnect_to_server_handler=self._next_server,
                connect_timeout=2,
                # A half-open connection is noticed after 10 to 15 s, not after 4 to 6 minutes.
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=64 * 1024 * 1024,
                inbox_prefix=self._inbox_prefix,
                user_credentials=credentials_file,
                tls=tls,
            )
        )
        try:
            await self._connected(connecting, timeout_seconds * len(addresses))
            self.inbox = self.client.new_inbox()
            await self.client.listen(f"{self.inbox}.>", self._on_reply)
            self.receivers[b"r"] = self._on_answer
            self.up = True
            self._note_server()
            self.last_error = None
            await self._require_jetstream(timeout_seconds if len(addresses) == 1 else _ELECTION_SECONDS)
        except BaseException:
            await _give_up(connecting)
            await self.close()
            raise

    async def _connected(self, connecting: "asyncio.Task[None]", timeout_seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while not connecting.done() and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait({connecting}, timeout=0.05)
            if self.last_error is not None and "authorization" in self.last_error.lower():
                raise BusUnreachableError(
                    f"NATS at {self.shown_url} refuses these credentials. Check the user and password in "
                    "SHARDBUS_NATS_URL, or the credentials file"
                )
        try:
            if not connecting.done():
                raise BusUnreachableError(
                    f"NATS at {self.shown_url} does not answer: {self.last_error or 'no reply'}. "
                    "Start it with `shardbus up`, or set SHARDBUS_NATS_URL"
                )
            connecting.result()
        except (errors.Error, OSError, ValueError) as error:
            raise BusUnreachableError(f"{self.shown_url!r} cannot be connected to: {error}") from error

    async def _require_jetstream(self, timeout_seconds: float) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor) < _OLDEST_SERVER:
            raise BusError(
                f"NATS at {self.shown_url} is version {version.major}.{version.minor}, and shardbus needs "
                f"{'.'.join(map(str, _OLDEST_SERVER))} or later: older ones ignore stream options without a word"
            )
        try:
            await self.api("INFO", timeout_seconds=timeout_seconds)
        except DeniedError:
            if self.denial(f"{self.inbox}.>"):
                raise
            _log.debug("this user may not ask for JetStream's account information")
        except (NoRespondersError, ApiError) as error:
            raise BusError(
                f"NATS at {self.shown_url} has no JetStream for this user: {error}. Start it with `nats-server -js`"
            ) from error

    async def close(self) -> None:
        """Send what is queued and disconnect. Idempotent."""
        if self.closed:
            return
        if self.up:
            with suppress(errors.Error):  # going anyway
                await self.client.flush(timeout=2)
        self.closed = True
        self.up = False
        self._fail_requests(ConnectionLostError("this connection to the bus is closed"))
        self._notify()
        await self.client.leave()

    @property
    def health(self) -> Health:
        """How it does now."""
        return Health(self.up, self.shown_url, self.client.stats["reconnects"], self.last_error)

    async def wait_up(self, deadline: float) -> None:
        """Return when connected; raises BusUnreachableError at ``deadline`` (loop time), or when closed."""
        loop = asyncio.get_running_loop()
        while not self.up:
            if self.closed:
                raise BusUnreachableError("this connection to the bus is closed")
            if loop.time() >= deadline:
                raise BusUnreachableError(f"NATS at {self.shown_url} does not answer: {self.last_error}")
            bell = Bell()
            self.watchers.add(bell.ring)
            try:
                await bell.wait(deadline - loop.time())
            finally:
                self.watchers.discard(bell.ring)

    def denial(self, subject: str) -> str | None:
        """Return the server's words if it refused a message on ``subject`` since ``forgive``."""
        # nats-py lowers the case of what the server says.
        return self.denials.get(subject.lower())

    def forgive(self, subject: str) -> None:
        """Forget that the server refused ``subject``: it shall be asked again."""
        self.denials.pop(subject.lower(), None)

    def _notify(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()

    async def _on_error(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__
        refused = re.search(r'permissions violation for (?:publish|subscription) to "([^"]*)"', self.last_error)
        if refused is None:
            _log.debug("NATS: %s", self.last_error)
            return
        # Who goes on trying is told each time; the log is told once.
        level = logging.DEBUG if self.last_error in self._logged else logging.WARNING
        _log.log(level, "NATS at %s: %s", self.shown_url, self.last_error)
        if len(self._logged) < _DENIALS_REMEMBERED:
            self._logged.add(self.last_error)
        if len(self.denials) < _DENIALS_REMEMBERED:
            self.denials[refused[1]] = self.last_error
        self._notify()

    async def _on_lost(self) -> None:
        self.client.drop_unsent()
        if not self.up:
            return
        self.up = False
        self.epoch += 1
        _log.info("the connection to NATS at %s is lost; trying to come back", self.shown_url)
        self._fail_requests(ConnectionLostError(f"the connection to NATS at {self.shown_url} was lost"))
        self._notify()

    async def _on_back(self) -> None:
        self.denials.clear()
        self._unanswered_since = None
        self.up = True
        _log.info("connected to NATS at %s again", self.shown_url)
        self._notify()

    async def _on_closed(self) -> None:
        self.up = False

    def _fail_requests(self, error: BusError) -> None:
        for future in self._requests.values():
            if not future.done():
                future.set_exception(error)

    def _next_server(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
        """Return where to try next, the server tried longest ago, and after how long.

        So a dead one holds nobody up. Jittered, so that a fleet does not come back all at once.
        """
        del info
        random.shuffle(servers)
        chosen = min(servers, key=lambda server: self._tried.get(server.uri.netloc, 0.0))
        self._tried[chosen.uri.netloc] = asyncio.get_running_loop().time()
        return chosen, random.uniform(0.1, 0.5)  # noqa: S311 - not a secret

    def _note_server(self) -> None:
        if self.client.connected_url is not None:
            self._tried[self.client.connected_url.netloc] = asyncio.get_running_loop().time()

    def heard(self) -> None:
        """Note that JetStream answers."""
        self._unanswered_since = None

    async def unheard(self) -> None:
        """Note that JetStream does not answer, or has no leader; after a while of that, go to another server.

        A server that is cut off from its cluster keeps its clients, and can do nothing for them.
        """
        now = asyncio.get_running_loop().time()
        if self._unanswered_since is None:
            self._unanswered_since = now
        elif now > self._unanswered_since + _MOVE_SECONDS and len(self.client.server_pool) > 1 and self.up:
            self._unanswered_since = None
            _log.info("JetStream did not answer for %.0f s; trying another server", _MOVE_SECONDS)
            await self.client.force_reconnect()

    # --- asking

    def _on_reply(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        del reply
        owner, _, rest = subject[len(self.inbox) + 1 :].partition(b".")
        receiver = self.receivers.get(owner)
        if receiver is not None:
            receiver(rest, payload, headers)

    def _on_answer(self, token: bytes, payload: bytes, headers: bytes | None) -> None:
        future = self._requests.get(token)
        if future is not None and not future.done():
            future.set_result(Answer(payload, headers))

    def new_token(self) -> str:
        """Return a token that this connection has not used before."""
        self._tokens += 1
        return str(self._tokens)

    async def listen(self, handler: Handler) -> Subscription:
        """Subscribe ``handler`` to an inbox of its own."""
        return await self.client.listen(self.client.new_inbox(), handler)

    async def request(
        self, subject: str, payload: bytes, headers: bytes, *, deadline: float, again: bool = False
    ) -> Answer:
        """Send one message and return its answer; with ``again`` it is sent every second until that comes.

        Raises ConnectionLostError, NoRespondersError, DeniedError, TimeoutError at ``deadline`` (loop time).
        """
        if not self.up:
            raise ConnectionLostError(f"there is no connection to NATS at {self.shown_url}")
        loop = asyncio.get_running_loop()
        token = self.new_token()
        future: asyncio.Future[Answer] = loop.create_future()
        self._requests[token.encode()] = future
        self.forgive(subject)

        def watch() -> None:
            # A refused inbox is remembered: no request will ever be answered.
            words = self.denial(subject) or self.denial(f"{self.inbox}.>")
            if words is not None and not future.done():
                future.set_exception(DeniedError(f"NATS at {self.shown_url} does not permit it: {words}"))

        self.watchers.add(watch)
        watch()
        try:
            async with asyncio.timeout_at(deadline):
                while not future.done():
                    self.client.write(subject, f"{self.inbox}.r.{token}", headers, payload)
                    self.client.kick()
                    await asyncio.wait({future}, timeout=_ASK_AGAIN_SECONDS if again else None)
            answer = future.result()
        finally:
            self.watchers.discard(watch)
            del self._requests[token.encode()]
        status = status_of(answer.headers)
        if status is not None and status.code == _NO_RESPONDERS:
            raise NoRespondersError(f"nobody answers on {subject} at {self.shown_url}")
        return answer

    async def api(
        self, verb: str, *names: str, body: Mapping[str, object] | None = None, timeout_seconds: float = 5
    ) -> dict[str, Any]:
        """Return what JetStream's API answers to ``verb`` about a stream (and a consumer of it).

        Asked again after a lost connection, and while nobody leads. Raises StreamMissingError, ApiError, DeniedError,
        NoRespondersError, BusUnreachableError (LeaderlessError).
        """
        for name in names:
            if not _NAME.fullmatch(name):
                raise StreamMissingError(f"{name!r} cannot be the name of a stream or consumer")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        subject = ".".join(("$JS.API", verb, *names))
        payload = b"" if body is None else json.dumps(body).encode()
        while True:
            await self.wait_up(deadline)
            try:
                answer = await self.request(subject, payload, b"", deadline=deadline, again=True)
                result = self._result(json.loads(answer.payload), subject, names)
            except ConnectionLostError:
                continue
            except LeaderlessError:
                await self.unheard()
                if loop.time() + _LEADERLESS_PAUSE_SECONDS >= deadline:
                    raise
                await asyncio.sleep(_LEADERLESS_PAUSE_SECONDS)
            except TimeoutError as error:
                await self.unheard()
                raise BusUnreachableError(
                    f"JetStream at {self.shown_url} gave no answer on {subject} within {timeout_seconds:g} s"
                ) from error
            else:
                self.heard()
                return result

    def _result(self, document: dict[str, Any], subject: str, names: tuple[str, ...]) -> dict[str, Any]:
        error: dict[str, Any] | None = document.get("error")
        if error is None:
            if subject.startswith("$JS.API.STREAM.INFO.") and not is_led(document.get("cluster")):
                raise LeaderlessError(f"stream {names[0]} at {self.shown_url} has no leader that most servers follow")
            return document
        code = int(error.get("err_code", 0))
        words = f"{error.get('description', 'no reason given')} (NATS error {code})"
        if code == _STREAM_NOT_FOUND and names:
            raise StreamMissingError(
                f"{words}: there is no stream {names[0]} at {self.shown_url}. `shardbus up` sets the streams up"
            )
        if code in LEADERLESS:
            raise LeaderlessError(f"{words}, asked on {subject} at {self.shown_url}")
        raise ApiError(f"{words}, asked on {subject} at {self.shown_url}", code)


async def _give_up(connecting: "asyncio.Task[None]") -> None:
    """Cancel until it is over: asyncio.wait_for within nats-py may swallow a cancellation, and go on for ever."""
    while not connecting.done():
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=0.1)
    if not connecting.cancelled():
        connecting.exception()  # said already; retrieved, so that nobody complains that it was not
