"""Measuring the path to one peer, from a thread: the round trips first, then bursts there, then bursts back."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shardbus_schemas.presence import ProbeAddress

from shardbus_agents.probe import wire
from shardbus_agents.probe.figures import Burst, Carried, RoundTrips, agree, burst, carried, round_trips
from shardbus_agents.probe.interfaces import Interface, Interfaces
from shardbus_agents.probe.turn import Turn
from shardbus_agents.probe.wire import BusyError, Counted, Hello, ProbeError, Welcome

_CONNECT_SECONDS: Final = 3.0
_STEP_SECONDS: Final = 5.0
_ECHOES: Final = (11, 41)
"""At least, and at most where they take no time."""
_ECHO_SECONDS: Final = 0.2
_WARM_UP: Final = 2
"""Echoes that do not count: the first ones find caches cold and neighbours unknown."""


class UnreachableError(Exception):
    """No address of the peer answers."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one session found."""

    welcome: Welcome
    own: Interface
    local_address: str
    trips: RoundTrips | None = None
    there: Carried | None = None
    back: Carried | None = None
    link_seconds: float = 0

    @property
    def is_settled(self) -> bool:
        """Whether it would come out alike if it were done again; else it is, soon."""
        parts = (self.trips, self.there, self.back)
        return all(part is not None and part.is_settled for part in parts)


def measure(
    addresses: Sequence[ProbeAddress],
    hello: Hello,
    turn: Turn,
    interfaces: Interfaces,
    *,
    bursts: bool = True,
    found_passive: Callable[[Measured], None] = lambda _: None,
) -> Measured:
    """Return what the path to a peer carries, both ways. The caller has the turn.

    ``found_passive`` is told as soon as the round trips are known. Raises UnreachableError, BusyError if a device
    becomes busy meanwhile, and OSError or ProbeError if the other end goes away or is no probe server.
    """
    with _connected(addresses) as sock:
        wire.prepare(sock, _STEP_SECONDS)
        local = str(sock.getsockname()[0])
        own = interfaces.of_address(local)
        turn.promise(own.bytes_per_second)
        wire.send_line(sock, hello)
        welcome = wire.read_line(sock, Welcome)
        if welcome.may not in {"burst", "ping"}:
            return Measured(welcome, own, local)
        trips = _round_trips(sock)
        first = Measured(welcome, own, local, trips)
        found_passive(first)
        if welcome.may != "burst" or not bursts:
            sock.sendall(wire.QUIT)
            return first
        sent = came = 0
        there: list[Burst] = []
        back: list[Burst] = []
        try:
            while len(there) < wire.MOST_BURSTS and not agree(there):
                count, one = _send(sock, turn, trips.median_seconds)
                sent += count
                there.append(one)
            while len(back) < wire.MOST_BURSTS and not agree(back):
                count, one = _receive(sock, turn, trips.median_seconds)
                came += count
                back.append(one)
        finally:
            for each in there:
                turn.learn(sent=each.bytes_per_second)
            for each in back:
                turn.learn(received=each.bytes_per_second)
            link_seconds = turn.spend(sent, came)
        sock.sendall(wire.QUIT)
        return Measured(welcome, own, local, trips, carried(there), carried(back), link_seconds)


def _connected(addresses: Sequence[ProbeAddress]) -> socket.socket:
    problems: list[str] = []
    for address in addresses:
        try:
            return socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            problems.append(f"{address.host}:{address.port}: {error}")
    raise UnreachableError("; ".join(problems))


def _round_trips(sock: socket.socket) -> RoundTrips:
    for _ in range(_WARM_UP):
        wire.echo(sock)
    least, most = _ECHOES
    seconds: list[float] = []
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < _ECHO_SECONDS):
        seconds.append(wire.echo(sock))
    return round_trips(seconds)


def _send(sock: socket.socket, turn: Turn, round_trip: float) -> tuple[int, Burst]:
    sock.sendall(wire.UP)
    count, busy = wire.send_burst(sock, turn.is_busy)
    counted = wire.read_line(sock, Counted, longest=wire.LONGEST_COUNT)
    _go_on(turn, counted)
    return count, _one(
        burst(counted.arrivals, round_trip_seconds=round_trip, sender_busy=busy, receiver_busy=counted.busy)
    )


def _receive(sock: socket.socket, turn: Turn, round_trip: float) -> tuple[int, Burst]:
    sock.sendall(wire.DOWN)
    arrivals, busy = wire.receive_burst(sock, turn.is_busy)
    sock.sendall(wire.DONE)
    counted = wire.read_line(sock, Counted)
    _go_on(turn, counted)
    return arrivals[-1][1], _one(
        burst(arrivals, round_trip_seconds=round_trip, sender_busy=counted.busy, receiver_busy=busy)
    )


def _go_on(turn: Turn, counted: Counted) -> None:
    if turn.is_busy() or counted.cut_short:
        raise BusyError("a device became busy")


def _one(found: Burst | None) -> Burst:
    if found is None:
        raise ProbeError("too little of a burst arrived to tell anything")
    return found
