"""Folding ``TELEMETRY`` for who writes it down: the fold's result, without making an object of every reading.

What is usual is read the short way (``ticks``); all else goes the way of ``intake.take``, in its place. Both give the
same, but for one thing: the state returned has no ``device_states``. A projector holds none, it only writes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import overload

from shardbus_infra.bus.port import Stored
from shardbus_schemas.events import DeviceGPUStateUpdated
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received
from typing_extensions import override

from shardbus_eventstore.fold import Changes, fold_with_changes, hear
from shardbus_eventstore.intake import NOTHING_PARKED, Examined, Rejected, Taken, advance, examine, take
from shardbus_eventstore.poison import Verdict
from shardbus_eventstore.state import DeviceStateRecord, FleetState, NodeHeard
from shardbus_eventstore.ticks import Reading, Tick, read_tick, reading_of, state_of, tick_of


class Readings(Sequence[DeviceStateRecord]):
    """Accepted readings in order, as columns; each becomes a record when somebody asks for it."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.sequences: list[int] = []
        self.recorded_at: list[datetime] = []
        self.latest: dict[DeviceKey, int] = {}
        """Device to the index of its last reading."""

    @classmethod
    def of(cls, records: Sequence[DeviceStateRecord]) -> "Readings":
        """Return ``records`` as columns."""
        if isinstance(records, Readings):
            return records
        readings = cls()
        for record in records:
            readings.add((reading_of(record.reading),), record.sequence, record.recorded_at)
        return readings

    def add(self, states: Sequence[Reading], sequence: int, recorded_at: datetime) -> None:
        """Append the readings of one message."""
        for index, reading in enumerate(states, len(self.readings)):
            self.latest[_key(reading.node_id, reading.device_id)] = index
        self.readings += states
        self.sequences += [sequence] * len(states)
        self.recorded_at += [recorded_at] * len(states)

    @override
    def __len__(self) -> int:
        return len(self.readings)

    @overload
    def __getitem__(self, index: int) -> DeviceStateRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[DeviceStateRecord]: ...
    @override
    def __getitem__(self, index: int | slice) -> DeviceStateRecord | Sequence[DeviceStateRecord]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return DeviceStateRecord(state_of(self.readings[index]), self.sequences[index], self.recorded_at[index])


_key = lru_cache(maxsize=65_536)(DeviceKey.of)


def take_ticks(state: FleetState, batch: Sequence[Stored], parked: Mapping[int, Verdict] = NOTHING_PARKED) -> Taken:
    """Return what ``intake.take`` would of a piece of ``TELEMETRY``, but for the state's ``device_states``."""
    if parked:
        return take(state, batch, parked)
    try:
        return _take_ticks(state, batch)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 -- the careful way finds out which message it was
        return take(state, batch)


def _take_ticks(state: FleetState, batch: Sequence[Stored]) -> Taken:
    draft = _Draft(state)
    for stored in batch:
        tick = read_tick(stored)
        if tick is None:
            draft.take_carefully(stored)
        else:
            draft.ticks += 1
            draft.take(tick, stored.sequence, stored.recorded_at)
    return draft.taken(batch)


class _Draft:
    """The next state while a batch is folded into it."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._position = state.positions.get("TELEMETRY", 0)
        self._heard: dict[NodeId, NodeHeard] = {}
        self._repeated = 0
        self._readings = Readings()
        self._links: list[Received[FrozenModel]] = []
        self._received: list[Received[FrozenModel]] = []
        self._rejected: list[Rejected] = []
        self._skipped: list[Rejected] = []
        self.ticks = 0

    def take(self, tick: Tick, sequence: int, recorded_at: datetime) -> None:
        if sequence <= self._position:
            return
        self._position = sequence
        node = tick.node_id
        old = self._heard.get(node) or self._state.node_heard.get(node)
        self._heard[node], is_news = hear(old, tick, sequence, recorded_at)
        if is_news:
            self._readings.add(tick.states, sequence, recorded_at)
        else:
            self._repeated += 1

    def take_carefully(self, stored: Stored) -> None:
        examined = examine((stored,))
        self._received += examined.received
        self._rejected += examined.rejected
        self._skipped += examined.skipped
        for received in examined.received:
            if isinstance(received.message, DeviceGPUStateUpdated):
                self.take(tick_of(received.message), received.sequence, received.recorded_at)
            elif received.sequence > self._position:
                self._position = received.sequence
                self._links.append(received)

    def taken(self, batch: Sequence[Stored]) -> Taken:
        """Return the outcome. Links are folded last and alone: they meet nothing that ticks touch."""
        before = self._state
        linked, changes = fold_with_changes(
            FleetState(links=before.links, positions=before.positions, ignored=before.ignored), self._links
        )
        ignored = linked.ignored
        if self._repeated:
            ignored = {**ignored, "TELEMETRY": ignored.get("TELEMETRY", 0) + self._repeated}
        heard = {**before.node_heard, **self._heard} if self._heard else before.node_heard
        folded = replace(before, device_states={}, node_heard=heard, links=linked.links, ignored=ignored)
        if batch:
            folded = advance(folded, "TELEMETRY", batch[-1].sequence)
        return Taken(folded, self._changes(changes), self._examined())

    def _changes(self, links: Changes) -> Changes:
        readings = self._readings
        return replace(links, device_states=readings.latest.keys(), node_heard=self._heard.keys(), readings=readings)

    def _examined(self) -> Examined:
        return Examined(tuple(self._received), tuple(self._rejected), tuple(self._skipped), self.ticks)
