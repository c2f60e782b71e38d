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
_ECHOES: Final = 21
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
        trips = round_trips([wire.echo(sock) for _ in range(_WARM_UP + _ECHOES)][_WARM_UP:])
        first = Measured(welcome, own, local, trips)
        found_passive(first)
        if welcome.may != "burst" or not bursts:
            sock.sendall(wire.QUIT)
            return first
        sent = came = 0
        try:
            there: list[Burst] = []
            while len(there) < wire.MOST_BURSTS and not agree(there):
                count, one = _send(sock, turn)
                sent += count
                there += one
            back: list[Burst] = []
            while len(back) < wire.MOST_BURSTS and not agree(back):
                count, one = _receive(sock, turn)
                came += count
                back += one
        finally:
            link_seconds = turn.spend(max(sent, came))
        sock.sendall(wire.QUIT)
        for each in (*there, *back):
            turn.learn(each.bytes_per_second)
        return Measured(welcome, own, local, trips, carried(there), carried(back), link_seconds)


def _connected(addresses: Sequence[ProbeAddress]) -> socket.socket:
    problems: list[str] = []
    for address in addresses:
        try:
            return socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            problems.append(f"{address.host}:{address.port}: {error}")
    raise UnreachableError("; ".join(problems))


def _send(sock: socket.socket, turn: Turn) -> tuple[int, list[Burst]]:
    sock.sendall(wire.UP)
    count, busy = wire.send_burst(sock, turn.is_busy)
    counted = wire.read_line(sock, Counted, longest=wire.LONGEST_COUNT)
    _go_on(turn, counted)
    return count, _one(burst(counted.arrivals, sender_busy=busy, receiver_busy=counted.busy))


def _receive(sock: socket.socket, turn: Turn) -> tuple[int, list[Burst]]:
    sock.sendall(wire.DOWN)
    arrivals, busy = wire.receive_burst(sock, turn.is_busy)
    counted = wire.read_line(sock, Counted)
    _go_on(turn, counted)
    return arrivals[-1][1], _one(burst(arrivals, sender_busy=counted.busy, receiver_busy=busy))


def _go_on(turn: Turn, counted: Counted) -> None:
    if turn.is_busy() or counted.cut_short:
        raise BusyError("a device became busy")


def _one(found: Burst | None) -> list[Burst]:
    if found is None:
        raise ProbeError("too little of a burst arrived to tell anything")
    return [found]
