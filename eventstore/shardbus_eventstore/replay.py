"""Replay: the read model is rebuilt from its log into a shadow beside the live one, and takes its place.

The same projector fills both; the shadow has its own schema, checkpoints and locks. Nothing is buried or reported from
it. What it did is committed batch by batch, so a replay that ends early is gone on with by the next.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

import psycopg
from shardbus_infra.bus.port import BusUnreachableError, Log, StreamInfo
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import InterfaceError, OperationalError
from typing_extensions import override

from shardbus_eventstore import rollups, shadow
from shardbus_eventstore.carry_over import SHADOW, carry_over, carry_over_gaps
from shardbus_eventstore.checkpoint import Checkpoint, Gap, Tally
from shardbus_eventstore.errors import PoisonError, ReplayError, SchemaError
from shardbus_eventstore.log_until import LogUntil
from shardbus_eventstore.migrate import current_revision, head_revision, upgrade
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.projector import STREAMS, StreamProjector
from shardbus_eventstore.read_model.compare import Comparison, compare
from shardbus_eventstore.read_model.database import LIVE, driver_of, snapshot
from shardbus_eventstore.read_model.load import load_working_state, working_part
from shardbus_eventstore.read_model.writer import TableRows
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_eventstore.switch import switch
from shardbus_eventstore.waiting import in_thread

BATCH: Final = 1000
"""Messages in one transaction. With eight readings in each 1000 take 155 MB, 4000 take 222 MB, and as much CPU time."""

_PATIENCE_SECONDS: Final = 30.0
"""How long a server may be away in the middle of a replay."""
_WATCH_SECONDS: Final = 0.05
_SWITCH_PAUSE_SECONDS: Final = 0.5
_MOST_ROUNDS: Final = 10
_NEAR_SECONDS: Final = 2.0
"""A comparison holds one moment of the live read model for about as long as this."""
_PRUNING_MARGIN: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one stream is rebuilt."""

    stream: str
    begun_at: int
    """Where this run began: 0, or where an interrupted one had come to."""
    sequence: int
    last: int


class Watch:
    """Who looks on. Called from the event loop, often: to be quick about it."""

    def progress(self, streams: Sequence[Progress]) -> None:
        """See how far it is."""

    def say(self, text: str) -> None:
        """Hear a sentence about what goes on, or what is waited for."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did."""

    messages: int
    """Read by this run."""
    seconds: float
    """What reading them took."""
    resumed: bool
    switched: bool
    positions: Mapping[str, int]
    comparison: Comparison | None = None


