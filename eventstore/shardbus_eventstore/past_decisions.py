"""Every past placement decision with the state that it saw, in one pass over the streams and in bounded memory.

``TELEMETRY`` and ``FLEET`` touch disjoint parts of the state, so the state at a pair of sequences is one part of each.
Decisions stand in ``FLEET`` in the order of their appending; what they saw is almost in order, since several placers
work at a time. So they pass two sorting windows, one per stream, and each stream is folded forward once. What comes too
late for a window, as the answer of a placer that took minutes, is left to another pass.
"""

import heapq
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeVar

from shardbus_infra.bus.port import Log, Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas import subjects
from shardbus_schemas.events import (
    InstancePending,
    InstancePlaced,
    InstanceReplaced,
    PlacementPreviewed,
    PlacementRejected,
)
from shardbus_schemas.placement import StatePosition
from shardbus_schemas.registry import UnreadableMessageError

from shardbus_eventstore.intake import advance, take
from shardbus_eventstore.state import FleetState, wanted_instances, without_telemetry

PlacementDecision = InstancePlaced | InstanceReplaced | InstancePending | PlacementPreviewed | PlacementRejected

WINDOW: Final = 64
"""How many decisions are held to be sorted: as many placers may work side by side without a second pass."""
_BATCH = 500
_IDLE_SECONDS = 0.5
_CLOCKS = timedelta(seconds=5)
"""How far the clocks of the servers that record two streams may be apart."""
_SUBJECTS = tuple(subjects.any_event(kind).removesuffix("*") for kind in ("instance", "refusal", "command"))

Missing = Literal["telemetry_gone", "telemetry_replaced", "fleet_gone"]
"""Why a past state cannot be known: ``telemetry_gone``: readings that made it were trimmed; ``telemetry_replaced``: the
stream's sequences were given a second time since; ``fleet_gone``: events are missing, as in an archive with a gap."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PastDecision:
    """A decision, and what it was decided on."""

    event: PlacementDecision
    sequence: int
    """Where its event stands in ``FLEET``."""
    recorded_at: datetime
    as_of: datetime
    """When the placer judged the state: as the event says, else when it was published."""
    state: FleetState | None
    """The state that it saw, without decisions and deleted instances, which no plan depends on."""
    missing: Missing | None = None
    """Why there is no state."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which decisions: those whose events lie within, both ends included. A bound is a ``FLEET`` sequence or a time."""

    since: int | datetime | None = None
    until: int | datetime | None = None

    def is_before(self, stored: Stored) -> bool:
        """Return whether the span ends before the message."""
        match self.until:
            case None:
                return False
            case int():
                return self.until < stored.sequence
            case datetime():
                return self.until < stored.recorded_at

    def is_after(self, stored: Stored) -> bool:
        """Return whether the span begins after the message."""
        match self.since:
            case None:
                return False
            case int():
                return self.since > stored.sequence
            case datetime():
                return self.since > stored.recorded_at


