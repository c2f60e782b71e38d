"""What a node has said and the bus has not acknowledged yet: kept while the bus is away, within bounds.

Lifecycle events are kept in order, each with its own time. Of readings only each device's latest is kept, of a
link its latest figures: what was in between says nothing about now.
"""

import logging
from collections import deque
from collections.abc import Sequence

from shardbus_infra.bus.port import Bus, Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.observability import metrics
from shardbus_schemas.events import (
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    GPUBandwidthMeasured,
    NodeLeft,
)

from shardbus_agents.agent import Announcement

_log = logging.getLogger(__name__)


class Outbox:
    """One node's unacknowledged events."""

    def __init__(self, source: str, *, capacity: int = 10_000) -> None:
        self._source = source
        self._capacity = capacity
        self._lifecycle: deque[Announcement] = deque()
        self._telemetry: Announcement | None = None
        self._links: dict[tuple[str, str], Announcement] = {}

    @property
    def is_empty(self) -> bool:
        """Whether everything said was acknowledged."""
        return not self._lifecycle and self._telemetry is None and not self._links

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._lifecycle) + (self._telemetry is not None) + len(self._links)

    def add(self, announcement: Announcement) -> None:
        """Keep ``announcement`` until it is acknowledged, or said again in a newer form."""
        match announcement.message:
            case DeviceGPUStateUpdated():
                self._telemetry = _merged(self._telemetry, announcement)
            case GPUBandwidthMeasured() as measured:
                self._links[measured.from_node, measured.to_node] = announcement
            case DeviceLost() as lost:
                self._forget_readings(lost.device_id)
                self._queue(announcement)
            case NodeLeft():
                # Readings of a node that has left would only make it look alive.
                self._telemetry = None
                self._links.clear()
                self._queue(announcement)
            case _:
                self._queue(announcement)

    async def flush(self, bus: Bus) -> None:
        """Send until nothing waits; raises BusError, and what was not acknowledged stays.

        Lifecycle goes first: nobody is to read of a device before its registration is stored.
        """
        while not self.is_empty:
            if self._lifecycle:
                first = self._lifecycle[0]
                await bus.append(self._outgoing(first))
                if self._lifecycle and self._lifecycle[0] is first:
                    self._lifecycle.popleft()
            elif (telemetry := self._telemetry) is not None:
                await bus.append(self._outgoing(telemetry))
                metrics.published()
                # What came meanwhile holds this one's readings or newer ones, and is sent next.
                if self._telemetry is telemetry:
                    self._telemetry = None
            else:
                links = dict(self._links)
                await bus.append_many([self._outgoing(link) for link in links.values()])
                for pair, link in links.items():
                    if self._links.get(pair) is link:
                        del self._links[pair]

    def _outgoing(self, announcement: Announcement) -> Outgoing:
        return outgoing(
            announcement.message,
            source=self._source,
            event_id=announcement.event_id,
            occurred_at=announcement.occurred_at,
        )

    def _queue(self, announcement: Announcement) -> None:
        self._lifecycle.append(announcement)
        if len(self._lifecycle) > self._capacity:
            superseded = _superseded(self._lifecycle)
            # Without one, each event is the last word on its device: as many as the node has devices, so bounded too.
            if superseded is not None:
                _log.warning("%s: the bus is away for long; dropped %s", self._source, superseded.event_id)
                self._lifecycle.remove(superseded)

    def _forget_readings(self, device_id: str) -> None:
        if self._telemetry is None:
            return
        updated = self._telemetry.message
        assert isinstance(updated, DeviceGPUStateUpdated)
        states = tuple(state for state in updated.states if state.device_id != device_id)
        self._telemetry = _with(self._telemetry, updated.model_copy(update={"states": states}))


def _merged(waiting: Announcement | None, newer: Announcement) -> Announcement:
    """Return ``newer`` with the readings that only ``waiting`` has; its tick tells of the one that it replaces."""
    if waiting is None:
        return newer
    old, new = waiting.message, newer.message
    assert isinstance(old, DeviceGPUStateUpdated)
    assert isinstance(new, DeviceGPUStateUpdated)
    states = {state.device_id: state for state in (*old.states, *new.states)}
    update = {"states": tuple(states.values()), "heartbeat": old.heartbeat or new.heartbeat}
    return _with(newer, new.model_copy(update=update))


def _with(announcement: Announcement, message: DeviceGPUStateUpdated) -> Announcement:
    return Announcement(message, announcement.event_id, announcement.occurred_at)


def _superseded(lifecycle: Sequence[Announcement]) -> Announcement | None:
    """Return the oldest event about a device of which a later one says more; ``None`` if there is none."""
    last_word = {device: announcement for announcement in lifecycle if (device := _device(announcement)) is not None}
    for announcement in lifecycle:
        device = _device(announcement)
        if device is not None and last_word[device] is not announcement:
            return announcement
    return None


def _device(announcement: Announcement) -> str | None:
    match announcement.message:
        case DeviceRegistered(device=facts):
            return facts.device_id
        case DeviceLost(device_id=device_id):
            return device_id
        case _:
            return None
