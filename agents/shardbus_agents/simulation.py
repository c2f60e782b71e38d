"""A fleet file at work: each of its nodes lives, is gone and comes back as the scenario says, on one clock.

All nodes are played by one event loop, so they do not look at their devices at the same moment: their ticks are
spread evenly over the interval. The scenario begins when the last of them is there.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Protocol

from shardbus_schemas.events import Event, GPUBandwidthMeasured
from shardbus_schemas.fleet import FleetLink
from shardbus_schemas.ids import NodeId
from shardbus_schemas.scenario import AnyStep, LinkStep, NodeStep

from shardbus_agents.timeline import Life, beginnings, link_at, lives, next_change, next_start
from shardbus_agents.waiting import wait_or_stop

_log = logging.getLogger(__name__)

_LONGEST_SPREAD_PER_NODE_SECONDS: Final = 0.01
"""So that a fleet of ten is there at once, and one of a thousand within one interval."""
_LINKS_AT_ONCE: Final = 50
_LINKS_BIT_BY_BIT: Final = 10


class Playable(Protocol):
    """A node in one life: ``node.Node``, as far as it is needed here."""

    async def run(self, stop: asyncio.Event) -> None:
        """Join, report until ``stop`` is set, leave. A cancelled one is gone without a word."""
        ...

    def tell(self, message: Event) -> None:
        """Publish ``message`` too."""
        ...


class SimulationClock:
    """The scenario's time, from when the first of ``nodes`` asks."""

    def __init__(self, *, time_scale: float, interval_seconds: float, nodes: int) -> None:
        self.time_scale = time_scale
        self._interval = interval_seconds
        self._apart = min(_LONGEST_SPREAD_PER_NODE_SECONDS, interval_seconds / max(1, nodes))
        self._begun_at = math.nan
        self._spread = self._apart * nodes

    def now(self) -> float:
        """Return the scenario's time in its seconds; 0 until all nodes are there."""
        return max(0.0, self._elapsed() - self._spread) * self.time_scale

    def seconds_until(self, t: float) -> float:
        """Return how many seconds it takes until the scenario is at ``t``."""
        return max(0.0, t / self.time_scale + self._spread - self._elapsed())

    def turn(self, place: int) -> float:
        """Return how many seconds it takes until the first tick of the node at ``place``."""
        return max(0.0, place * self._apart - self._elapsed())

    def ticks(self, life: Life, place: int) -> Callable[[], float]:
        """Return what says the scenario's time at each tick of ``life``.

        It counts whole intervals, so that two plays of one scenario see the same moments although no tick is on time
        to the microsecond.
        """
        first = life.start if life.start > 0 else (place * self._apart - self._spread) * self.time_scale
        began: list[float] = []

        def now() -> float:
            moment = asyncio.get_running_loop().time()
            if not began:
                began.append(moment)
            ticks = round((moment - began[0]) / self._interval)
            return max(0.0, first + ticks * self._interval * self.time_scale)

        return now

    def _elapsed(self) -> float:
        moment = asyncio.get_running_loop().time()
        if math.isnan(self._begun_at):
            self._begun_at = moment
        return moment - self._begun_at