EVERYTHING: Final = Span()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A decision before its state is known."""

    event: PlacementDecision
    sequence: int
    recorded_at: datetime
    as_of: datetime

    @property
    def at(self) -> StatePosition:
        return self.event.position


async def past_decisions(
    log: Log,
    span: Span = EVERYTHING,
    *,
    base: FleetState = FleetState(),  # noqa: B008 - immutable
    window: int = WINDOW,
    wanted: Callable[[PlacementDecision], bool] = lambda _: True,
) -> AsyncGenerator[PastDecision, None]:
    """Yield the decisions of ``span`` that are ``wanted``, each with the state that it saw, roughly in their order.

    ``base`` is a state to begin with, such as a snapshot's: without one the streams are folded from their beginning,
    and what was decided on readings that are gone comes without a state. What is appended meanwhile is left out.
    """
    end = (await log.info(FLEET)).last_sequence
    asked = _decisions(log, span, end)
    while True:
        late: list[int] = []
        async with aclosing(asked), aclosing(_one_pass(log, asked, base, window, wanted, late)) as found:
            async for one in found:
                yield one
        if not late:
            return
        asked = _named(log, late)


async def _one_pass(
    log: Log,
    asked: AsyncIterable[_Asked],
    base: FleetState,
    window: int,
    wanted: Callable[[PlacementDecision], bool],
    late: list[int],
) -> AsyncGenerator[PastDecision, None]:
    """Yield what can be answered by folding each stream forward once; note in ``late`` what cannot."""
    fleet, telemetry = _Cursor(log, FLEET, base), _Cursor(log, TELEMETRY, base)

    async def with_fleet() -> AsyncGenerator[tuple[_Asked, FleetState | None], None]:
        by_fleet = _nearly_sorted(
            asked, lambda one: one.at.fleet_sequence, window, lambda one: late.append(one.sequence)
        )
        async with aclosing(by_fleet):
            async for one in by_fleet:
                if wanted(one.event):
                    yield one, await fleet.at(one.at.fleet_sequence)

    try:
        async with aclosing(with_fleet()) as halves:
            by_telemetry = _nearly_sorted(
                halves, lambda pair: pair[0].at.telemetry_sequence, window, lambda pair: late.append(pair[0].sequence)
            )
            async with aclosing(by_telemetry):
                async for one, part in by_telemetry:
                    yield _answer(one, part, await telemetry.at(one.at.telemetry_sequence), telemetry.recorded_at)
    finally:
        await fleet.close()
        await telemetry.close()


def _answer(
    one: _Asked, fleet: FleetState | None, telemetry: FleetState | None, heard_at: datetime | None
) -> PastDecision:
    missing: Missing | None = None
    if fleet is None:
        missing = "fleet_gone"
    elif telemetry is None:
        missing = "telemetry_gone"
    elif heard_at is not None and heard_at > one.recorded_at + _CLOCKS:
        # A decision cannot have seen a reading that came after it: its sequence belonged to another one then.
        missing = "telemetry_replaced"
    state = None if missing or fleet is None or telemetry is None else _joined(fleet, telemetry)
    return PastDecision(one.event, one.sequence, one.recorded_at, one.as_of, state, missing)


def _joined(fleet: FleetState, telemetry: FleetState) -> FleetState:
    """Return the state whose parts these are."""
    return replace(
        without_telemetry(fleet),
        device_states=telemetry.device_states,
        node_heard=telemetry.node_heard,
        links=telemetry.links,
        positions={
            FLEET: fleet.positions.get(FLEET, 0),
            TELEMETRY: telemetry.positions.get(TELEMETRY, 0),
        },
    )


class _Cursor:
    """One stream's part of the state, folded forward as far as is asked."""

    def __init__(self, log: Log, stream: str, base: FleetState) -> None:
        self._log = log
        self._stream = stream
        self._state = base
        self._start = base.positions.get(stream, 0)
        self._batches: AsyncGenerator[Iterable[Stored], None] | None = None
        self._waiting: list[Stored] = []
        self._lost = False
        self.recorded_at: datetime | None = None
        """When the last message that was folded was recorded."""

    async def at(self, sequence: int) -> FleetState | None:
        """Return the state after ``sequence``, not less than in the call before; ``None`` if messages are missing."""
        if sequence < self._start:
            return None  # before the state that was begun with
        while not self._lost and self._position < sequence:
            if not self._waiting:
                await self._read(sequence)
                continue
            count = sum(1 for stored in self._waiting if stored.sequence <= sequence)
            if count == 0 or self._waiting[count - 1].sequence - self._position != count:
                self._lost = True
                break
            self._fold(self._waiting[:count])
            del self._waiting[:count]
        return None if self._lost else self._state

    @property
    def _position(self) -> int:
        return self._state.positions.get(self._stream, 0)

    async def _read(self, sequence: int) -> None:
        """Wait for the next messages; note it if there will be none up to ``sequence``."""
        if self._batches is None:
            info = await self._log.info(self._stream)
            if info.first_sequence > self._position + 1 or info.last_sequence < sequence:
                self._lost = True
                return
            self._batches = self._log.follow(
                self._stream, start_sequence=self._position + 1, max_batch=_BATCH, idle_seconds=_IDLE_SECONDS
            )
        self._waiting = list(await anext(self._batches))
        if not self._waiting:
            self._lost = (await self._log.get(self._stream, self._position + 1)) is None

    def _fold(self, batch: list[Stored]) -> None:
        state = advance(take(self._state, batch).state, self._stream, batch[-1].sequence)
        gone = [name for name, instance in state.instances.items() if not instance.is_wanted]
        if gone or state.decisions:
            # Neither has any part in a plan, and both only grow.
            state = replace(state, decisions={}, instances=wanted_instances(state) if gone else state.instances)
        self._state = state
        self.recorded_at = batch[-1].recorded_at

    async def close(self) -> None:
        if self._batches is not None:
            await self._batches.aclose()


async def _nearly_sorted(
    items: AsyncIterable[Item], key: Callable[[Item], int], window: int, too_late: Callable[[Item], None]
) -> AsyncGenerator[Item, None]:
    """Yield ``items`` in the order of ``key``, holding ``window`` of them; give away what should have come before."""
    held: list[tuple[int, int, Item]] = []
    last, count = -1, 0

    async for item in items:
        count += 1
        if key(item) < last:
            too_late(item)
            continue
        heapq.heappush(held, (key(item), count, item))
        if len(held) > window:
            last, _, smallest = heapq.heappop(held)
            yield smallest
    while held:
        yield heapq.heappop(held)[2]


async def _decisions(log: Log, span: Span, end: int) -> AsyncGenerator[_Asked, None]:
    """Yield the placement decisions of ``span`` up to sequence ``end``, in the order of the stream."""
    start = span.since if isinstance(span.since, int) else 1
    if start > end:
        return
    batches = log.follow(FLEET, start_sequence=max(1, start), max_batch=_BATCH, idle_seconds=_IDLE_SECONDS)
    async with aclosing(batches):
        async for batch in batches:
            for stored in batch:
                if stored.sequence > end or span.is_before(stored):
                    return
                if not span.is_after(stored) and (asked := _read(stored)) is not None:
                    yield asked
            if batch and batch[-1].sequence >= end:
                return
            if not batch and (await log.get(FLEET, end)) is None:
                return  # the last messages are gone, so that nothing more comes


async def _named(log: Log, sequences: Iterable[int]) -> AsyncGenerator[_Asked, None]:
    """Yield the decisions at these sequences, in the order of the states that they saw."""
    asked: list[_Asked] = []
    for sequence in sequences:
        stored = await log.get(FLEET, sequence)
        one = None if stored is None else _read(stored)
        if one is not None:
            asked.append(one)
    for one in sorted(asked, key=lambda one: (one.at.fleet_sequence, one.at.telemetry_sequence)):
        yield one


def _read(stored: Stored) -> _Asked | None:
    """Return the placement decision in a message, or ``None`` if it is none."""
    if not stored.subject.startswith(_SUBJECTS):
        return None
    try:
        received = receive(stored)
    except UnreadableMessageError:
        return None
    if not isinstance(received.message, PlacementDecision):
        return None
    event = received.message
    as_of = event.position.as_of or received.envelope.occurred_at
    return _Asked(event, stored.sequence, stored.recorded_at, as_of)
