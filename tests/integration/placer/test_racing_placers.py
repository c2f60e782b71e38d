"""Placers on a real server, each a process, killed and stopped at the worst moments: one answer, one instance."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from chaos.nursery import Nursery
from chaos.processes import Process, environment_with
from chaos.race import PLACERS, race
from chaos.verdict_of_race import judge
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import COMMANDS, FLEET
from shardbus_schemas import commands, events
from shardbus_schemas.ids import CommandId, NodeId
from shardbus_schemas.model_profile import ModelProfile
from support.projecting import bus_with_streams, whole_stream
from support.reporting_fleet import GIB, ReportingFleet, card
from support.waiting import until

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(240)]

PATIENCE = 60.0
MODEL = ModelProfile(model_id="m", layers=4, layer_bytes=4 * GIB)
"""Of these one fits on a device of 24 GiB, and not two."""
EventT = TypeVar("EventT")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(environment_with({}))
    try:
        yield made
    finally:
        made.close()


class Scene:
    """A server with a small fleet, and placers on it."""

    def __init__(self, bus: Bus, nats_url: str, folder: Path, nursery: Nursery) -> None:
        self.bus = bus
        self._nats_url = nats_url
        self._folder = folder
        self._nursery = nursery
        self.placers: list[Process] = []

    def start(self, variant: str = "", moment: int = 1) -> Process:
        """Start a placer; as a variant, what befalls it does so the ``moment``-th time."""
        name = f"placer-{len(self.placers)}"
        variables = {
            "SHARDBUS_NATS_URL": self._nats_url,
            "SHARDBUS_PLACER_NAME": name,
            "SHARDBUS_ACK_WAIT_SECONDS": "1",
        }
        log = self._folder / f"{name}.log"
        self.placers.append(Process(("placer",), log, variables, nursery=self._nursery, variant=variant, death=moment))
        return self.placers[-1]

    async def joins(self, *nodes: str) -> None:
        fleet = ReportingFleet(
            self.bus,
            {NodeId(node): [card(0, "NVIDIA GeForce RTX 3090", 24, 936e9, 71.0)] for node in nodes},
            heartbeat_seconds=600,
        )
        await fleet.join_all()

    async def place(self, name: str, **conditions: Any) -> None:
        command = commands.Place(model=MODEL, command_id=name, context_tokens=0, deadline_ms=2000, **conditions)
        await publish(self.bus, command, source="test")

    async def said(self, kind: type[EventT]) -> list[EventT]:
        messages = [receive(stored).message for stored in await whole_stream(self.bus, FLEET)]
        return [message for message in messages if isinstance(message, kind)]

    async def until_answered(self) -> None:
        """Wait until no command is left."""
        await until(self._is_done, within=PATIENCE, what="an empty queue")

    async def _is_done(self) -> bool:
        return (await self.bus.info(COMMANDS)).messages == 0

    async def problems(self, *asked: str) -> Sequence[str]:
        """Return what is wrong with the stream."""
        verdict = judge(await whole_stream(self.bus, FLEET), [CommandId(name) for name in asked])
        return [*verdict.problems, *(one.said for one in self.placers if "Traceback" in one.said)]


async def dead(process: Process) -> None:
    await until(lambda: process.code is not None, within=PATIENCE, what="the placer's death")
    assert process.code == -signal.SIGKILL


async def stopped(process: Process) -> None:
    def is_stopped() -> bool:
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED

    await until(is_stopped, within=PATIENCE, what="the placer to stop")


def play(nats_url: str, folder: Path, nursery: Nursery, scenario: Any) -> None:
    async def with_scene() -> None:
        async with bus_with_streams(nats_url) as bus:
            scene = Scene(bus, nats_url, folder, nursery)
            try:
                await scenario(scene)
            finally:
                for process in scene.placers:
                    process.kill()

    asyncio.run(with_scene())


def test_a_placer_killed_between_its_decision_and_the_acknowledgement_leads_to_no_second_instance(
    nats_url: str, tmp_path: Path, nursery: Nursery
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.joins("attic", "cellar")
        mortal = scene.start("dies-unacknowledged")
        await scene.place("c1")
        await dead(mortal)
        (first,) = await scene.said(events.InstancePlaced)
        assert (await scene.bus.info(COMMANDS)).messages == 1, "the command is on the queue still"
        scene.start()
        await scene.until_answered()
        assert await scene.said(events.InstancePlaced) == [first]
        assert not await scene.problems("c1")

    play(nats_url, tmp_path, nursery, scenario)


def test_a_placer_killed_after_a_preemption_leaves_nothing_undone(
    nats_url: str, tmp_path: Path, nursery: Nursery
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.joins("attic")
        mortal = scene.start("dies-halfway")
        await scene.place("low")
        await scene.until_answered()
        await scene.place("high", priority=3)
        await dead(mortal)
        assert [one.cause for one in await scene.said(events.InstancePending)] == ["preempted"]
        assert len(await scene.said(events.InstancePlaced)) == 1
        scene.start()
        await scene.until_answered()
        placed = await scene.said(events.InstancePlaced)
        assert [one.command_id for one in placed] == ["low", "high"]
        assert not await scene.problems("low", "high")

    play(nats_url, tmp_path, nursery, scenario)


def test_a_rebalance_whose_placer_is_killed_after_the_moves_is_answered_once(
    nats_url: str, tmp_path: Path, nursery: Nursery
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.joins("attic")
        mortal = scene.start("dies-halfway")
        await scene.place("c1")
        await scene.until_answered()
        better = ReportingFleet(
            scene.bus,
            {NodeId("office"): [card(0, "NVIDIA A100 80GB PCIe", 80, 1935e9, 312.0)]},
            heartbeat_seconds=600,
        )
        await better.join_all()
        await publish(scene.bus, commands.Rebalance(command_id=CommandId("r1")), source="test")
        await dead(mortal)
        assert len(await scene.said(events.InstanceReplaced)) == 1
        assert not await scene.said(events.FleetRebalanced)
        scene.start()
        await scene.until_answered()
        assert len(await scene.said(events.InstanceReplaced)) == 1, "what has moved is not moved again"
        assert not await scene.problems("c1", "r1")

    play(nats_url, tmp_path, nursery, scenario)


@pytest.mark.parametrize("variant", ["stops-before-the-answer", "stops-halfway"])
def test_a_placer_that_wakes_up_after_another_one_answered_changes_nothing_more(
    nats_url: str, tmp_path: Path, nursery: Nursery, variant: str
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.joins("attic")
        # The placement of the first one is the first event of all that it appends.
        zombie = scene.start(variant, 2 if variant == "stops-before-the-answer" else 1)
        await scene.place("low")
        await scene.until_answered()
        await scene.place("high", priority=3)
        await stopped(zombie)
        scene.start()
        await scene.until_answered()
        answers = len(await whole_stream(scene.bus, FLEET))
        zombie.send(signal.SIGCONT)
        await until(lambda: "high was answered before" in zombie.said, within=PATIENCE, what="the zombie's insight")
        assert len(await whole_stream(scene.bus, FLEET)) == answers
        assert [one.command_id for one in await scene.said(events.InstancePlaced)] == ["low", "high"]
        assert not await scene.problems("low", "high")

    play(nats_url, tmp_path, nursery, scenario)


def test_every_command_is_answered_once_and_no_memory_promised_twice_by_four_placers_killed_at_random(
    nats_url: str, tmp_path: Path, nursery: Nursery
) -> None:
    """The short form; ``python -m chaos.race`` runs a thousand commands."""
    raced = asyncio.run(race(nats_url, tmp_path, nursery, count=120, seed=3))
    assert not raced.problems
    assert raced.kills > PLACERS
    assert sum(raced.answers.values()) > 120
    assert raced.sent > sum(raced.answers.values()), "some were sent twice"


def test_placers_that_do_not_look_before_they_append_are_found_out(
    nats_url: str, tmp_path: Path, nursery: Nursery
) -> None:
    raced = asyncio.run(race(nats_url, tmp_path, nursery, count=60, seed=3, variant="blind"))
    assert [problem for problem in raced.problems if "came between" in problem]
