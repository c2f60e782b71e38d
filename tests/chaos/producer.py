"""Says the words of a round, each until it is acknowledged, and writes down every acknowledgement.

    python -m chaos.variants '' 0 produce NATS_URL SEED SECONDS FILE

A process of its own, outside the system: what it was promised is in FILE, a line of JSON each, before it says more. It
introduces its nodes, waits until there is a FILE.go, and ends when all was acknowledged.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from chaos.words import Word, words_of
from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.port import Appended, AppendTimeoutError, BusUnreachableError
from support.waiting import until

_PATIENCE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.05
_AT_ONCE: Final = 64
_WAITS_SECONDS: Final = 60
"""For the others to start."""


class Producer:
    """Publishes words over one connection, many at once: their order is what the bus makes of it."""

    def __init__(self, bus: NatsBus, file: int) -> None:
        self._bus = bus
        self._file = file
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.counts: Counter[str] = Counter()

    async def say(self, word: Word) -> None:
        """Say a word until it is acknowledged."""
        async with self._room:
            self.counts["published"] += 1
            while True:
                try:
                    place = await self._bus.append(word.outgoing, timeout_seconds=_PATIENCE_SECONDS)
                except (AppendTimeoutError, BusUnreachableError):
                    self.counts["retries"] += 1
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    self._note(word, place)
                    return

    async def say_in_time(self, words: list[Word]) -> None:
        """Say each word at its time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for word in words:
                await asyncio.sleep(max(0.0, began + word.at - loop.time()))
                tasks.create_task(self.say(word))

    def note(self, **line: object) -> None:
        """Write one line at once: what is killed afterwards cannot take it back."""
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def _note(self, word: Word, place: Appended) -> None:
        self.counts["acknowledged"] += 1
        self.note(
            id=word.id,
            lane=word.lane,
            sequence=place.sequence,
            duplicate=place.duplicate,
            command_id=word.command_id,
        )


async def produce(nats_url: str, seed: int, seconds: float, path: Path) -> None:
    """Say all words of a round."""
    words = words_of(seed, datetime.now(UTC), seconds)
    while True:
        try:
            bus = await connect(nats_url, name="chaos producer")
            break
        except BusUnreachableError:
            await asyncio.sleep(_PAUSE_SECONDS)
    producer = Producer(bus, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    for word in words:
        if word.at < 0:
            await producer.say(word)
    producer.note(introduced=True)
    await until(Path(f"{path}.go").exists, within=_WAITS_SECONDS, what="the round to begin")
    await producer.say_in_time([word for word in words if word.at >= 0])
    producer.note(**producer.counts)
    await bus.close()


def main(arguments: Sequence[str]) -> None:
    """Produce what the arguments say."""
    nats_url, seed, seconds, path = arguments
    asyncio.run(produce(nats_url, int(seed), float(seconds), Path(path)))
