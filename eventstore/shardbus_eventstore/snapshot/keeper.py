"""Taking snapshots of the read model: a task of the projector's process beside the projections."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import psycopg
from shardbus_infra.bus.port import Bus, BusError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from shardbus_eventstore.read_model.database import snapshot, try_lock
from shardbus_eventstore.read_model.load import load_living_state
from shardbus_eventstore.read_model.tables import VERSION
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_eventstore.snapshot.codec import save
from shardbus_eventstore.snapshot.manifest import STREAMS, StreamMark, is_due
from shardbus_eventstore.snapshot.store import newest_manifest, publish_snapshot
from shardbus_eventstore.waiting import in_thread, pause

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
_AFTER_FAILURE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Taken:
    """The read model's state of one moment, ready to be published."""

    saved: bytes
    streams: Mapping[str, StreamMark]
    unread: Mapping[str, int]
    taken_at: datetime


class SnapshotKeeper:
    """Takes snapshots every so often; of several projectors' keepers one works, and the others wait for its lock.

    Whatever goes wrong is logged and tried again later: nothing depends on a snapshot but time.
    """

    def __init__(self, bus: Bus, engine: Engine, settings: ProjectorSettings, stop: asyncio.Event) -> None:
        self._bus = bus
        self._engine = engine
        self._every_seconds = settings.snapshot_minutes * 60
        self._events = settings.snapshot_events
        self._stop = stop
        self._lock: Connection | None = None
        """A connection that holds the lock for as long as it lives."""
        self._last: Mapping[str, int] = {}
        self._last_at = 0.0
        """By the monotonic clock."""

    async def run(self) -> None:
        """Take snapshots when they are due, until stopped."""
        while not self._stop.is_set():
            seconds = _LOOK_SECONDS
            try:
                if await self._holds_lock() and self._is_due(await in_thread(self._positions)):
                    await self._take()
            except (BusError, DBAPIError, psycopg.Error) as error:
                await self._let_go()
                log.log(logging.DEBUG, "no snapshot was taken: %s", error)
                seconds = _LOOK_SECONDS
            except Exception:
                log.exception("no snapshot was taken")
                seconds = _AFTER_FAILURE_SECONDS
            await pause(seconds, self._stop)

    async def finish(self, *, politely: bool) -> None:
        """Let the lock go; ``politely``: after a snapshot of where the projections ended, for those who start next."""
        try:
            if politely and self._lock is not None and await in_thread(self._positions) != self._last:
                await self._take()
        except Exception as error:  # noqa: BLE001 -- nothing depends on it, and the process is to end
            log.warning("no snapshot was taken at the end: %s", error)
        finally:
            await self._let_go()

    async def _holds_lock(self) -> bool:
        if self._lock is None:
            self._lock = await in_thread(self._try_lock)
            if self._lock is not None:
                before = await newest_manifest(self._bus)
                self._last = {} if before is None else {s: mark.sequence for s, mark in before.streams.items()}
                age = 0.0 if before is None else (datetime.now(UTC) - before.taken_at).total_seconds()
                self._last_at = time.monotonic() - max(0.0, age)
        return self._lock is not None

    def _try_lock(self) -> Connection | None:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if try_lock(connection, "shardbus/snapshots/"):
            return connection
        connection.close()
        return None

    async def _let_go(self) -> None:
        connection, self._lock = self._lock, None
        if connection is not None:
            await in_thread(lambda: _close(connection))

    def _positions(self) -> Mapping[str, int]:
        assert self._lock is not None
        return {stream: mark.sequence for stream, mark in _marks(self._lock)[0].items()}

    def _is_due(self, positions: Mapping[str, int]) -> bool:
        seconds = time.monotonic() - self._last_at
        return is_due(self._last, positions, seconds, every_seconds=self._every_seconds, events=self._events)

    async def _take(self) -> None:
        began = time.monotonic()
        self._last_at = began  # also if it fails: not again at once
        taken = await in_thread(lambda: take_snapshot(self._engine))
        if taken is None:
            return
        manifest = await publish_snapshot(
            self._bus, taken.saved, taken.streams, taken_at=taken.taken_at, unread=taken.unread
        )
        self._last = {stream: mark.sequence for stream, mark in taken.streams.items()}
        log.info("took snapshot %s: %d bytes in %.2f s", manifest, manifest.bytes, time.monotonic() - began)


def take_snapshot(engine: Engine) -> Taken | None:
    """Return the read model's state as of one moment; ``None`` while the parts of a shared projection stand apart."""
    with snapshot(engine) as connection:
        if connection.scalar(_APART, {"version": VERSION}):
            return None
        streams, unread = _marks(connection)
        return Taken(save(load_living_state(connection)), streams, unread, datetime.now(UTC))


def _marks(connection: Connection) -> tuple[Mapping[str, StreamMark], Mapping[str, int]]:
    """Return how far the streams are folded, and what of them was not read."""
    rows = connection.execute(_MARKS, {"version": VERSION, "streams": list(STREAMS)}).all()
    streams = {
        row.stream: StreamMark(created=row.stream_created, sequence=row.sequence, recorded_at=row.sequence_recorded_at)
        for row in rows
        if row.sequence
    }
    unread: dict[str, int] = {}
    for row in rows:
        for kind, first in row.unread.items():
            unread[kind] = min(first, unread.get(kind, first))
    return streams, unread


_APART: Final = text(
    "SELECT EXISTS ("
    "SELECT FROM checkpoints WHERE version = :version GROUP BY stream HAVING min(sequence) < max(sequence))"
)
_MARKS: Final = text(
    "SELECT stream, stream_created, sequence, sequence_recorded_at, unread "
    "FROM checkpoints WHERE version = :version AND stream = ANY (:streams)"
)


def _close(connection: Connection) -> None:
    connection.invalidate()
    connection.close()
