"""A bus with everybody at work on it, and what must be so when a server has failed meanwhile.

Publishers append events with ids and log what was acknowledged; followers read; an agent plays a fleet; a placer
answers commands. ``go_on`` returns once all of them have got further; ``assert_nothing_lost`` holds the streams
against the log.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path

from shardbus_agents.settings import AgentSettings
from shardbus_console.running import Part, agent_part, run_until_stopped
from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.port import AppendTimeoutError, BusUnreachableError, Outgoing, Stored
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET, STREAMS, TELEMETRY
from shardbus_placer.process import run as run_placer
from shardbus_placer.settings import PlacerSettings
from shardbus_schemas.commands import Place
from support.placing import KNOWLEDGE
from support.waiting import until

SUBJECT = "shardbus.v1.event.node.{}"
EXAMPLE = Path(__file__).parents[2] / "examples" / "attic.json"
PATIENCE = 60.0


class Publisher:
    """Appends one event after the other, each until it is acknowledged."""

    def __init__(self, bus: NatsBus, number: int) -> None:
        self._bus = bus
        self._name = f"publisher-{number}"
        self.acknowledged: dict[int, bytes] = {}
        """The payload, by the sequence that the server named."""
        self.longest_seconds: float = 0.0
        """Until the acknowledgement came, tries included."""

    async def run(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            payload = f"{self._name}/{number}".encode()
            began = time.monotonic()
            sequence = await self._insist(Outgoing(SUBJECT.format(self._name), payload, {}, payload.decode()))
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            assert sequence not in self.acknowledged, f"{sequence} was given twice"
            self.acknowledged[sequence] = payload
            await asyncio.sleep(0.005)

    async def _insist(self, message: Outgoing) -> int:
        while True:
            try:
                return (await self._bus.append(message)).sequence
            except (AppendTimeoutError, BusUnreachableError):
                await asyncio.sleep(0.02)


class Work:
    """Everybody at work; made by ``everybody_at_work``."""

    def __init__(self, admin: NatsBus, buses: Sequence[NatsBus]) -> None:
        self.admin = admin
        self.publishers = [Publisher(bus, number) for number, bus in enumerate(buses)]
        self.seen: list[list[Stored]] = [[] for _ in buses]
        self.asked: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._buses = buses
        self._stop = asyncio.Event()

    async def go_on(self) -> Sequence[float]:
        """Return when everybody got further, and how long each publisher had to wait at most, in seconds."""
        self._check()
        appended = [len(publisher.acknowledged) for publisher in self.publishers]
        read = [len(seen) for seen in self.seen]
        asked, told = len(self.asked), (await self._end(TELEMETRY))

        async def all_got_further() -> bool:
            self._check()
            return (
                all(len(p.acknowledged) > n + 20 for p, n in zip(self.publishers, appended, strict=True))
                and all(len(seen) > n + 60 for seen, n in zip(self.seen, read, strict=True))
                and len(self.asked) > asked
                and await self._end(TELEMETRY) > told
            )

        await until(all_got_further, within=PATIENCE, what="everybody to go on")
        await until(self._all_answered, within=PATIENCE, what="every command to be answered")
        longest = [publisher.longest_seconds for publisher in self.publishers]
        for publisher in self.publishers:
            publisher.longest_seconds = 0.0
        return longest

    @property
    def acknowledged(self) -> int:
        """How many events were acknowledged."""
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    async def assert_nothing_lost(self) -> None:
        """Stop publishing; then every acknowledgement holds, and everybody has seen the stream once and in order."""
        self._stop.set()
        publishing = [task for task in self.tasks if task.get_name() in {"publish", "ask"}]
        await asyncio.wait_for(asyncio.gather(*publishing), PATIENCE)
        await until(self._all_answered, within=PATIENCE, what="every command to be answered")
        end = await self._end(FLEET)
        for seen in self.seen:
            await until(lambda seen=seen: seen and seen[-1].sequence >= end, within=PATIENCE, what="the followers")
        held = {stored.sequence: stored.payload for stored in self.seen[0]}
        assert list(held) == list(range(1, end + 1)), "there is a hole"
        for seen in self.seen:
            assert [stored.sequence for stored in seen] == list(range(1, len(seen) + 1))
            assert {stored.sequence: stored.payload for stored in seen if stored.sequence <= end} == held
        by_publishers = Counter(payload for payload in held.values() if payload.startswith(b"publisher-"))
        assert not [payload for payload, times in by_publishers.items() if times > 1]
        for publisher in self.publishers:
            assert {sequence: held.get(sequence) for sequence in publisher.acknowledged} == publisher.acknowledged
            assert all(low < high for low, high in pairwise(publisher.acknowledged)), "order was not kept"
        assert self.acknowledged == len(by_publishers)
        answers = Counter(self._answered())
        assert {command_id: answers[command_id] for command_id in self.asked} == dict.fromkeys(self.asked, 1)

    async def publish(self) -> None:
        await asyncio.gather(*(publisher.run(self._stop) for publisher in self.publishers))

    async def follow(self, number: int) -> None:
        async with aclosing(self._buses[number].follow(FLEET)) as batches:
            async for batch in batches:
                self.seen[number] += batch

    async def ask(self) -> None:
        """Ask for a placement twice a second; most are refused, which is an answer."""
        while not self._stop.is_set():
            command_id = f"command-{len(self.asked)}"
            while True:
                try:
                    place = Place(model_id="tiny", command_id=command_id)
                    await publish(self.admin, place, source="test", event_id=command_id)
                    break
                except (AppendTimeoutError, BusUnreachableError):
                    await asyncio.sleep(0.02)
            self.asked.append(command_id)
            await asyncio.sleep(0.5)

    def _answered(self) -> list[str]:
        answers = [receive(s).message for s in self.seen[0] if not s.payload.startswith(b"publisher-")]
        return [answer.command_id for answer in answers if getattr(answer, "command_id", None)]

    def _all_answered(self) -> bool:
        self._check()
        return set(self.asked) <= set(self._answered())

    async def _end(self, stream: str) -> int:
        while True:
            try:
                return (await self.admin.info(stream)).last_sequence
            except BusUnreachableError:
                await asyncio.sleep(0.1)

    def _check(self) -> None:
        for task in self.tasks:
            if task.done():
                task.result()


@asynccontextmanager
async def everybody_at_work(urls: Sequence[str], *, admin: str) -> AsyncGenerator[Work]:
    """Let everybody work on the cluster of these addresses; a publisher and a follower begin at each of them.

    The streams are made by the processes' own start, with three replicas as their setting says.
    """
    stop = asyncio.Event()
    ready = asyncio.Event()

    async def is_ready() -> None:
        ready.set()

    agent = AgentSettings(
        nats_url=admin, stream_replicas=3, simulate=EXAMPLE, sample_interval_seconds=0.5, heartbeat_seconds=1
    )
    placer = PlacerSettings(nats_url=admin, stream_replicas=3)
    parts: dict[str, Part] = {
        "agent": agent_part(agent),
        "placer": lambda bus, stopping: run_placer(bus, placer, stopping, KNOWLEDGE),
    }
    processes = asyncio.create_task(run_until_stopped(parts, agent, stop, ready=is_ready), name="processes")
    starting = asyncio.create_task(ready.wait())
    await asyncio.wait({starting, processes}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
    buses = [await connect(url, name="test", timeout_seconds=10) for url in (admin, *urls)]
    work = Work(buses[0], buses[1:])
    work.tasks = [
        processes,
        asyncio.create_task(work.publish(), name="publish"),
        asyncio.create_task(work.ask(), name="ask"),
        *(asyncio.create_task(work.follow(number), name="follow") for number in range(len(urls))),
    ]
    try:
        await work.go_on()
        yield work
    finally:
        stop.set()
        for task in work.tasks[1:]:
            task.cancel()
        await asyncio.wait(work.tasks, timeout=PATIENCE)
        for bus in buses:
            await bus.close()
    processes.result()


async def leader_of(bus: NatsBus, stream: str = FLEET) -> str:
    """Return the name of the server that leads a stream."""
    return str((await _cluster(bus, stream))["leader"])


async def all_current(bus: NatsBus) -> bool:
    """Return whether every server has all that the others have."""
    for spec in STREAMS:
        replicas = (await _cluster(bus, spec.name))["replicas"]
        if len(replicas) != 2 or not all(replica["current"] for replica in replicas):
            return False
    return True


async def _cluster(bus: NatsBus, stream: str) -> dict[str, object]:
    while True:
        try:
            return (await bus._connection.api("STREAM.INFO", stream))["cluster"]
        except BusUnreachableError:
            await asyncio.sleep(0.1)
