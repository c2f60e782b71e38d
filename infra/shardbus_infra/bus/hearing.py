"""What was heard and is not read yet: the newest, within bounds. Both adapters read from it."""

import logging
from collections import deque
from typing import Self

from shardbus_infra.bus.bell import Bell
from shardbus_infra.bus.port import Heard

_log = logging.getLogger(__name__)


class Hearing:
    """One listener's queue."""

    def __init__(self, subjects: str, max_waiting: int, group: str = "") -> None:
        self.subjects: str = subjects
        self.group: str = group
        self._waiting: deque[Heard] = deque(maxlen=max_waiting)
        self._bell = Bell()
        self._complained = False
        self._ended = False

    def put(self, heard: Heard) -> None:
        """Keep ``heard`` for the reader; the oldest gives way when there are too many."""
        if len(self._waiting) == self._waiting.maxlen and not self._complained:
            self._complained = True
            _log.warning("more is told on %s than is read: the oldest of it is dropped", self.subjects)
        self._waiting.append(heard)
        self._bell.ring()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._bell.ring()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Heard:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            await self._bell.wait(None)
        return self._waiting.popleft()
