"""The links of one node: it meets its peers on the bus, measures those that are due, and tells what it found."""

import asyncio
import contextlib
import logging
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shardbus_infra.bus.port import Bus, BusError, Heard
from shardbus_schemas import subjects
from shardbus_schemas.events import Event, GPUBandwidthMeasured
from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.presence import PeerPresent, ProbeAddress

from shardbus_agents.collector import Snapshot
from shardbus_agents.probe.client import Measured, UnreachableError, measure
from shardbus_agents.probe.figures import Carried
from shardbus_agents.probe.interfaces import Interfaces, Way
from shardbus_agents.probe.peers import Peers
from shardbus_agents.probe.schedule import Rules, Schedule
from shardbus_agents.probe.server import ProbeServer
from shardbus_agents.probe.turn import Turn
from shardbus_agents.probe.wire import BusyError, Hello, ProbeError

_log = logging.getLogger(__name__)

_REFRESH_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 30.0
"""How often the ways to the peers are looked at, and peers that fell silent are forgotten."""
_OBSTACLE_SECONDS: Final = 10.0
_EVERYWHERE: Final = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}  # noqa: S104 - as chosen
_MOST_ADDRESSES: Final = 8


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the probe server is to listen."""

    host: str
    port: int


class Prober:
    """One node's. It runs beside the node; ``watch`` sees the node's snapshots."""

    def __init__(
        self,
        node_id: NodeId,
        boot_id: BootId,
        bus: Bus,
        *,
        listen: Listen,
        rules: Rules,
        busy_percent: float,
        tell: Callable[[Event], None],
        now: Callable[[], datetime],
        interfaces: Interfaces | None = None,
    ) -> None:
        self._node_id = node_id
        self._boot_id = boot_id
        self._bus = bus
        self._listen = listen
        self._tell = tell
        self._now = now
        self._interfaces = interfaces or Interfaces()
        self._turn = Turn(busy_percent=busy_percent)
        self._token = secrets.token_urlsafe(24)
        self._server = ProbeServer(self._token, self._turn, self._interfaces, self._was_measured)
        self._schedule = Schedule(node_id, rules, random.Random())  # noqa: S311 - spreads work, hides nothing
        self._peers = Peers(node_id)
        self._news = asyncio.Event()
        self._passive: set[NodeId] = set()
        self._complained: dict[NodeId, str] = {}
        # An InfraError for a bad address belongs to the start, not to a task.
        self._port = self._server.listen(listen.host, listen.port)

    def watch(self, snapshot: Snapshot) -> None:
        """See whether a device is busy."""
        self._turn.watch(snapshot)

    async def run(self) -> None:
        """Serve, meet and measure until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._server.run())
            tasks.create_task(self._meet())
            tasks.create_task(self._look_around())
            tasks.create_task(self._measure_those_due())

    def close(self) -> None:
        """Stop listening, if it never ran. Idempotent."""
        self._server.close()

    # --- meeting

    async def _meet(self) -> None:
        own = subjects.peers(self._node_id)
        async with (
            self._bus.listen(subjects.PEERS) as hellos,
            self._bus.listen(own) as answers,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._hear(hellos))
            tasks.create_task(self._hear(answers))
            tasks.create_task(self._say_hello())

    async def _say_hello(self) -> None:
        # Asked again each time: whoever came back to the bus has missed what was told meanwhile.
        while True:
            await self._say(subjects.PEERS, asks=True)
            await asyncio.sleep(_REFRESH_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311 - as above

    async def _hear(self, words: AsyncIterator[Heard]) -> None:
        async for heard in words:
            word = PeerPresent.read(heard.payload)
            if word is None or word.node_id == self._node_id:
                continue
            now = asyncio.get_running_loop().time()
            if self._peers.hear(word, now):
                self._passive.discard(word.node_id)
                self._schedule.meet(word.node_id, now)
                await self._look_at(word)
                self._news.set()
                # News to us is a peer to whom we may be news.
                if word.asks:
                    await self._say(subjects.peers(word.node_id), asks=False)

    async def _say(self, subject: str, *, asks: bool) -> None:
        addresses = await asyncio.to_thread(self._addresses)
        if not addresses:
            return
        word = PeerPresent(
            node_id=self._node_id, boot_id=self._boot_id, addresses=addresses, token=self._token, asks=asks
        )
        with contextlib.suppress(BusError):  # away: said again later
            await self._bus.tell(subject, word.write())

    def _addresses(self) -> tuple[ProbeAddress, ...]:
        families = _EVERYWHERE.get(self._listen.host)
        hosts = (self._listen.host,) if families is None else self._interfaces.addresses(families)
        return tuple(ProbeAddress(host=host, port=self._port) for host in hosts[:_MOST_ADDRESSES])

    async def _look_around(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for peer in self._peers.expire(loop.time()):
                self._schedule.forget(peer)
                self._passive.discard(peer)
                self._complained.pop(peer, None)
            for word in tuple(self._peers.known.values()):
                await self._look_at(word)
            self._news.set()

    async def _look_at(self, word: PeerPresent) -> None:
        way = await asyncio.to_thread(self._way_to, word)
        self._schedule.see_path(word.node_id, way, asyncio.get_running_loop().time())

    def _way_to(self, word: PeerPresent) -> Way | None:
        first = word.addresses[0]
        return self._interfaces.way_to(first.host, first.port)

    # --- measuring

    def _was_measured(self, peer: NodeId, boot: BootId, link_seconds: float) -> None:
        del boot
        self._complained.pop(peer, None)
        self._schedule.measured(peer, asyncio.get_running_loop().time(), link_seconds)

    async def _measure_those_due(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            obstacle = self._turn.obstacle()
            # The round trips of a new peer cost nothing, and no device any time.
            peer = self._schedule.next(loop.time(), without=() if obstacle is None else self._passive)
            if peer is not None:
                await self._measure(peer, obstacle)
            elif obstacle is not None:
                await self._pause(max(self._turn.wait_seconds(), _OBSTACLE_SECONDS * random.uniform(0.5, 1)))  # noqa: S311 - as above
            else:
                await self._pause(self._schedule.wait_seconds(loop.time()))

    async def _pause(self, seconds: float | None) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _measure(self, peer: NodeId, obstacle: str | None) -> None:
        loop = asyncio.get_running_loop()
        word = self._peers.known.get(peer)
        if word is None:
            self._schedule.forget(peer)
            return
        if not self._turn.take():
            self._schedule.refused(peer, loop.time())
            return
        hello = Hello(token=word.token, node_id=self._node_id, boot_id=self._boot_id)

        def found_passive(found: Measured) -> None:
            loop.call_soon_threadsafe(self._tell_passive, peer, found)

        def work() -> Measured:
            # The thread gives the turn back, not the loop: it may go on when the loop has given up waiting for it.
            try:
                return measure(
                    word.addresses,
                    hello,
                    self._turn,
                    self._interfaces,
                    bursts=obstacle is None,
                    found_passive=found_passive,
                )
            finally:
                self._turn.give_back()

        try:
            found = await asyncio.to_thread(work)
        except BusyError as error:
            _log.debug("the link to %s: %s", peer, error)
            self._schedule.refused(peer, loop.time())
        except UnreachableError as error:
            self._failed(peer, f"cannot be reached: {error}; is the way there open, and --probe-listen set right?")
        except (OSError, ProbeError) as error:
            self._failed(peer, f"the measurement broke off: {error}")
        else:
            self._take(peer, found)

    def _failed(self, peer: NodeId, reason: str) -> None:
        self._schedule.failed(peer, asyncio.get_running_loop().time())
        if peer not in self._complained:
            self._complained[peer] = reason
            _log.warning("the link to %s is not measured: %s; it is tried again, less and less often", peer, reason)

    def _take(self, peer: NodeId, found: Measured) -> None:
        now = asyncio.get_running_loop().time()
        if found.there is None or found.back is None or found.trips is None:
            self._schedule.refused(peer, now, found.welcome.after_seconds)
            return
        if self._complained.pop(peer, None) is not None:
            _log.info("the link to %s is measured again", peer)
        latency = found.trips.latency_seconds
        self._tell_measured(self._node_id, peer, found.there, latency, found.own.name)
        self._tell_measured(peer, self._node_id, found.back, latency, found.welcome.interface)
        is_settled = found.is_settled
        self._schedule.measured(peer, now, found.link_seconds, is_settled=is_settled)

    def _tell_measured(
        self, from_node: NodeId, to_node: NodeId, carried: Carried, latency: float, interface: str | None
    ) -> None:
        figures = {
            "bandwidth_bytes_per_second": carried.bytes_per_second,
            "latency_seconds": latency,
            "method": "probe",
            "samples": carried.samples,
            "spread": carried.spread,
            "at_least": carried.at_least,
        }
        self._tell_link(from_node, to_node, interface, figures)

    def _tell_passive(self, peer: NodeId, found: Measured) -> None:
        """Tell what the interfaces promise, once in a peer's life: the measurement that follows says more."""
        own, other = found.own.bytes_per_second, found.welcome.speed_bytes_per_second
        if peer in self._passive or found.trips is None:
            return
        self._passive.add(peer)
        if own is None or other is None:
            return
        figures = {
            "bandwidth_bytes_per_second": min(own, other),
            "latency_seconds": found.trips.latency_seconds,
            "method": "passive",
        }
        self._tell_link(self._node_id, peer, found.own.name, figures)
        self._tell_link(peer, self._node_id, found.welcome.interface, figures)

    def _tell_link(
        self, from_node: NodeId, to_node: NodeId, interface: str | None, figures: Mapping[str, object]
    ) -> None:
        self._tell(
            GPUBandwidthMeasured.model_validate(
                {"from": from_node, "to": to_node, "interface": interface, "measured_at": self._now(), **figures}
            )
        )
