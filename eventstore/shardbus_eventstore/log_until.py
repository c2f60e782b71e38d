"""A log as it was when it ended at given sequences."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from shardbus_infra.bus.port import Log, Stored, StreamInfo


class LogUntil:
    """Shows of a log what it held up to a sequence of each stream, as far as it holds that still.

    Following goes on for ever, as ever; after the end it yields only empty batches.
    """

    def __init__(self, log: Log, ends: Mapping[str, int]) -> None:
        self._log = log
        self._ends = ends
        """A stream that is not named is shown whole."""

    async def follow(
        self,
        stream: str,
        *,
        start_sequence: int = 1,
        subjects: Sequence[str] = (),
        max_batch: int = 5000,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[Stored], None]:
        """Yield batches up to the end; see ``Log.follow``."""
        end = self._ends.get(stream)
        batches = self._log.follow(
            stream, start_sequence=start_sequence, subjects=subjects, max_batch=max_batch, idle_seconds=idle_seconds
        )
        async with contextlib.aclosing(batches):
            async for batch in batches:
                if end is None or not batch or batch[-1].sequence <= end:
                    yield batch
                else:
                    yield [stored for stored in batch if stored.sequence <= end]

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return one message, ``None`` if it is after the end."""
        return await self._log.get(stream, sequence) if sequence <= self._ends.get(stream, sequence) else None

    async def last(self, stream: str, subjects: str) -> Stored | None:
        """Return the newest message on ``subjects``; ``None`` if that is after the end (nobody looks before it)."""
        found = await self._log.last(stream, subjects)
        return found if found is None or found.sequence <= self._ends.get(stream, found.sequence) else None

    async def info(self, stream: str) -> StreamInfo:
        """Return the stream's identity, and its extent up to the end."""
        info = await self._log.info(stream)
        end = min(self._ends.get(stream, info.last_sequence), info.last_sequence)
        messages = min(info.messages, max(0, end - info.first_sequence + 1))
        return replace(info, last_sequence=end, messages=messages)
