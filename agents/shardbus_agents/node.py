"""One node at work: its devices are sampled on time, and what there is to tell goes out as fast as the bus takes it.

Three tasks: a bus that is away never delays a sample, and a driver that is slow neither delays a message nor makes the
node look dead.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from shardbus_infra.bus.port import AppendRejectedError, Bus, BusError
from shardbus_infra.observability import metrics
from shardbus_schemas.events import DeviceGPUStateUpdated, Event
from shardbus_schemas.ids import DeviceId

from shardbus_agents.agent import Agent
from shardbus_agents.collector import Snapshot, merge
from shardbus_agents.outbox import Outbox
from shardbus_agents.readings import Pace
from shardbus_agents.sampler import Sampler
from shardbus_agents.waiting import wait_or_stop

_log = logging.getLogger(__name__)

FIRST_PATIENCE_SECONDS = 2.5
"""What a backend may take to open at most, before the node reports without it; it comes in when it is ready."""

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0


class Node:
    """An agent with its samplers and its outbox. ``watchers`` see every snapshot as it is taken, and must not block.

    Nothing is published before ``admitted`` is set: see ``presence``.
    """

    def __init__(
        self,
        agent: Agent,
        samplers: Sequence[Sampler],
        bus: Bus,
        *,
        pace: Pace,
        now: Callable[[], datetime],
        driver_patience_seconds: float = 3,
        leave_patience_seconds: float = 3,
        watchers: Sequence[Callable[[Snapshot], None]] = (),
        admitted: asyncio.Event | None = None,
    ) -> None:
        self._agent = agent
        self._samplers = samplers
        self._bus = bus
        self._pace = pace
        self._now = now
        self._driver_patience = driver_patience_seconds
        self._leave_patience = leave_patience_seconds
        self._watchers = watchers
        self._admitted = admitted
        self._outbox = Outbox(agent.identity.source)
        self._news = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Join, report until ``stop`` is set, leave."""
        self._outbox.add(self._agent.join(self._now()))
        self._news.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                going_on = [tasks.create_task(self._publish()), tasks.create_task(self._pulse())]
                await self._sample(stop)
                for task in going_on:
                    task.cancel()
            await self._leave()
        finally:
            await asyncio.gather(*(sampler.close(patience_seconds=1) for sampler in self._samplers))

    def tell(self, message: Event) -> None:
        """Publish what another part of the agent found out, as its readings are: kept until it is acknowledged."""
        self._outbox.add(self._agent.announce(message, self._now()))
        self._news.set()

    def owe_reading(self, device_id: DeviceId, since: datetime) -> None:
        """Tell the device's first reading of ``since`` or later, however little it moved."""
        self._agent.owe_reading(device_id, since)

    def join_again(self) -> None:
        """Say once more that this node is here: another agent spoke for it by mistake."""
        self._outbox.add(self._agent.join(self._now()))
        self._news.set()

    async def _sample(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        patience = min(FIRST_PATIENCE_SECONDS, self._driver_patience)
        due = loop.time()
        while not stop.is_set():
            at, uptime = self._now(), loop.time()
            sampled = await asyncio.gather(
                *(sampler.sample(at, patience_seconds=patience) for sampler in self._samplers)
            )
            patience = self._driver_patience
            snapshot, told = merge(sampled), 0
            for watch in self._watchers:
                watch(snapshot)
            for announcement in self._agent.observe(snapshot, at, uptime):
                self._outbox.add(announcement)
                if isinstance(announcement.message, DeviceGPUStateUpdated):
                    told += len(announcement.message.states)
            metrics.suppressed(len(snapshot.states) - told)
            if not self._outbox.is_empty:
                self._news.set()
            # A late tick (a slow driver, a laptop that slept) is not made up for: the next one keeps its distance.
            now = loop.time()
            due += self._pace.sample_interval_seconds
            if due <= now:
                due = now + self._pace.sample_interval_seconds
            await wait_or_stop(due - now, stop)

    async def _pulse(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._agent.seconds_to_pulse(loop.time()))
            pulse = self._agent.pulse(self._now(), loop.time())
            if pulse is not None:
                self._outbox.add(pulse)
                self._news.set()

    async def _publish(self) -> None:
        pause, trouble = _FIRST_PAUSE_SECONDS, ""
        if self._admitted is not None:
            await self._admitted.wait()
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._outbox.flush(self._bus)
            except BusError as error:
                refused = isinstance(error, AppendRejectedError)
                now = "the bus refuses what is told" if refused else "cannot publish"
                if now != trouble:
                    _log.warning("%s: %s, will go on trying: %s", self._agent.identity.source, now, error)
                trouble = now
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                self._news.set()
            else:
                if trouble:
                    _log.info("%s: publishing again", self._agent.identity.source)
                pause, trouble = _FIRST_PAUSE_SECONDS, ""

    async def _leave(self) -> None:
        """Tell what was not told yet, and that the node leaves; give up when the bus does not take it in time."""
        self._outbox.add(self._agent.leave(self._now()))
        last: BusError | None = None
        try:
            async with asyncio.timeout(self._leave_patience):
                if self._admitted is not None:
                    await self._admitted.wait()
                while not self._outbox.is_empty:
                    try:
                        await self._outbox.flush(self._bus)
                    except BusError as error:
                        last = error
                        await asyncio.sleep(_FIRST_PAUSE_SECONDS)
        except TimeoutError:
            _log.warning(
                "%s: left without telling: %d messages untold after %g s (%s); the node will be seen as stale",
                self._agent.identity.source,
                len(self._outbox),
                self._leave_patience,
                last or "the bus does not answer",
            )
