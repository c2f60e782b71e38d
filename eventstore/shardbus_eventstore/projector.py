"""The projector's shell: follow the streams, fold, write rows and position in one transaction.

Each stream has its projection, which one projector at a time holds by a lock in Postgres; any number may stand by.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import psycopg
from opentelemetry.trace import Span, SpanKind
from shardbus_infra.bus.dead_letters import bury
from shardbus_infra.bus.port import Bus, BusError, BusUnreachableError, Log, Stored, StreamInfo
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_infra.observability import extract, metrics, tracer
from shardbus_schemas.events import DeviceGPUStateUpdated
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from shardbus_eventstore.checkpoint import Checkpoint, gap_before, gaps_in, refuse_gaps, shortening, verify
from shardbus_eventstore.errors import DatabaseUnreachableError, EventStoreError, PoisonError, ProjectorFencedError
from shardbus_eventstore.history_keeper import keep_history
from shardbus_eventstore.intake import Rejected, Taken, fold_failures, take
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.parts import Part
from shardbus_eventstore.poison import Caution, is_fault_of_data
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.read_model.load import working_part
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_eventstore.snapshot.keeper import SnapshotKeeper
from shardbus_eventstore.tick_fold import take_ticks
from shardbus_eventstore.unknown_devices import UnknownDevices
from shardbus_eventstore.unread import firsts, readable_now, worth_parking
from shardbus_eventstore.waiting import in_thread, pause

log = logging.getLogger(__name__)

STREAMS: Final = (FLEET, TELEMETRY, DEAD)
SEEN_BY: Final = "projector"

_IDLE_SECONDS: Final = 0.25
"""How soon a stop is noticed while nothing comes."""
_STANDBY_SECONDS: Final = 0.5
_HOUSEKEEPING_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 5.0
_BELIEVED_AFTER_SECONDS: Final = 15.0


async def run(bus: Bus, settings: ProjectorSettings, stop: asyncio.Event) -> None:
    """Project until ``stop`` is set; the transaction in hand is finished first.

    Servers that go away are waited for. Raises EventStoreError for what waiting does not heal: a stream that is not
    the one projected so far, tables of another program, missing rights, no Postgres at the start.
    """
    await _upgrade(settings, stop)
    # Messages become many small objects without cycles. By default Python looks for cycles 1000 times a second among
    # them and everything imported, for 40 % of the time that decoding and folding take.
    gc.set_threshold(50_000, 20, 20)
    engine = open_engine(settings.postgres_url, application_name="shardbus projector")
    quitting = asyncio.Event()
    room = asyncio.Semaphore(settings.projector_partitions_held or settings.projector_partitions)
    shared = [
        StreamProjector(bus, engine, TELEMETRY, settings, quitting, graveyard=bus, part=part, room=room)
        for part in Part.all_of(TELEMETRY, settings.projector_partitions)
    ]
    whole = [
        StreamProjector(bus, engine, stream, settings, quitting, graveyard=bus)
        for stream in STREAMS
        if stream != TELEMETRY
    ]
    projecting = [
        asyncio.create_task(projector.run(), name=f"project {projector.part.name}") for projector in (*shared, *whole)
    ]
    projecting.append(asyncio.create_task(keep_history(engine, settings, quitting), name="keep the history"))
    keeper = SnapshotKeeper(bus, engine, settings, quitting)
    keeping = asyncio.create_task(keeper.run(), name="take snapshots")
    stopping = asyncio.create_task(stop.wait(), name="stop projecting")
    try:
        await asyncio.wait([*projecting, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        quitting.set()
        stopping.cancel()
        ended = await asyncio.gather(*projecting, return_exceptions=True)
        await keeping
        await keeper.finish(politely=not any(isinstance(outcome, BaseException) for outcome in ended))
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome


async def _upgrade(settings: ProjectorSettings, stop: asyncio.Event) -> None:
    """Bring the tables about, and give Postgres the time it needs to start."""
    deadline = time.monotonic() + settings.postgres_wait_seconds
    while not stop.is_set():
        try:
            await in_thread(lambda: upgrade(settings.postgres_url))
        except DatabaseUnreachableError as error:
            if time.monotonic() >= deadline:
                raise
            log.info("waiting for Postgres: %s", error)
            await pause(_STANDBY_SECONDS, stop)
        else:
            return


class StreamProjector:
    """Projects one stream, over outages of the servers and other projectors' lives."""

    def __init__(
        self,
        bus: Log,
        engine: Engine,
        stream: str,
        settings: ProjectorSettings,
        stop: asyncio.Event,
        *,
        graveyard: Bus | None,
        part: Part | None = None,
        room: asyncio.Semaphore | None = None,
    ) -> None:
        self.part = part or Part(stream)
        self._room = room or asyncio.Semaphore(1)
        """How many more parts this process may hold."""
        self._bus = bus
        self._graveyard = graveyard
        """Where refused messages go; ``None`` in a replay, which tells nobody anything."""
        self._engine = engine
        self._stream = stream
        self._settings = settings
        self._stop = stop
        self._take = take_ticks if stream == TELEMETRY else take
        self._unknown_devices = UnknownDevices()
        self._standing_by = False
        self._doubted_since: float | None = None
        self._failures = 0
        self._caution = Caution()
        self._epoch: int | None = None
        self._in_hand: int | None = None
        """The message that was announced last: whoever reads this lives, and did not die of it."""
        self._unread: dict[str, int] = {}
        self._housekeeping_due = 0.0

    async def run(self) -> None:
        """Project until stopped."""
        while not self._stop.is_set():
            try:
                async with self._room:
                    had_it = await self._once()
                if not had_it:
                    await pause(_STANDBY_SECONDS, self._stop)
            except ProjectorFencedError as error:
                log.warning("%s; standing by", error)
            except PoisonError as error:
                if error.alone:
                    await self._wait_after(error)
                else:
                    log.info("%s", error)
            except (BusError, DatabaseUnreachableError, DBAPIError, psycopg.Error) as error:
                await self._wait_after(error)

    def _open(self, info: StreamInfo) -> Projection | None:
        return Projection.open(self._engine, info, part=self.part, held=self._epoch, survived=self._in_hand)

    async def _once(self) -> bool:
        """Project for as long as everything holds: one connection to Postgres, one following of the stream.

        Returns whether it was this projector's turn.
        """
        if self._stop.is_set():
            return True
        info = await self._bus.info(self._stream)
        projection = await in_thread(lambda: self._open(info))
        if projection is None:
            if not self._standing_by:
                log.info("another projector has %s; standing by", self.part.name)
            self._standing_by = True
            return False
        self._standing_by = False
        try:
            # Asked again, now that nobody else moves the position: what was known of the stream before may be older
            # than a position that another projector reached meanwhile, and would look like a stream that lost its tail.
            info = await self._bus.info(self._stream)
            position = projection.checkpoint.sequence
            held = await self._bus.get(self._stream, position) if position else None
            shortened = shortening(projection.checkpoint, info, held)
            self._doubt(info, shortened)
            if self._stream == TELEMETRY and shortened:
                # TELEMETRY is acknowledged before the disk has it. What a crash took was advisory, and is said again
                # with the next report; but the rows made of it are of no stream, and have to go.
                log.warning("%s lost its newest messages in a crash; projecting what it holds anew", self._stream)
                await in_thread(lambda: projection.start_over(info))
                position = projection.checkpoint.sequence
                held = None
            verify(projection.checkpoint, info, held)
            for gap in gap_before(info, position):
                refuse_gaps(self._stream, [gap])
                log.warning("%s dropped its messages %d to %d before they were projected", self._stream, *gap)
                await in_thread(lambda gap=gap: projection.skip(gap))
            self._heed(projection.checkpoint, info.last_sequence)
            log.info("projecting %s from %d", self.part.name, projection.checkpoint.sequence + 1)
            await self._follow(projection)
            if self._stop.is_set():
                await in_thread(projection.note_end)
        except (ProjectorFencedError, PoisonError):
            raise
        except EventStoreError:
            await in_thread(projection.note_end)
            raise
        finally:
            await in_thread(projection.close)
        return True

    def _doubt(self, info: StreamInfo, shortened: str | None) -> None:
        """Raise BusUnreachableError for a while where a stream on several servers seems to have lost messages.

        A server that just became its leader may be a moment behind the one that died.
        """
        now = time.monotonic()
        if shortened is None:
            self._doubted_since = None
        elif info.replicas > 1:
            self._doubted_since = self._doubted_since or now
            if now < self._doubted_since + _BELIEVED_AFTER_SECONDS:
                raise BusUnreachableError(f"stream {self._stream} has a new leader, and {shortened}; looking again")

    async def _follow(self, projection: Projection) -> None:
        """Fold what comes, a batch ahead of the transaction that writes the one before."""
        state, position = projection.state, projection.checkpoint.sequence
        committing: asyncio.Task[None] | None = None
        batches = self._bus.follow(
            self._stream,
            start_sequence=position + 1,
            max_batch=self._caution.at_most(self._settings.projector_max_batch),
            idle_seconds=_IDLE_SECONDS,
        )
        try:
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    if batch:
                        if self._caution.announces:
                            if committing:
                                await committing
                            self._in_hand = batch[0].sequence
                            await in_thread(lambda first=batch[0].sequence: projection.note_attempt(first))
                        taken = self._take(state, self._own(batch), self._caution.parked)
                        self._judge(taken)
                        await self._bury(taken.examined.rejected)
                        if taken.examined.skipped:
                            await self._park_unread(taken.examined.skipped)
                        if committing:
                            await committing
                        committing = asyncio.create_task(self._commit(projection, batch, taken, position))
                        state, position = working_part(taken.state, self._stream), batch[-1].sequence
                    if committing and (committing.done() or not batch):
                        await committing
                    if self._stop.is_set():
                        return
                    if self._caution.is_past(projection.checkpoint.sequence):
                        self._caution = Caution()
                        return
                    if time.monotonic() >= self._housekeeping_due:
                        if committing:
                            await committing
                        if not await self._keep_house(projection, idle=not batch):
                            return
        finally:
            if committing:
                await committing

    def _own(self, batch: Sequence[Stored]) -> Sequence[Stored]:
        return batch if self.part.of == 1 else [stored for stored in batch if self.part.has(stored.subject)]

    async def _commit(self, projection: Projection, batch: Sequence[Stored], taken: Taken, position: int) -> None:
        gaps = gaps_in(batch, position)
        refuse_gaps(self._stream, gaps)
        for gap in gaps:
            log.warning("%s dropped its messages %d to %d before they were projected", self._stream, *gap)
        last = batch[-1]
        spans = self._spans(batch, taken)
        try:
            await in_thread(lambda: projection.commit(taken, last.sequence, last.recorded_at, gaps))
        except Exception as error:
            for span in spans:
                span.record_exception(error)
            self._blame(batch, error)
            raise
        finally:
            for span in spans:
                span.end()
        self._failures = 0
        self._count(taken)
        if self._stream == TELEMETRY and self._graveyard:
            self._unknown_devices.note(batch, taken.changes)

    def _heed(self, checkpoint: Checkpoint, last: int) -> None:
        """Note what the checkpoint tells of the projectors before, and say what can be read by now."""
        before, self._epoch = self._epoch, checkpoint.epoch
        self._unread = dict(checkpoint.unread)
        if before is None:
            for kind, first in readable_now(checkpoint.unread).items():
                log.warning(
                    "%s has messages of kind %s from %d on that could not be read, and can be now (%d skipped in all); "
                    "fold them by: shardbus dead retry",
                    *(self._stream, kind, first, checkpoint.skipped),
                )
        self._caution = self._caution.after_start(
            checkpoint.attempts,
            checkpoint.attempted_sequence,
            checkpoint.sequence,
            last,
            self._settings.projector_max_batch,
        )
        if self._caution.announces:
            log.warning(
                "%d starts in a row came nowhere with %s after %d; going message by message to find what is wrong",
                *(checkpoint.attempts - 1, self._stream, checkpoint.sequence),
            )

    def _judge(self, taken: Taken) -> None:
        """Raise PoisonError while messages that the fold fails on are to be tried again, on a state read anew."""
        failed = fold_failures(taken)
        if failed and not self._caution.has_tried(failed):
            self._caution = self._caution.after_fold_failures(failed)
            if not self._caution.has_tried(failed):
                raise PoisonError(f"the fold fails on {self._stream}:{failed[0]}; trying it again", alone=True)

    def _blame(self, batch: Sequence[Stored], error: Exception) -> None:
        """Raise PoisonError if it is the rows of ``batch`` that cannot be written, rather than none."""
        waits = isinstance(error, (psycopg.Error, DBAPIError)) and not _is_fault_of_data(error)
        if waits or isinstance(error, (EventStoreError, BusError, MemoryError)):
            return
        reason = f"Postgres refuses its rows: {_first_line(error)}"
        self._caution = self._caution.after_refusal([stored.sequence for stored in batch], reason)
        where = f"{self._stream}:{batch[0].sequence}" + (f" to {batch[-1].sequence}" if len(batch) > 1 else "")
        raise PoisonError(f"{where}: {reason}", alone=len(batch) == 1) from error

    async def _park_unread(self, skipped: Sequence[Rejected]) -> None:
        """Put what is of a newer producer into ``DEAD``, as far as it is worth it."""
        await self._bury(worth_parking(self._stream, self._unread, skipped))
        self._unread |= {kind: first.stored.sequence for kind, first in firsts(self._unread, skipped).items()}

    def _spans(self, batch: Sequence[Stored], taken: Taken) -> Sequence[Span]:
        """Return a span per event of ``FLEET``, in the trace of who published it. Telemetry is too much to trace."""
        if self._stream != FLEET:
            return ()
        headers = {stored.sequence: stored.headers for stored in batch}
        return [
            tracer().start_span(
                f"project {received.envelope.type}",
                context=extract(headers[received.sequence]),
                kind=SpanKind.CONSUMER,
                attributes={
                    "shardbus.stream": self._stream,
                    "shardbus.sequence": received.sequence,
                    "shardbus.event_id": received.envelope.event_id,
                },
            )
            for received in taken.examined.received
        ]

    def _count(self, taken: Taken) -> None:
        types = Counter(received.envelope.type for received in taken.examined.received)
        types[DeviceGPUStateUpdated.TYPE] += taken.examined.ticks
        for event_type, count in (+types).items():
            metrics.folded(stream=self._stream, event_type=event_type, count=count)
        if taken.examined.skipped:
            metrics.skipped(stream=self._stream, count=len(taken.examined.skipped))
            first = taken.examined.skipped[0]
            log.info("skipped %s:%d: %s", self._stream, first.stored.sequence, first.reason)

    async def _bury(self, rejected: Sequence[Rejected]) -> None:
        """Put what was refused into ``DEAD``, before the position moves past it: rather twice than never."""
        if self._graveyard is None:
            return
        for refused in rejected:
            log.warning("refused %s:%d: %s", self._stream, refused.stored.sequence, refused.reason)
            if self._stream != DEAD:  # an unreadable dead letter would bury itself for ever
                await bury(self._graveyard, refused.stored, code=refused.code, reason=refused.reason, seen_by=SEEN_BY)
            metrics.buried(stream=self._stream, code=refused.code)

    async def _keep_house(self, projection: Projection, *, idle: bool) -> bool:
        """Do what is due about once a second; return whether to go on following."""
        now = time.monotonic()
        self._housekeeping_due = now + _HOUSEKEEPING_SECONDS
        info = await self._bus.info(self._stream)
        if idle:
            self._failures = 0
        self._report_lag(projection, info.last_sequence)
        if self._unknown_devices.suspects:
            fleet = await self._bus.info(FLEET)
            await self._bury(
                await in_thread(lambda: self._unknown_devices.judge(projection.connection, fleet.last_sequence))
            )
        # What is gone will not come: begin anew, past the gap.
        return not (idle and gap_before(info, projection.checkpoint.sequence))

    def _report_lag(self, projection: Projection, last_sequence: int) -> None:
        checkpoint = projection.checkpoint
        behind = max(0, last_sequence - checkpoint.sequence)
        newest = checkpoint.sequence_recorded_at
        age = (datetime.now(UTC) - newest).total_seconds() if behind and newest else 0.0
        metrics.lag(stream=self.part.name, messages=behind, seconds=max(0.0, age))

    async def _wait_after(self, error: Exception) -> None:
        self._failures += 1
        text = _first_line(error)
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        log.log(level, "projecting %s is interrupted, trying again: %s", self._stream, text)
        await pause(min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(self._failures, 10)), self._stop)


def _is_fault_of_data(error: Exception) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else error
    # What the driver cannot even send has no SQLSTATE.
    return isinstance(cause, psycopg.Error) and (
        is_fault_of_data(cause.sqlstate) or (cause.sqlstate is None and isinstance(cause, psycopg.DataError))
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
