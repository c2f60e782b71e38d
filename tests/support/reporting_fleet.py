"""A fleet on the bus as its agents would play it, in the test's process: it joins, reports, is lost and comes back."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from random import Random

from shardbus_infra.bus.port import Appended, Bus, Outgoing
from shardbus_infra.bus.publish import outgoing, publish
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import BootId, DeviceId, DeviceKey, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState

GIB = 2**30


def card(number: int, name: str, gib: int, bandwidth: float, tflops: float) -> DeviceFacts:
    """Return the facts of a card."""
    return DeviceFacts(
        device_id=DeviceId(f"cuda:{number}"),
        name=name,
        backend="cuda",
        memory_total_bytes=gib * GIB,
        memory_bandwidth_bytes_per_second=bandwidth,
        peak_flops={"float16": tflops * 1e12},
    )


class ReportingFleet:
    """Nodes with their devices: who is there reports what is in use, everybody at its own time."""

    def __init__(
        self,
        bus: Bus,
        nodes: Mapping[NodeId, Sequence[DeviceFacts]],
        *,
        heartbeat_seconds: float = 4.0,
        bytes_per_second: float = 1.25e9,
        neighbours: int | None = None,
        seed: int = 1,
    ) -> None:
        self._bus = bus
        self.nodes = nodes
        self._heartbeat_seconds = heartbeat_seconds
        self._bytes_per_second = bytes_per_second
        self._neighbours = neighbours
        self._random = Random(seed)
        self._ticks = itertools.count(1)
        self._here: set[NodeId] = set()
        self._boots: dict[NodeId, BootId] = {}

    async def join_all(self) -> None:
        """Every node joins, registers its devices, tells all of them and has measured the links to the others.

        With ``neighbours``, only those to so many of the next ones.
        """
        for node in self.nodes:
            await self.join(node)
        links = [
            events.GPUBandwidthMeasured.model_validate(
                {
                    "from": one,
                    "to": other,
                    "method": "probe",
                    "measured_at": datetime.now(UTC),
                    "bandwidth_bytes_per_second": self._bytes_per_second,
                    "latency_seconds": 1e-4,
                }
            )
            for one, other in self._pairs()
        ]
        await self._bus.append_many([_ready(link) for link in links])

    def _pairs(self) -> Iterator[tuple[NodeId, NodeId]]:
        names = list(self.nodes)
        for index, one in enumerate(names):
            for step in range(1, min(len(names) - 1, self._neighbours or len(names)) + 1):
                yield one, names[(index + step) % len(names)]

    async def join(self, node: NodeId) -> Appended:
        """A node comes, or comes back, with all its devices."""
        self._boots[node] = boot = BootId(str(uuid7()))
        joined = events.NodeJoined(node_id=node, boot_id=boot, heartbeat_seconds=self._heartbeat_seconds)
        place = await self._say(joined)
        for facts in self.nodes[node]:
            place = await self._say(events.DeviceRegistered(node_id=node, device=facts))
        self._here.add(node)
        await self._bus.append(self._report(node))
        return place

    async def leave(self, node: NodeId) -> Appended:
        """A node is shut down in order."""
        self._here.discard(node)
        return await self._say(events.NodeLeft(node_id=node, boot_id=self._boots[node], reason="shut down"))

    def fall_silent(self, node: NodeId) -> None:
        """A node says no more."""
        self._here.discard(node)

    async def lose(self, key: DeviceKey) -> Appended:
        """A device falls off its node."""
        lost = events.DeviceLost(node_id=key.node_id, device_id=key.device_id, reason="fell off the bus")
        return await self._say(lost)

    async def find_again(self, key: DeviceKey) -> Appended:
        """A device is back."""
        facts = next(one for one in self.nodes[key.node_id] if one.device_id == key.device_id)
        return await self._say(events.DeviceRegistered(node_id=key.node_id, device=facts))

    @contextlib.asynccontextmanager
    async def reporting(self, every_seconds: float = 2.0) -> AsyncGenerator[None]:
        """Every node that is here tells the readings of all its devices again and again."""
        tasks = [asyncio.create_task(self._keep_reporting(node, every_seconds)) for node in self.nodes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_reporting(self, node: NodeId, every_seconds: float) -> None:
        await asyncio.sleep(every_seconds * self._random.random())
        while True:
            if node in self._here:
                await self._bus.append(self._report(node))
            await asyncio.sleep(every_seconds)

    def _report(self, node: NodeId) -> Outgoing:
        now = datetime.now(UTC)
        states = tuple(
            DeviceGPUState(
                node_id=node,
                device_id=facts.device_id,
                last_update=now,
                memory_used_bytes=self._random.randrange(300, 500) * 2**20,
                compute_utilization_percent=float(self._random.randrange(0, 5)),
                thermal_temperature_c=float(self._random.randrange(35, 45)),
                is_thermal_throttling=False,
            )
            for facts in self.nodes[node]
        )
        return _ready(events.DeviceGPUStateUpdated(node_id=node, tick=next(self._ticks), heartbeat=True, states=states))

    async def _say(self, message: FrozenModel) -> Appended:
        return await publish(self._bus, message, source="fleet")


def _ready(message: FrozenModel) -> Outgoing:
    return outgoing(message, source="fleet", event_id=str(uuid7()), occurred_at=datetime.now(UTC))
