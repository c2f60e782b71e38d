"""The state in memory, as fresh as the bus: for the placer, and for whoever asks what is so now.

It begins with the newest snapshot, if there is one that can be used, and folds what came since.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime

from shardbus_infra.bus.port import BusError, BusUnreachableError, Log, StreamInfo, StreamShortenedError
from shardbus_infra.bus.streams import FLEET, TELEMETRY

from shardbus_eventstore.intake import Taken, advance, take
from shardbus_eventstore.snapshot.store import restore
from shardbus_eventstore.state import FleetState, without_telemetry

log = logging.getLogger(__name__)

STREAMS = (TELEMETRY, FLEET)
_IDLE_SECONDS = 1.0
_DEAF_SECONDS = 2.0
"""Without a word from the bus, neither a message nor that there is none."""
_BATCH = 1000
"""Small enough that folding one does not hold up the event loop (about 30 ms)."""


class StateBehindError(BusError):
    """The state did not reach the wanted sequence in time."""


class LiveState:
    """Follows ``TELEMETRY`` and ``FLEET`` and folds them in memory."""

    def __init__(self, bus: Log) -> None:
        self._bus = bus
        self._state = FleetState()
        self._moved = asyncio.Condition()
        self._heard_at = -math.inf
        self._listening_since = datetime.now(UTC)
        self.skipped: Counter[str] = Counter()
        """How many messages were not folded, by code."""

    @property
    def state(self) -> FleetState:
        """The state now; it never changes, a later one replaces it."""
        return self._state

    @property
    def listening_since(self) -> datetime:
        """Since when the bus was never away: who was not heard for longer than that need not have been silent."""
        return self._listening_since if time.monotonic() - self._heard_at < _DEAF_SECONDS else datetime.now(UTC)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until ``stop`` is set. Raises BusError (StreamMissingError, StreamReplacedError).

        A shortened ``TELEMETRY`` is no error: what it lost was advisory, and what it holds is folded anew.
        """
        await _until(stop, self._restore())
        if not stop.is_set():
            await _until(stop, *(self._follow(stream) for stream in STREAMS))

    async def wait_until(self, stream: str, sequence: int, timeout_seconds: float | None = 5) -> None:
        """Return once ``sequence`` of ``stream`` is folded; raise StateBehindError if it takes longer.

        ``None`` waits for ever.
        """
        if self._state.positions.get(stream, 0) >= sequence:
            return
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: self._state.positions.get(stream, 0) >= sequence)
        except TimeoutError as error:
            reached = self._state.positions.get(stream, 0)
            raise StateBehindError(
                f"the state is at {stream}:{reached} and did not reach {sequence} in {timeout_seconds} s; "
                "is the bus reachable?"
            ) from error

    async def _restore(self) -> None:
        """Begin with the newest snapshot that can be used; without one, at the beginning of the streams."""
        while True:
            try:
                snapshot = await restore(self._bus)
            except BusUnreachableError as error:
                log.debug("waiting for the bus: %s", error)
                await asyncio.sleep(_IDLE_SECONDS)
            else:
                break
        if snapshot is not None:
            log.info("starting from snapshot %s", snapshot.manifest)
            self._state = snapshot.state
            await self._announce()

    async def _follow(self, stream: str) -> None:
        while True:
            try:
                await self._follow_as_it_is(stream)
            except StreamShortenedError as error:
                if stream != TELEMETRY:
                    raise
                # A crash took readings that were acknowledged before the disk had them: start from what is left.
                log.warning("%s; folding it anew", error)
                self._state = without_telemetry(self._state)

    async def _follow_as_it_is(self, stream: str) -> None:
        with contextlib.suppress(BusUnreachableError):  # following heals itself, and looks again
            info = await self._bus.info(stream)
            if info.messages == 0:
                await self._skip_what_is_gone(stream, info)
        start = self._state.positions.get(stream, 0) + 1
        batches = self._bus.follow(stream, start_sequence=start, max_batch=_BATCH, idle_seconds=_IDLE_SECONDS)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                if batch:
                    self._hear()
                    self._note(take(self._state, batch))
                    await self._announce()
                else:
                    await self._look_at(stream)

    def _hear(self) -> None:
        """Note that the bus answers."""
        if time.monotonic() - self._heard_at >= _DEAF_SECONDS:
            self._listening_since = datetime.now(UTC)
        self._heard_at = time.monotonic()

    def _note(self, taken: Taken) -> None:
        self._state = taken.state
        for lost in (*taken.examined.rejected, *taken.examined.skipped):
            self.skipped[lost.code] += 1

    async def _announce(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _look_at(self, stream: str) -> None:
        """While nothing comes, see whether there is anything to wait for."""
        try:
            info = await self._bus.info(stream)
            tail = await self._bus.get(stream, info.last_sequence) if info.messages else None
        except BusError as error:
            log.debug("cannot look at %s: %s", stream, error)
            return
        self._hear()
        if tail is None:
            await self._skip_what_is_gone(stream, info)

    async def _skip_what_is_gone(self, stream: str, info: StreamInfo) -> None:
        """Move past a tail that the stream does not hold any more (expired, evicted): nobody may wait for it."""
        if info.last_sequence > self._state.positions.get(stream, 0):
            self._state = advance(self._state, stream, info.last_sequence)
            await self._announce()


async def _until(stop: asyncio.Event, *works: Coroutine[object, object, None]) -> None:
    """Run ``works`` until one of them ends, or ``stop`` is set; raise what that one raised."""
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(work) for work in works]
    tasks.append(asyncio.create_task(stop.wait()))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Following:
    """The state, folded in the background."""

    live: LiveState
    task: asyncio.Task[None]

    @property
    def state(self) -> FleetState:
        """The state now; raises what ended the folding, if anything did."""
        if self.task.done():
            self.task.result()
        return self.live.state


@contextlib.asynccontextmanager
async def following(bus: Log) -> AsyncGenerator[Following]:
    """Fold the streams in the background; once entered, all that they held by then is folded. Raises BusError."""
    live, stop = LiveState(bus), asyncio.Event()
    running = asyncio.create_task(live.run(stop), name="follow the streams")
    reaching = asyncio.create_task(_reach_the_end(bus, live), name="reach the end")
    try:
        done, _ = await asyncio.wait({running, reaching}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        yield Following(live, running)
    finally:
        stop.set()
        reaching.cancel()
        await asyncio.gather(running, reaching, return_exceptions=True)


async def read_state(bus: Log) -> FleetState:
    """Return the state as of the streams' last sequences at this moment, or a little after."""
    async with following(bus) as known:
        return known.state


async def _reach_the_end(bus: Log, live: LiveState) -> None:
    for stream in STREAMS:
        info = await bus.info(stream)
        await live.wait_until(stream, info.last_sequence, None)