class ShadowProjection(Projection):
    """The projection of one stream in the shadow schema."""

    moved: Callable[[str, int, int], None]
    """Told stream, position and number of messages after each commit, from any thread."""

    @override
    def _write(
        self,
        sequence: int,
        recorded_at: datetime | None,
        tally: Tally,
        new: TableRows,
        gaps: Sequence[Gap],
        unread: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        if gaps:
            driver = driver_of(self.connection)
            with driver.transaction():
                lost = [
                    rest
                    for gap in gaps
                    for rest in carry_over(driver, self.stream, self.checkpoint.stream_created, gap)
                ]
                super()._write(sequence, recorded_at, tally, new, lost, unread)
            if not new:  # nodes that spoke in the gap go on from there
                self.state = working_part(load_working_state(self.connection), self.stream)
        else:
            super()._write(sequence, recorded_at, tally, new, gaps, unread)
        self.moved(self.stream, sequence, tally.folded + tally.rejected + tally.skipped)


class ShadowProjector(StreamProjector):
    """Projects one stream into the shadow, and tells nobody but the replay."""

    def __init__(
        self,
        log: Log,
        engine: Engine,
        stream: str,
        settings: ProjectorSettings,
        stop: asyncio.Event,
        filling: "Filling",
    ) -> None:
        super().__init__(log, engine, stream, settings, stop, graveyard=None)
        self._filling = filling
        self._away_since: float | None = None

    async def run(self) -> None:
        """Project until stopped; raises ReplayError when a server is away for too long."""
        while not self._stop.is_set():
            try:
                if not await self._once():
                    await asyncio.sleep(_WATCH_SECONDS)
            except PoisonError as error:
                # Tried as often as by any projector, for a mended program may fold what an older one could not.
                if error.alone:
                    await super()._wait_after(error)
            except (BusUnreachableError, OperationalError, InterfaceError) as error:
                await self._wait_after(error)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                await self._wait_after(error)

    def _open(self, info: StreamInfo) -> Projection | None:
        projection = ShadowProjection.open(self._engine, info, held=self._epoch, survived=self._in_hand)
        if projection is not None:
            # A crash of Postgres may take the last commits, each whole. The switch waits for the disk.
            projection.connection.execute(text("SET synchronous_commit = off"))
            projection.moved = self._moved
            self._moved(self._stream, projection.checkpoint.sequence, 0)
        return projection

    def _moved(self, stream: str, sequence: int, messages: int) -> None:
        if messages:
            self._away_since = None
        self._filling.moved(stream, sequence, messages)

    async def _keep_house(self, projection: Projection, *, idle: bool) -> bool:
        """Do nothing for a shadow but to go on past what is gone."""
        return await super()._keep_house(projection, idle=idle) if idle else True

    async def _wait_after(self, error: Exception) -> None:
        self._away_since = self._away_since or time.monotonic()
        if time.monotonic() - self._away_since > _PATIENCE_SECONDS:
            reason = str(error).strip().splitlines()[0]
            raise ReplayError(
                f"{self._stream} cannot be replayed: {reason}; the next replay goes on from here"
            ) from error
        await super()._wait_after(error)


class Filling:
    """The shadow while projectors fill it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._tasks: list[asyncio.Task[None]] = []
        self._begun_at: dict[str, int] = {}
        self.positions: dict[str, int] = {}
        self.messages = 0

    def moved(self, stream: str, sequence: int, messages: int) -> None:
        """Note how far a stream is."""
        self._begun_at.setdefault(stream, sequence)
        self.positions[stream] = sequence
        self.messages += messages

    @contextlib.asynccontextmanager
    async def running(self, log: Log, engine: Engine, settings: ProjectorSettings) -> AsyncGenerator[None]:
        """Fill from ``log`` within the block."""
        stop = asyncio.Event()
        projectors = [ShadowProjector(log, engine, stream, settings, stop, self) for stream in STREAMS]
        self._tasks = [asyncio.create_task(each.run(), name="replay") for each in projectors]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def fill(self, log: Log, engine: Engine, settings: ProjectorSettings, ends: Mapping[str, int]) -> None:
        """Fill from ``log`` until every stream is at its end; raises ReplayError if one is past it."""
        async with self.running(log, engine, settings):
            await self.reach(ends)
        if any(self.positions.get(stream, 0) > end for stream, end in ends.items()):
            raise ReplayError("the live read model went back in the middle of this: begin again, with --start-over")

    async def reach(self, ends: Mapping[str, int]) -> None:
        """Return once every stream is rebuilt up to its end; raises what went wrong with one."""
        while any(self.positions.get(stream, 0) < end for stream, end in ends.items()):
            self.show(ends)
            ended, _ = await asyncio.wait(self._tasks, timeout=_WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        self.show(ends)

    def show(self, ends: Mapping[str, int]) -> None:
        """Let the watch see how far it is."""
        found: list[Progress] = []
        for stream, end in ends.items():
            sequence = self.positions.get(stream, 0)
            if sequence or end:
                found.append(Progress(stream, self._begun_at.get(stream, 0), sequence, max(sequence, end)))
        self._watch.progress(found)


async def replay(
    log: Log,
    settings: ProjectorSettings,
    *,
    start_over: bool = False,
    forget: bool = False,
    watch: Watch | None = None,
) -> Replayed:
    """Rebuild the read model from ``log`` and put it in the live one's place.

    It goes on with a replay that was interrupted, unless ``start_over``. A live read model of other streams than those
    of ``log`` is replaced only if told to ``forget`` it. Raises EventStoreError and BusError; then the live one is as
    it was, and the next replay goes on with what this one did.
    """
    watch = watch or Watch()
    url = settings.postgres_url
    await in_thread(lambda: upgrade(url))
    async with _ready(log, url, start_over=start_over, forget=forget, watch=watch) as (connection, resumed):
        await in_thread(lambda: shadow.refuse_what_would_be_lost(connection))
        began, filling = time.monotonic(), Filling(watch)
        async with filling.running(log, shadow.engine_of(url, SHADOW), _bulk(settings)):
            await filling.reach({stream: (await log.info(stream)).last_sequence for stream in STREAMS})
            await in_thread(lambda: _roll_up(url))
            seconds = time.monotonic() - began
            positions = await _switch(connection, watch, wait=not forget)
        await in_thread(lambda: shadow.drop(connection, shadow.REPLACED))
        return Replayed(filling.messages, seconds, resumed, switched=True, positions=positions)


async def rehearse(
    log: Log,
    settings: ProjectorSettings,
    *,
    comparing: bool = False,
    start_over: bool = False,
    watch: Watch | None = None,
) -> Replayed:
    """Rebuild the read model from ``log`` as far as the live one is, compare them if wanted, and drop it again."""
    watch = watch or Watch()
    url = settings.postgres_url
    await in_thread(lambda: _require_live(url))
    ready = _ready(log, url, start_over=start_over, forget=not comparing, watch=watch, not_past_live=comparing)
    async with ready as (connection, resumed):
        began, filling = time.monotonic(), Filling(watch)
        bulk, engine = _bulk(settings), shadow.engine_of(url, SHADOW)
        if not comparing:
            ends = {stream: (await log.info(stream)).last_sequence for stream in STREAMS}
            await filling.fill(LogUntil(log, ends), engine, bulk, ends)
            seconds, comparison = time.monotonic() - began, None
        else:
            for _ in range(_MOST_ROUNDS):  # while this catches up, the live one goes on
                round_began = time.monotonic()
                ends = _sequences(await in_thread(lambda: shadow.positions(connection, LIVE)))
                await filling.fill(LogUntil(log, ends), engine, bulk, ends)
                if time.monotonic() - round_began < _NEAR_SECONDS:
                    break
            with snapshot(shadow.engine_of(url, LIVE)) as live:
                ends = _sequences(await in_thread(lambda: shadow.checkpoints_in(live, LIVE)))
                await filling.fill(LogUntil(log, ends), engine, bulk, ends)
                seconds = time.monotonic() - began
                trimmed = {stream for stream in STREAMS if (await log.info(stream)).first_sequence > 1}
                since = datetime.now(UTC) - timedelta(days=settings.history_keep_days) + _PRUNING_MARGIN
                comparison = await in_thread(lambda: _compare(connection, live, engine, trimmed, since))
        await in_thread(lambda: shadow.drop(connection, SHADOW))
        return Replayed(filling.messages, seconds, resumed, switched=False, positions=ends, comparison=comparison)


def _roll_up(url: str) -> None:
    """Make the shadow's minutes and hours; those whose readings are gone everywhere are the live ones."""
    with shadow.engine_of(url, SHADOW).connect() as connection:
        driver = driver_of(connection.execution_options(isolation_level="AUTOCOMMIT"))
        rollups.adopt(driver, LIVE)
        rollups.complete(driver)


def _sequences(checkpoints: Mapping[str, Checkpoint]) -> dict[str, int]:
    return {stream: at.sequence for stream, at in checkpoints.items() if at.sequence}


def _bulk(settings: ProjectorSettings) -> ProjectorSettings:
    return settings.model_copy(update={"projector_max_batch": BATCH})


def _require_live(url: str) -> None:
    """Raise SchemaError unless the live tables are this program's: a rehearsal changes nothing."""
    with shadow.failures_explained(engine := shadow.engine_of(url, LIVE)), engine.connect() as connection:
        found, needed = current_revision(connection), head_revision()
    if found != needed:
        raise SchemaError(
            f"the live read model is of revision {found or 'none'}, this program's is {needed}, and a rehearsal "
            "changes nothing: start `shardbus projector` of this version once"
        )


@contextlib.asynccontextmanager
async def _ready(
    log: Log, url: str, *, start_over: bool, forget: bool, watch: Watch, not_past_live: bool = False
) -> AsyncGenerator[tuple[Connection, bool]]:
    """Yield the connection that holds the right to replay, and whether there is something to go on with."""
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)  # as a projector does, for the same reason
    stack = contextlib.ExitStack()
    try:
        connection = await in_thread(lambda: stack.enter_context(shadow.only_replay(url)))
        if await in_thread(lambda: shadow.exists(connection, shadow.REPLACED)):
            watch.say(f"dropping {shadow.REPLACED}, which a replay left behind after its switch")
            await in_thread(lambda: shadow.drop(connection, shadow.REPLACED))
        surveyed = await _survey(log, connection)
        if not forget:
            surveyed.verify(surveyed.live)
        resumed = not start_over and await in_thread(lambda: shadow.can_be_resumed(connection, surveyed))
        if not_past_live:
            live = surveyed.live
            resumed &= all(name in live and at.sequence <= live[name].sequence for name, at in surveyed.shadow.items())
        if not resumed:
            await in_thread(lambda: shadow.begin(connection, url))
        else:
            watch.say("going on with a replay that was interrupted")
        yield connection, resumed
    finally:
        await in_thread(stack.close)
        gc.set_threshold(*thresholds)