class PlayedLinks:
    """The links that leave one node: told when it comes, when they change, and again now and then."""

    def __init__(
        self,
        links: Callable[[], Iterator[FleetLink]],
        count: int,
        steps: Mapping[tuple[NodeId, NodeId], Sequence[LinkStep]],
        *,
        clock: SimulationClock,
        interval_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._links = links
        self._steps = steps
        self._every_step = tuple(dict.fromkeys(step for own in steps.values() for step in own))
        self._clock = clock
        self._now = now
        # Many links are told bit by bit, or a thousand nodes would say a million things at once.
        self._bit = max(1, count) if count <= _LINKS_AT_ONCE else _LINKS_BIT_BY_BIT
        self._pause = interval_seconds / max(1, math.ceil(count / self._bit))

    async def tell(self, node: Playable) -> None:
        """Tell them for as long as the node lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_all(node))
            if self._every_step:
                tasks.create_task(self._tell_changes(node))

    async def _tell_all(self, node: Playable) -> None:
        while True:
            links = self._links()
            while some := tuple(islice(links, self._bit)):
                t = self._clock.now()
                for link in some:
                    node.tell(self._measured(link, t))
                await asyncio.sleep(self._pause)

    async def _tell_changes(self, node: Playable) -> None:
        t = self._clock.now()
        while not math.isinf(change := next_change(self._every_step, t)):
            await asyncio.sleep(self._clock.seconds_until(change))
            before, t = t, max(change, self._clock.now())
            for link in self._links():
                if self._figures(link, before) != self._figures(link, t):
                    node.tell(self._measured(link, t))

    def _measured(self, link: FleetLink, t: float) -> GPUBandwidthMeasured:
        bandwidth, latency = self._figures(link, t)
        return GPUBandwidthMeasured.model_validate(
            {
                "from": link.from_node,
                "to": link.to_node,
                "bandwidth_bytes_per_second": bandwidth,
                "latency_seconds": latency,
                "method": "simulated",
                "measured_at": self._now(),
            }
        )

    def _figures(self, link: FleetLink, t: float) -> tuple[float, float]:
        figures = link_at(link, self._steps.get((link.from_node, link.to_node), ()), t)
        return figures.bandwidth_bytes_per_second, figures.latency_seconds


class PlayedNode:
    """A node of a fleet file, for one life after the other."""

    def __init__(
        self,
        place: int,
        begin: Callable[[Life], Playable],
        *,
        steps: Sequence[NodeStep],
        links: PlayedLinks | None,
        clock: SimulationClock,
    ) -> None:
        self._place = place
        self._begin = begin
        self._steps = steps
        self._links = links
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Live as the scenario says until ``stop`` is set."""
        await wait_or_stop(self._clock.turn(self._place), stop)
        for life in lives(self._steps):
            if life.start > 0:
                await wait_or_stop(self._clock.seconds_until(life.start), stop)
            if stop.is_set():
                return
            node = self._begin(life)
            async with self._telling_links(node):
                if math.isinf(life.end):
                    await node.run(stop)
                else:
                    await self._live(node, life, stop)

    @contextlib.asynccontextmanager
    async def _telling_links(self, node: Playable) -> AsyncGenerator[None]:
        if self._links is None:
            yield
            return
        telling = asyncio.create_task(self._links.tell(node))
        try:
            yield
        finally:
            await _end(telling)

    async def _live(self, node: Playable, life: Life, stop: asyncio.Event) -> None:
        leave = asyncio.Event()
        running, stopping = asyncio.create_task(node.run(leave)), asyncio.create_task(stop.wait())
        try:
            end = self._clock.seconds_until(life.end)
            await asyncio.wait({running, stopping}, timeout=end, return_when=asyncio.FIRST_COMPLETED)
            if life.says_goodbye or stop.is_set():
                leave.set()
                await running
        finally:
            await _end(stopping)
            await _end(running)


class Narrator:
    """Says in the log what happens, as it happens: for whoever watches a scenario."""

    def __init__(self, steps: Sequence[AnyStep], clock: SimulationClock) -> None:
        self._steps = steps
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Narrate until ``stop`` is set or nothing happens any more."""
        t = -1.0
        while not stop.is_set():
            coming = [start for step in self._steps if (start := next_start(step, t)) is not None]
            if not coming:
                return
            before, t = t, min(coming)
            await wait_or_stop(self._clock.seconds_until(t), stop)
            if not stop.is_set():
                for occurrence in beginnings(self._steps, before, t):
                    _log.info("scenario at %s: %s", timedelta(seconds=round(t)), _words(occurrence.step))


def _words(step: AnyStep) -> str:
    where = "" if isinstance(step, LinkStep) or not step.where else f" where {step.where}"
    lasts = "" if math.isinf(step.lasts_seconds) or not step.lasts_seconds else f" for {step.lasts_seconds:g} s"
    return f"{step.do} {', '.join(step.on)}{where}{lasts}"


async def _end(task: "asyncio.Task[Any]") -> None:
    """Cancel ``task`` and wait for its end; what it failed of is raised."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
