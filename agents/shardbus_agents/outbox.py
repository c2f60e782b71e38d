"""What a node has said and the bus has not acknowledged yet: kept while the bus is away, within bounds.

Lifecycle events are kept in order, each with its own time. Of readings only each device's latest is kept, of a
link its latest figures: what was in between says nothing about now.

A bus that is away and one that refuses are told apart. What the server refuses for what it is, such as a message that
is too large, is dropped, or it would bar the way for ever. What it may take later, once there is room on its disk or
somebody grants the right, stays; meanwhile what goes to another stream goes on. So it does where one stream is silent:
a NATS server whose disk ran full does not say so, it leaves what goes to that stream unanswered.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable

from shardbus_infra.bus.port import (
    AppendRejectedError,
    AppendTimeoutError,
    Bus,
    BusError,
    MessageRefusedError,
    Outgoing,
)
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.observability import metrics
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    GPUBandwidthMeasured,
    NodeJoined,
    NodeLeft,
    ShardReported,
)
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.agent import Announcement

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 3.0
"""How long the bus may take to acknowledge."""
_SHORT_PATIENCE_SECONDS = 1.0
"""The same where another stream has been silent for that long. Both, and the node's longest pause, are less than the
silence after which it would seem dead."""


class Outbox:
    """One node's unacknowledged events."""

    def __init__(self, source: str, *, capacity: int = 10_000) -> None:
        self._source = source
        self._capacity = capacity
        self._lifecycle: deque[Announcement] = deque()
        self._telemetry: Announcement | None = None
        self._links: dict[tuple[str, str], Announcement] = {}
        self._held: dict[DeviceId, DeviceGPUState] = {}
        """Readings of devices that the bus has never heard of; they go with the tick after their registration."""
        self._known: set[DeviceId] = set()

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
                self._telemetry = _merged(self._telemetry, announcement, self._held)
                self._held = {}
            case GPUBandwidthMeasured() as measured:
                self._links[measured.from_node, measured.to_node] = announcement
            case DeviceLost() as lost:
                self._forget_readings(lost.device_id)
                self._queue(announcement)
            case NodeLeft():
                # Readings of a node that has left would only make it look alive.
                self._telemetry = None
                self._held.clear()
                self._links.clear()
                self._queue(announcement)
            case _:
                self._queue(announcement)

    async def flush(self, bus: Bus) -> None:
        """Send what the bus takes, until nothing waits; raises BusError, and what was not acknowledged stays.

        Lifecycle goes first: nobody is to read of a device before its registration is stored.
        """
        ways: _Ways = dict.fromkeys((self._send_lifecycle, self._send_readings, self._send_links))
        while await _advance(ways, bus):
            pass
        for obstacle in ways.values():
            if obstacle is not None:
                raise obstacle

    async def _send_lifecycle(self, bus: Bus, patience_seconds: float) -> bool:
        if not self._lifecycle:
            return False
        first = self._lifecycle[0]
        if await self._was_taken(bus, first, patience_seconds) and isinstance(first.message, DeviceRegistered):
            self._known.add(first.message.device.device_id)
        if self._lifecycle and self._lifecycle[0] is first:
            self._lifecycle.popleft()
        return True

    async def _send_readings(self, bus: Bus, patience_seconds: float) -> bool:
        if self._telemetry is None or any(isinstance(waiting.message, NodeJoined) for waiting in self._lifecycle):
            return False
        telemetry = self._telemetry = self._without_strangers(self._telemetry)
        if await self._was_taken(bus, telemetry, patience_seconds):
            metrics.published()
        # What came meanwhile holds this one's readings or newer ones, and is sent next.
        if self._telemetry is telemetry:
            self._telemetry = None
        return True

    async def _send_links(self, bus: Bus, patience_seconds: float) -> bool:
        links = dict(self._links)
        if not links:
            return False
        try:
            await bus.append_many([self._outgoing(link) for link in links.values()], timeout_seconds=patience_seconds)
        except MessageRefusedError:
            for link in links.values():
                await self._was_taken(bus, link, patience_seconds)
        for pair, link in links.items():
            if self._links.get(pair) is link:
                del self._links[pair]
        return True

    async def _was_taken(self, bus: Bus, announcement: Announcement, patience_seconds: float) -> bool:
        """Append; return whether it is stored now, or never will be. Raises BusError where it may be later."""
        try:
            await bus.append(self._outgoing(announcement), timeout_seconds=patience_seconds)
        except MessageRefusedError as error:
            name = type(announcement.message).__name__
            _log.error("%s: gave up %s %s: %s", self._source, name, announcement.event_id, error)
            metrics.dropped()
            return False
        return True

    def _without_strangers(self, telemetry: Announcement) -> Announcement:
        """Return ``telemetry`` without devices whose first registration waits; their readings are kept for later.

        Lifecycle waits here only when its stream bars the way and that of readings does not.
        """
        registering = (each.message for each in self._lifecycle)
        waiting = {each.device.device_id for each in registering if isinstance(each, DeviceRegistered)} - self._known
        if not waiting:
            return telemetry
        updated = _readings_of(telemetry)
        self._held |= {state.device_id: state for state in updated.states if state.device_id in waiting}
        rest = tuple(state for state in updated.states if state.device_id not in waiting)
        return _with(telemetry, updated.model_copy(update={"states": rest}))

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
            self._make_room()

    def _make_room(self) -> None:
        """Drop a tenth, the oldest of what repeats itself: comings and goings of one device, words of one shard.

        The first and the last of each stay. That is bounded too: by the devices there are and the ways they can fail,
        and by the instances that are placed there, of which a bus that is away brings no new ones.
        """
        topics = [_topic(announcement) for announcement in self._lifecycle]
        first = {topic: index for index, topic in reversed([*enumerate(topics)])}
        last = {topic: index for index, topic in enumerate(topics)}
        excess = len(topics) - (self._capacity - self._capacity // 10)
        between = [index for index, topic in enumerate(topics) if first[topic] < index < last[topic]]
        dropped = set(between[:excess])
        if dropped:
            _log.warning("%s: the bus is away for long; gave up %d older events", self._source, len(dropped))
            metrics.dropped(len(dropped))
            self._lifecycle = deque(each for index, each in enumerate(self._lifecycle) if index not in dropped)

    def _forget_readings(self, device_id: DeviceId) -> None:
        self._held.pop(device_id, None)
        if self._telemetry is None:
            return
        updated = _readings_of(self._telemetry)
        states = tuple(state for state in updated.states if state.device_id != device_id)
        self._telemetry = _with(self._telemetry, updated.model_copy(update={"states": states}))


_Ways = dict[Callable[[Bus, float], Awaitable[bool]], BusError | None]
"""What sends a message of one kind, to what bars its way now."""


async def _advance(ways: _Ways, bus: Bus) -> bool:
    """Send one message by the first way that has one and is open; return whether there was one."""
    silent = any(isinstance(obstacle, AppendTimeoutError) for obstacle in ways.values())
    for send, obstacle in ways.items():
        if obstacle is None:
            try:
                if await send(bus, _SHORT_PATIENCE_SECONDS if silent else _PATIENCE_SECONDS):
                    return True
            except (AppendRejectedError, AppendTimeoutError) as error:
                ways[send] = error
                silent = silent or isinstance(error, AppendTimeoutError)
    return False


def _merged(waiting: Announcement | None, newer: Announcement, held: dict[DeviceId, DeviceGPUState]) -> Announcement:
    """Return ``newer`` with the readings that only ``waiting`` or ``held`` has.

    Its tick tells of the one that it replaces. A full report leaves out what has no reading any more, so it is taken
    as it is.
    """
    new = _readings_of(newer)
    if new.heartbeat:
        return newer
    old = () if waiting is None else _readings_of(waiting).states
    states = dict(held)
    for state in (*old, *new.states):
        before = states.get(state.device_id)
        states[state.device_id] = state if before is None else _with_period(state, before)
    is_full_report = waiting is not None and _readings_of(waiting).heartbeat
    return _with(newer, new.model_copy(update={"states": tuple(states.values()), "heartbeat": is_full_report}))


def _with_period(state: DeviceGPUState, before: DeviceGPUState) -> DeviceGPUState:
    """Return ``state`` with the utilisation of the last period, which a full report that waits tells."""
    if before.utilization_peak_percent is None or state.utilization_peak_percent is not None:
        return state
    names = ("utilization_mean_percent", "utilization_peak_percent")
    return state.model_copy(update={name: getattr(before, name) for name in names})


def _readings_of(announcement: Announcement) -> DeviceGPUStateUpdated:
    assert isinstance(announcement.message, DeviceGPUStateUpdated)
    return announcement.message


def _with(announcement: Announcement, message: DeviceGPUStateUpdated) -> Announcement:
    return Announcement(message, announcement.event_id, announcement.occurred_at)


def _topic(announcement: Announcement) -> Hashable:
    """Return what an event is about; an event that is about nothing but itself is never dropped."""
    match announcement.message:
        case DeviceRegistered(device=facts):
            return facts.device_id
        case DeviceLost(device_id=device_id):
            return device_id
        case DeviceFaulted(device_id=device_id, kind=kind, code=code):
            return device_id, kind, code
        case ShardReported(instance_id=instance_id, device_id=device_id):
            return instance_id, device_id
        case _:
            return announcement.event_id
