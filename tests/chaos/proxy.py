"""A way to a server on loopback that can be cut, slowed, half closed or swallowed up.

It passes bytes of TCP, so it cannot say any of them twice: a connection that did would be broken, not faulty.
Duplicates are made where they come about, by a producer that says a message again.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final, Literal

Direction = Literal["up", "down"]
"""``up`` is towards the server."""

HOST: Final = "127.0.0.1"
_PIECE: Final = 64 * 1024
_SLOW_PIECE: Final = 512
_RESET: Final = struct.pack("ii", 1, 0)


class Link:
    """A proxy to the port that ``port_of`` names now. Faults hold until ``heal``."""

    def __init__(self, port_of: Callable[[], int]) -> None:
        self._port_of = port_of
        self._server: asyncio.Server | None = None
        self._through: set[_Through] = set()
        self.passing: asyncio.Event = asyncio.Event()
        self.passing.set()
        self.delay_seconds: float = 0.0
        self.bytes_per_second: float | None = None
        self.swallowed: Direction | None = None
        self.cut_at: float | None = None
        """Where in the next piece the connection that carries it is cut."""

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)

    async def close(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for through in tuple(self._through):
            await through.ended.wait()

    def cut(self) -> None:
        """Reset every connection: what is on the way is lost."""
        for through in tuple(self._through):
            through.reset()

    def half_close(self, direction: Direction) -> None:
        """End every connection's stream in one direction; the other one stays open."""
        for through in tuple(self._through):
            through.end(direction)

    def heal(self) -> None:
        """Pass everything again, at once. What waited in a black hole goes on its way."""
        self.delay_seconds, self.bytes_per_second, self.cut_at = 0.0, None, None
        if self.swallowed:
            self.swallowed = None
            self.cut()  # a stream that lacks a part is of no use any more
        self.passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        through = _Through(self, writer)
        self._through.add(through)
        try:
            await self.passing.wait()
            await through.run(reader, self._port_of())
        finally:
            self._through.discard(through)
            through.ended.set()


class _Through:
    """One connection through a link."""

    def __init__(self, link: Link, client: asyncio.StreamWriter) -> None:
        self._link = link
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._cut = asyncio.Event()
        self.ended: asyncio.Event = asyncio.Event()

    async def run(self, from_client: asyncio.StreamReader, port: int) -> None:
        try:
            from_server, self._server = await asyncio.open_connection(HOST, port)
        except OSError:
            self._close()
            return
        pumps = [
            asyncio.create_task(self._pump(from_client, self._server, "up")),
            asyncio.create_task(self._pump(from_server, self._client, "down")),
        ]
        cut = asyncio.create_task(self._cut.wait())
        try:
            going = set(pumps)
            while going and not cut.done():
                done, _ = await asyncio.wait({*going, cut}, return_when=asyncio.FIRST_COMPLETED)
                for pump in done & going:
                    pump.result()  # an error of ours must not leave a connection half alive
                going -= done
        finally:
            for task in (*pumps, cut):
                task.cancel()
            await asyncio.gather(*pumps, cut, return_exceptions=True)
            self._close()

    def reset(self) -> None:
        for writer in self._writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._cut.set()

    def end(self, direction: Direction) -> None:
        writer = self._server if direction == "up" else self._client
        if writer is not None and not writer.is_closing():
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    @property
    def _writers(self) -> list[asyncio.StreamWriter]:
        return [writer for writer in (self._client, self._server) if writer is not None]

    def _close(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        link = self._link
        try:
            while piece := await reader.read(_SLOW_PIECE if link.bytes_per_second else _PIECE):
                await link.passing.wait()
                if link.delay_seconds:
                    await asyncio.sleep(link.delay_seconds)
                if link.bytes_per_second:
                    await asyncio.sleep(len(piece) / link.bytes_per_second)
                if link.swallowed == direction:
                    continue
                if link.cut_at is not None and len(piece) > 1:
                    writer.write(piece[: max(1, int(link.cut_at * len(piece)))])
                    link.cut_at = None
                    await writer.drain()
                    writer.close()  # in order, so that the half is delivered before the end
                    self._cut.set()
                    return
                with contextlib.suppress(RuntimeError):  # half closed: what is said that way is not heard
                    writer.write(piece)
                await writer.drain()
            self.end(direction)
        except OSError:
            self._cut.set()
