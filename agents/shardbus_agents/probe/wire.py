"""What a probe's two ends say over their TCP connection: a line of JSON each, then echoes and bursts.

Sockets here have a timeout, so every call ends. A socket that breaks raises OSError, one that says what is not
understood ProbeError.
"""

import socket
import struct
import time
from collections.abc import Callable
from typing import Final, TypeVar

from pydantic import ValidationError
from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.model import FrozenModel

from shardbus_agents.probe.figures import Arrivals

ECHO_BYTES: Final = 64
ECHO, UP, DOWN, DONE, QUIT = b"e", b"u", b"d", b"k", b"q"
"""What the one that asked may say. ``DONE``: a burst came whole, and nothing else may come with it."""

MOST_ECHOES: Final = 64
MOST_BURSTS: Final = 3
"""In each direction."""
MOST_BYTES: Final = 8 * 1024 * 1024
"""Of one burst."""
MOST_SECONDS: Final = 0.25
"""Of sending it."""

_LONGEST_LINE: Final = 2048
LONGEST_COUNT: Final = 65_536
_CHUNK: Final = 32 * 1024
_HEADER: Final = struct.Struct("!I")
_UNSENT_BYTES: Final = 64 * 1024
"""What the system may hold back of a burst: it still has to be carried when the sender's time is over."""
_PATIENCE_SECONDS: Final = 10.0
"""After which a burst that still arrives is given up."""


class ProbeError(Exception):
    """The other end does not do as agreed."""


class BusyError(ProbeError):
    """A device became busy: its work goes first."""


class Hello(FrozenModel):
    """What the one that wants to measure says first."""

    token: str
    node_id: NodeId
    boot_id: BootId


class Welcome(FrozenModel):
    """What the other answers to one that it knows."""

    may: str
    """``burst``: measure; ``ping``: round trips only; ``nothing``: come back later."""
    because: str | None = None
    after_seconds: float = 0
    """How long until there may be a burst, if that is known."""
    interface: str | None = None
    mtu: int | None = None
    speed_bytes_per_second: float | None = None


class Counted(FrozenModel):
    """What one end of a burst says of it: how busy it was and, if it received, what arrived when."""

    busy: float
    cut_short: bool = False
    """Whether a device became busy: the burst does not count."""
    arrivals: tuple[tuple[float, int], ...] = ()


ModelT = TypeVar("ModelT", bound=FrozenModel)


def prepare(sock: socket.socket, timeout_seconds: float) -> None:
    """Set what both ends need: small messages go at once, and little is held back."""
    sock.settimeout(timeout_seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux; without it the system holds back what it likes
    if option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)


def send_line(sock: socket.socket, message: FrozenModel) -> None:
    """Send ``message`` as a line."""
    sock.sendall(message.model_dump_json(exclude_none=True).encode() + b"\n")


def read_line(sock: socket.socket, model: type[ModelT], *, longest: int = _LONGEST_LINE) -> ModelT:
    """Return the line that comes next. Nothing may follow it before it is answered."""
    line = bytearray()
    deadline = time.monotonic() + (sock.gettimeout() or _PATIENCE_SECONDS)
    while not line.endswith(b"\n"):
        if len(line) > longest or time.monotonic() > deadline:
            raise ProbeError("no line of a probe came")
        line += received(sock.recv(4096))
    try:
        return model.model_validate_json(bytes(line), extra="ignore")
    except ValidationError as error:
        raise ProbeError("what came is not of a probe") from error


def received(data: bytes) -> bytes:
    """Return ``data``; raises ConnectionResetError if it is the end."""
    if not data:
        raise ConnectionResetError("the other end hung up")
    return data


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Return the next ``count`` bytes."""
    data = bytearray()
    while len(data) < count:
        data += received(sock.recv(count - len(data)))
    return bytes(data)


def echo(sock: socket.socket) -> float:
    """Return the seconds that a small message takes there and back."""
    began = time.perf_counter()
    sock.sendall(ECHO.ljust(ECHO_BYTES, b"."))
    read_exactly(sock, ECHO_BYTES)
    return time.perf_counter() - began


def send_burst(sock: socket.socket, is_busy: Callable[[], bool]) -> tuple[int, float]:
    """Send as much as a burst may hold; return the bytes and the share of the time that was spent computing.

    It ends early when a device becomes busy.
    """
    began, worked = time.perf_counter(), time.thread_time()
    chunk = _HEADER.pack(_CHUNK) + bytes(_CHUNK)
    left = MOST_BYTES // len(chunk)
    while left and time.perf_counter() - began < MOST_SECONDS and not is_busy():
        sock.sendall(chunk)
        left -= 1
    sock.sendall(_HEADER.pack(0))
    return MOST_BYTES - left * len(chunk), _share(began, worked)


def receive_burst(sock: socket.socket, is_busy: Callable[[], bool]) -> tuple[Arrivals, float]:
    """Return what arrived when, and the share of the time that was spent computing."""
    buffer = bytearray(256 * 1024)
    view = memoryview(buffer)
    arrivals: list[tuple[float, int]] = []
    header, left, total = b"", 0, 0
    began = worked = 0.0
    while True:
        count = sock.recv_into(buffer)
        now = time.perf_counter()
        if count == 0:
            raise ConnectionResetError("the other end hung up")
        if is_busy():
            raise BusyError("a device of this node became busy")
        if not arrivals:
            began, worked = now, time.thread_time()
        total += count
        if total > MOST_BYTES + _CHUNK or now - began > _PATIENCE_SECONDS:
            raise ProbeError("a burst has no end")
        arrivals.append((now - began, total))
        position = 0
        while position < count:
            if left:
                step = min(left, count - position)
                left -= step
            else:
                step = min(_HEADER.size - len(header), count - position)
                header += view[position : position + step]
                if len(header) == _HEADER.size:
                    (left,) = _HEADER.unpack(header)
                    header = b""
                    if left == 0:
                        return arrivals, _share(began, worked)
                    if left > _CHUNK:
                        raise ProbeError("a burst is garbled")
            position += step


def thinned(arrivals: Arrivals, most: int = 512) -> Arrivals:
    """Return at most ``most`` of ``arrivals``, the first and the last among them: enough to compute with."""
    if len(arrivals) <= most:
        return arrivals
    step = (len(arrivals) - 1) / (most - 1)
    return [arrivals[round(number * step)] for number in range(most)]


def _share(began: float, worked: float) -> float:
    passed = time.perf_counter() - began
    return min(1.0, (time.thread_time() - worked) / passed) if passed > 0 else 1.0
