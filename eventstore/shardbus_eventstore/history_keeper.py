"""Keeping past readings: days ahead of their rows, minutes and hours of what came, and no more than is asked for.

A task of the projector's process with a connection and a lock of its own, so that no batch waits for it. Of several
projectors one keeps the history.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import psycopg
from psycopg import Connection as PsycopgConnection
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from shardbus_eventstore.partitions import DAY, drop_before, make_days, make_days_of_strays
from shardbus_eventstore.read_model.database import driver_of, try_lock
from shardbus_eventstore.rollups import HISTORY, MINUTES, step
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_eventstore.waiting import pause

log = logging.getLogger(__name__)

_ROUND_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 0.5
_DAYS_AHEAD: Final = 2
_SETTLED: Final = timedelta(hours=1)
"""How long after a cut minutes and hours cannot be made anew, for want of what was before; whole hours."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long past readings are kept, in each grain."""

    readings: timedelta
    minutes: timedelta
    hours: timedelta

    @classmethod
    def of(cls, settings: ProjectorSettings) -> Self:
        """Return what the settings ask for."""
        return cls(
            timedelta(days=settings.history_keep_days),
            timedelta(days=settings.history_minutes_keep_days),
            timedelta(days=settings.history_hours_keep_days),
        )


async def keep_history(engine: Engine, settings: ProjectorSettings, stop: asyncio.Event) -> None:
    """Keep the history until stopped, over outages of Postgres and while another process keeps it."""
    retention, said = Retention.of(settings), ""
    while not stop.is_set():
        try:
            await _rounds(engine, retention, stop)
        except (DBAPIError, psycopg.Error) as error:
            problem = type(error).__name__
            log.log(logging.DEBUG if problem == said else logging.INFO, "keeping the history is interrupted: %s", error)
            said = problem
        await pause(_ROUND_SECONDS, stop)


async def _rounds(engine: Engine, retention: Retention, stop: asyncio.Event) -> None:
    """Hold the lock and work a round every few seconds; return at once if another process holds it."""
    keeper = await asyncio.to_thread(Keeper.open, engine, retention)
    if keeper is None:
        return
    try:
        while not stop.is_set():
            working = asyncio.create_task(asyncio.to_thread(keeper.work))
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                while not working.done():  # a round that is cut off leaves no trace
                    await asyncio.to_thread(keeper.interrupt)
                    await asyncio.wait({working}, timeout=_PATIENCE_SECONDS)
            if stop.is_set():
                working.exception()
                return
            if not working.result():
                await pause(_ROUND_SECONDS, stop)
    finally:
        await asyncio.to_thread(keeper.close)


@dataclass(frozen=True, slots=True)
class Keeper:
    """Holds the lock of a read model's history, on one connection."""

    connection: Connection
    retention: Retention

    @classmethod
    def open(cls, engine: Engine, retention: Retention) -> Self | None:
        """Return the keeper of the history, or ``None`` while another process is."""
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        held = False
        try:
            held = try_lock(connection, "shardbus/history/")
        finally:
            if not held:
                connection.invalidate()
                connection.close()
        return cls(connection, retention) if held else None

    def close(self) -> None:
        """Give the lock back. Never fails."""
        self.connection.invalidate()
        self.connection.close()

    def interrupt(self) -> None:
        """End what is under way, from another thread: it raises QueryCanceled there. Never fails."""
        with contextlib.suppress(psycopg.Error):
            driver_of(self.connection).cancel_safe(timeout=_PATIENCE_SECONDS)

    def work(self) -> bool:
        """Do some of what is due; return whether there is more that should not wait."""
        now, driver = datetime.now(UTC), driver_of(self.connection)
        for table in (HISTORY, MINUTES):
            make_days_of_strays(driver, table)
            make_days(driver, table, now, now + _DAYS_AHEAD * DAY)
        behind = step(driver)
        if not behind:
            with contextlib.suppress(psycopg.errors.LockNotAvailable):  # somebody reads; a later round will do
                forget(driver, self.retention, now)
        return behind


def forget(connection: "PsycopgConnection[Any]", retention: Retention, now: datetime) -> None:
    """Drop what is older than is asked for; readings not before they are rolled up.

    Raises LockNotAvailable while somebody reads for long.
    """
    complete_until, is_over = connection.execute(_ROLLED_UP, [HISTORY]).fetchone() or (None, None)
    if complete_until is not None:
        # A stream that says no more closes no minute, but there is none to wait for either.
        _drop(
            connection, HISTORY, now - retention.readings if is_over else min(now - retention.readings, complete_until)
        )
    _drop(connection, MINUTES, now - retention.minutes)
    connection.execute("DELETE FROM device_history_hours WHERE at < %s", [now - retention.hours])


def _drop(connection: "PsycopgConnection[Any]", table: str, before: datetime) -> None:
    with connection.transaction():
        for gone in drop_before(connection, table, before):
            log.info("dropped %s: its time is over", gone.name)
            connection.execute(_FIX, [gone.high + _SETTLED, HISTORY])


_ROLLED_UP: Final = """
SELECT complete_until,
       sequence >= (SELECT max(sequence) FROM checkpoints WHERE stream = 'TELEMETRY')
       AND complete_until < now() - interval '1 day'
FROM history_progress WHERE history = %s
"""
_FIX: Final = "UPDATE history_progress SET fixed_before = GREATEST(fixed_before, %s) WHERE history = %s"
