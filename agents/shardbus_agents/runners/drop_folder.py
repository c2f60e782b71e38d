"""A folder for runtimes that cannot speak to a socket: a JSON file for each shard, in the words of a report.

Write the file beside its name and rename it, so that nobody reads half of it. A file that is taken away says that its
shard is stopped. A crash cannot be seen here: who wants it noticed holds a connection.
"""

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Final

from shardbus_agents.runners.address import is_safe
from shardbus_agents.runners.board import Board
from shardbus_agents.runners.report import LONGEST_LINE_BYTES, ReportError, RunnerReport, read_report

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
_MOST_FILES: Final = 1000

_Stamp = tuple[int, int, int]
"""Of a file: its inode, its size, when it was changed."""


class DropFolder:
    """The folder, looked at once a second."""

    def __init__(self, folder: Path, board: Board) -> None:
        self._folder = folder
        self._board = board
        self._seen: dict[str, tuple[_Stamp, RunnerReport | None]] = {}

    async def run(self) -> None:
        """Take what lies there, until cancelled."""
        with contextlib.suppress(OSError):  # whoever wants to use it will see that it is not there
            self._folder.mkdir(mode=0o700, exist_ok=True)
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Take what is new, and note what is gone."""
        found = self._files()
        for name in self._seen.keys() - found.keys():
            _, last = self._seen.pop(name)
            if last is not None and last.state not in {"stopped", "failed"}:
                self._take(name, last.model_copy(update={"state": "stopped", "memory_used_bytes": None}))
        for name, stamp in found.items():
            if name not in self._seen or self._seen[name][0] != stamp:
                self._seen[name] = stamp, self._read(name)

    def _files(self) -> dict[str, _Stamp]:
        try:
            if not is_safe(self._folder):
                return {}  # somebody else's
            with os.scandir(self._folder) as entries:
                named = [entry for entry in entries if entry.name.endswith(".json") and entry.is_file()]
        except OSError:
            return {}
        found: dict[str, _Stamp] = {}
        for entry in named[:_MOST_FILES]:
            try:
                stat = entry.stat()
            except OSError:
                continue  # it went meanwhile
            found[entry.name] = stat.st_ino, stat.st_size, stat.st_mtime_ns
        return found

    def _read(self, name: str) -> RunnerReport | None:
        path = self._folder / name
        try:
            with path.open("rb") as opened:
                text = opened.read(LONGEST_LINE_BYTES + 1)
        except OSError as error:
            _log.warning("%s: %s", path, error.strerror or error)
            return None
        if len(text) > LONGEST_LINE_BYTES:
            _log.warning("%s: a report is at most %d bytes long", path, LONGEST_LINE_BYTES)
            return None
        try:
            report = read_report(text)
        except ReportError as error:
            _log.warning("%s: %s", path, error)
            return None
        return report if self._take(name, report) else None

    def _take(self, name: str, report: RunnerReport) -> bool:
        try:
            self._board.take(report)
        except ReportError as error:
            _log.warning("%s: %s", self._folder / name, error)
            return False
        return True
