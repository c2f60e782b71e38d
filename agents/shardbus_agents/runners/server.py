"""The socket at which runners talk to the agent of their node: one line of JSON in, one line out.

A report with ``hold`` binds its shard to its connection: when that ends and the last word was not ``stopped`` or
``failed``, the runner has died, whatever killed it. Whoever reports the shard with ``hold`` next takes it over: a
runner that was started anew may be there before the end of the old one's connection is seen.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from pathlib import Path
from typing import Final

from shardbus_infra.errors import InfraError

from shardbus_agents.runners.address import listen
from shardbus_agents.runners.board import Board
from shardbus_agents.runners.drop_folder import DropFolder
from shardbus_agents.runners.report import LONGEST_LINE_BYTES, ReportError, read_report
from shardbus_agents.runners.shards import ShardKey

_log = logging.getLogger(__name__)

_MOST_CONNECTIONS: Final = 256
_IDLE_SECONDS: Final = 60.0
"""How long a connection that holds nothing may be silent."""
_RETRY_SECONDS: Final = 30.0


class RunnerServer:
    """What runners of this node are heard by. With ``is_named`` a person named ``path``, and it must be to be had."""

    def __init__(self, path: Path, board: Board, *, is_named: bool) -> None:
        self._path = path
        self._board = board
        self._drop_folder = DropFolder(path.with_suffix(".d"), board)
        self._listening: socket.socket | None = None
        self._place: os.stat_result | None = None
        if is_named:
            self._listen()
        self._conversations: set[asyncio.Task[None]] = set()
        self._holders: dict[ShardKey, object] = {}
        """Which conversation stands for the life of a shard's runner."""
        self._is_closing = False
        self._complaint = ""

    async def run(self) -> None:
        """Hear runners until cancelled."""
        await self._board.looked.wait()
        while self._listening is None:
            await self._find_a_place()
        server = await asyncio.start_unix_server(self._meet, sock=self._listening, limit=LONGEST_LINE_BYTES)
        _log.info("runners are heard at %s", self._path)
        try:
            await self._drop_folder.run()
        finally:
            self._is_closing = True
            server.close()
            conversations = [*self._conversations]
            for conversation in conversations:
                conversation.cancel()
            await asyncio.gather(*conversations, return_exceptions=True)
            self._board.close()

    def close(self) -> None:
        """Let go of the socket, also of one that was never heard at."""
        if self._listening is None or self._place is None:
            return
        self._listening.close()
        with contextlib.suppress(OSError):
            if os.path.samestat(self._place, self._path.stat()):  # and not another's, who took it for dead
                self._path.unlink()

    def _listen(self) -> None:
        self._listening = listen(self._path)
        self._place = self._path.stat()

    async def _find_a_place(self) -> None:
        """Listen, or say why that cannot be and wait: an agent goes on without it, as without a backend."""
        try:
            self._listen()
        except InfraError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("no runner is heard, will go on trying: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._conversations) >= _MOST_CONNECTIONS:
            await _answer(writer, f"there are {_MOST_CONNECTIONS} connections already: close those you do not need")
            writer.close()
            return
        self._conversations.add(task)
        try:
            await self._converse(task, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # it is gone, or we go
        finally:
            self._conversations.discard(task)
            writer.close()
            self._end(task)

    async def _converse(self, who: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(None if who in self._holders.values() else _IDLE_SECONDS):
                    line = await reader.readline()
            except TimeoutError:
                await _answer(writer, f"silent for {_IDLE_SECONDS:g} s: hold a shard, or connect when there is news")
                return
            except ValueError:
                await _answer(writer, f"a line is at most {LONGEST_LINE_BYTES} bytes long")
                return
            if not line:
                return
            if line.strip():
                await _answer(writer, self._take(who, line))

    def _take(self, who: object, line: bytes) -> str | None:
        """Note what ``line`` says and return what is wrong with it."""
        try:
            report = read_report(line)
            key = self._board.take(report)
        except ReportError as error:
            return str(error)
        if report.hold:
            self._holders[key] = who
        return None

    def _end(self, who: object) -> None:
        held = [key for key, holder in self._holders.items() if holder is who]
        for key in held:
            del self._holders[key]
            if not self._is_closing:
                self._board.bury(key)


async def _answer(writer: asyncio.StreamWriter, problem: str | None) -> None:
    answer = {"ok": True} if problem is None else {"error": problem}
    writer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
    await writer.drain()
