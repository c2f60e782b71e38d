"""Being measured: a TCP listener that does nothing for whoever does not show this boot's token.

A session has a thread of its own, of which there are few. It can make this node send no more than a few bursts, only
to the one who asked, and only in this node's turn.
"""

import asyncio
import hmac
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final

from shardbus_infra.errors import InfraError
from shardbus_schemas.ids import BootId, NodeId

from shardbus_agents.probe import wire
from shardbus_agents.probe.figures import burst
from shardbus_agents.probe.interfaces import Interfaces
from shardbus_agents.probe.turn import Turn
from shardbus_agents.probe.wire import Counted, Hello, ProbeError, Welcome

_log = logging.getLogger(__name__)

_SESSIONS: Final = 4
_BACKLOG: Final = 8
_HELLO_SECONDS: Final = 2.0
_STEP_SECONDS: Final = 5.0
"""How long the other end may be silent within a session."""

Served = Callable[[NodeId, BootId, float], None]
"""Told, on the loop, who has measured, in which boot, and how many seconds of the link it took."""


class ProbeServer:
    """One node's. ``listen`` first: then it has a port."""

    def __init__(self, token: str, turn: Turn, interfaces: Interfaces, served: Served | None = None) -> None:
        self._token = token
        self._turn = turn
        self._interfaces = interfaces
        self._served = served
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()

    def listen(self, host: str, port: int) -> int:
        """Bind and return the port; raises InfraError with what to do about it."""
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            both = host == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            raise InfraError(
                f"the probe server cannot listen on {host}:{port}: {error}. Give another address with --probe-listen "
                "or SHARDBUS_PROBE_LISTEN; port 0 takes one that is free"
            ) from error
        listener.setblocking(False)  # noqa: FBT003 - the standard library's own
        self._listener = listener
        return int(listener.getsockname()[1])

    async def run(self) -> None:
        """Serve until cancelled."""
        listener = self._listener
        assert listener is not None
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(_SESSIONS, thread_name_prefix="probe")
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listener)
                except OSError as error:  # out of descriptors, for one
                    _log.debug("probe server: %s", error)
                    await asyncio.sleep(1)
                    continue
                if len(self._open) >= _SESSIONS:
                    sock.close()
                    continue
                self._open.add(sock)
                pool.submit(self._serve, sock, loop).add_done_callback(partial(_close, sock))
        finally:
            self.close()
            for sock in tuple(self._open):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes its thread
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._listener is not None:
            self._listener.close()

    def _serve(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with sock:
                wire.prepare(sock, _HELLO_SECONDS)
                hello = wire.read_line(sock, Hello)
                # Bytes: text with other characters than ASCII would raise.
                if not hmac.compare_digest(hello.token.encode(), self._token.encode()):
                    _log.debug("probe server: a stranger without the token was turned away")
                    return
                sock.settimeout(_STEP_SECONDS)
                self._welcome(sock, hello, loop)
        except (OSError, ProbeError) as error:
            _log.debug("probe server: a session ended early: %s", error)
        finally:
            self._open.discard(sock)

    def _welcome(self, sock: socket.socket, hello: Hello, loop: asyncio.AbstractEventLoop) -> None:
        if not self._turn.take():
            wire.send_line(sock, Welcome(may="nothing", because="another measurement is going on"))
            return
        try:
            obstacle = self._turn.obstacle()
            interface = self._interfaces.of_address(str(sock.getsockname()[0]))
            self._turn.promise(interface.bytes_per_second)
            welcome = Welcome(
                may="burst" if obstacle is None else "ping",
                because=obstacle,
                after_seconds=self._turn.wait_seconds(),
                interface=interface.name,
                mtu=interface.mtu,
                speed_bytes_per_second=interface.bytes_per_second,
            )
            wire.send_line(sock, welcome)
            session = _Session(sock, self._turn, may_burst=obstacle is None)
            try:
                session.run()
            finally:
                spent = self._turn.spend(session.sent, session.received)
                if self._served is not None and session.is_whole and not loop.is_closed():
                    with suppress(RuntimeError):  # closed just now
                        loop.call_soon_threadsafe(self._served, hello.node_id, hello.boot_id, spent)
        finally:
            self._turn.give_back()


def _close(sock: socket.socket, done: Future[None]) -> None:
    """Close the socket of a session that is over, or did not begin before the end of everything."""
    del done
    sock.close()


class _Session:
    """One measurement, as the one that asked for it steers it."""

    def __init__(self, sock: socket.socket, turn: Turn, *, may_burst: bool) -> None:
        self._sock = sock
        self._turn = turn
        self._bursts_left = {wire.UP: wire.MOST_BURSTS, wire.DOWN: wire.MOST_BURSTS} if may_burst else {}
        self.sent: int = 0
        self.received: int = 0
        self.is_whole: bool = False
        """Whether both directions were measured."""

    def run(self) -> None:
        echoes = 0
        while True:
            command = wire.read_exactly(self._sock, 1)
            if command == wire.ECHO:
                echoes += 1
                if echoes > wire.MOST_ECHOES:
                    raise ProbeError("too many echoes")
                wire.read_exactly(self._sock, wire.ECHO_BYTES - 1)
                self._sock.sendall(wire.ECHO.ljust(wire.ECHO_BYTES, b"."))
            elif command == wire.QUIT:
                self.is_whole = self.sent > 0 and self.received > 0
                return
            elif self._bursts_left.get(command, 0) > 0:
                self._bursts_left[command] -= 1
                self._receive() if command == wire.UP else self._send()
            else:
                raise ProbeError(f"{command!r} is not to be done")

    def _receive(self) -> None:
        arrivals, busy = wire.receive_burst(self._sock, self._turn.is_busy)
        self.received += arrivals[-1][1]
        found = burst(arrivals, sender_busy=0, receiver_busy=busy)
        if found is not None:
            self._turn.learn(received=found.bytes_per_second)
        wire.send_line(self._sock, Counted(busy=busy, arrivals=tuple(wire.thinned(arrivals))))

    def _send(self) -> None:
        began = time.perf_counter()
        sent, busy = wire.send_burst(self._sock, self._turn.is_busy)
        self.sent += sent
        if wire.read_exactly(self._sock, 1) != wire.DONE:
            raise ProbeError("a burst was not received to its end")
        # A round trip too slow, and good enough to reckon what this costs.
        self._turn.learn(sent=sent / (time.perf_counter() - began))
        wire.send_line(self._sock, Counted(busy=busy, cut_short=self._turn.is_busy()))
