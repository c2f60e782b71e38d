"""A cluster on loopback whose servers can be cut off from one another, while their clients reach all of them."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any

from shardbus_infra.embedded.cluster import NAME, EmbeddedCluster
from shardbus_infra.embedded.nats import EmbeddedNats, Membership
from shardbus_infra.embedded.ports import HOST, free_port
from typing_extensions import override


class Wire:
    """What lies between one server and another: as long as it is cut nothing passes, and nobody is told."""

    def __init__(self, target: int) -> None:
        self.port: int = 0
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(self._join(reader, writer))

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._whole.wait()
            there, back = await asyncio.open_connection(HOST, self._target)
        except (OSError, asyncio.CancelledError):
            writer.close()
            return
        self._keep(self._carry(reader, back))
        self._keep(self._carry(there, writer))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while piece := await reader.read(65536):
                    await self._whole.wait()
                    writer.write(piece)
                    await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


class CuttableCluster(EmbeddedCluster):
    """An embedded cluster; ``cut_off`` takes the network from one of its members, as seen by the others alone."""

    @override
    def start(self) -> "CuttableCluster":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._thread.start()
        super().start()
        return self

    @override
    def stop(self) -> None:
        super().stop()
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def cut_off(self, member: EmbeddedNats) -> None:
        """Let nothing pass between ``member`` and the others."""
        for ends, wire in self._wires.items():
            if member in ends:
                self._loop.call_soon_threadsafe(wire.cut)

    def mend(self) -> None:
        """Let everything pass, what was held back too."""
        for wire in self._wires.values():
            self._loop.call_soon_threadsafe(wire.mend)

    @override
    def _choose_routes(self) -> None:
        ports = {member: free_port() for member in self.members}
        self._wires = {(a, b): Wire(ports[b]) for a, b in zip(self.members, _rotated(self.members), strict=True)}
        for wire in self._wires.values():
            self._call(wire.open())
        # Three servers in a ring: of each two one connects to the other. Both ways, one would be ended as double.
        nowhere = f"{HOST}:{free_port()}"
        for member in self.members:
            routes = [f"nats://{HOST}:{wire.port}" for (a, _), wire in self._wires.items() if a is member]
            # Members tell each other of others; nobody is to find a way around the wires.
            member.membership = Membership(NAME, ports[member], routes, advertise=nowhere)

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        running: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        running.result(10)

    async def _end(self) -> None:
        for wire in self._wires.values():
            await wire.close()


def _rotated(members: Sequence[EmbeddedNats]) -> Sequence[EmbeddedNats]:
    return [*members[1:], members[0]]