async def _survey(log: Log, connection: Connection) -> shadow.Surveyed:
    live, rebuilt = [await in_thread(lambda each=each: shadow.positions(connection, each)) for each in (LIVE, SHADOW)]
    streams = {stream: await log.info(stream) for stream in STREAMS}
    asked = {(stream, at.sequence) for each in (live, rebuilt) for stream, at in each.items() if stream in streams}
    held = {(stream, sequence): await log.get(stream, sequence) for stream, sequence in asked if sequence}
    return shadow.Surveyed(live, rebuilt, streams, held)


async def _switch(connection: Connection, watch: Watch, *, wait: bool) -> Mapping[str, int]:
    """Switch as soon as it is possible."""
    said = None
    began = time.monotonic()
    while True:
        outcome = await in_thread(lambda: switch(connection, wait=wait))
        if not isinstance(outcome, str):
            return _sequences(outcome)
        if outcome != said:
            watch.say(f"waiting to switch: {outcome}")
            said = outcome
        if "behind" in outcome and time.monotonic() - began > 2 * _PATIENCE_SECONDS:
            raise ReplayError(f"{outcome}; the live one has what the streams do not hold")
        await asyncio.sleep(_SWITCH_PAUSE_SECONDS)


def _compare(
    connection: Connection, live: Connection, engine: Engine, trimmed: set[str], since: datetime
) -> Comparison:
    with connection.begin():
        carry_over_gaps(driver_of(connection))
    with snapshot(engine) as rebuilt:
        return compare(live, rebuilt, trimmed=trimmed, history_since=since)
