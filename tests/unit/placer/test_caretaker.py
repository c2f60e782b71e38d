"""The placer's other half on the bus in memory: what it does by itself, against rivals, defects and an absent bus."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from shardbus_eventstore import live as live_module
from shardbus_infra.bus.port import ExpectedLast, Outgoing, Stored, WrongSequenceError
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import FLEET
from shardbus_placer import caretaker
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.process import run
from shardbus_placer.settings import PlacerSettings
from shardbus_schemas import commands, events, subjects
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from support.unreliable_bus import UnreliableBus
from support.waiting import until

SETTINGS = PlacerSettings(catch_up_seconds=2)
GIB = 2**30
MODEL = ModelProfile(model_id="m", layers=4, layer_bytes=4 * GIB)
"""Of these one fits on a device of 24 GiB, and not two."""
EventT = TypeVar("EventT")


async def joins(bus: UnreliableBus, node: str, boot: str = "b") -> None:
    await publish(bus, events.NodeJoined(node_id=node, boot_id=boot, heartbeat_seconds=100), source="agent")
    facts = DeviceFacts(
        device_id="g", backend="cuda", memory_total_bytes=24 * GIB, memory_bandwidth_bytes_per_second=900e9
    )
    await publish(bus, events.DeviceRegistered(node_id=node, device=facts), source="agent")


async def place(bus: UnreliableBus, name: str, **conditions: Any) -> None:
    command = commands.Place(model=MODEL, command_id=name, context_tokens=0, deadline_ms=5000, **conditions)
    await publish(bus, command, source="test")


async def lose(bus: UnreliableBus, device: str, event_id: str = "the loss") -> None:
    key = DeviceKey(device)
    lost = events.DeviceLost(node_id=key.node_id, device_id=key.device_id, reason="gone")
    await publish(bus, lost, source="agent", event_id=event_id)


def said(bus: UnreliableBus, kind: type[EventT]) -> list[EventT]:
    return [event for event in bus.said(FLEET) if isinstance(event, kind)]


async def until_said(bus: UnreliableBus, kind: type[EventT], count: int = 1) -> list[EventT]:
    await until(lambda: len(said(bus, kind)) >= count, what=f"{count} {kind.__name__}")
    return said(bus, kind)


def header_of(bus: UnreliableBus, kind: type[Any], name: str) -> str:
    stored: Sequence[Stored] = bus.server.log(FLEET).messages
    return next(one.headers[name] for one in stored if one.headers["ce-type"] == kind.__name__)


def play(
    scenario: Callable[[UnreliableBus], Awaitable[None]],
    *,
    planner: Any = plan,
    placers: int = 1,
    nodes: Sequence[str] = ("a", "b"),
) -> None:
    async def with_placers() -> None:
        bus, stop = UnreliableBus(), asyncio.Event()
        for node in nodes:
            await joins(bus, node)
        knowledge = Knowledge({}, Policy(), planner)
        tasks = [asyncio.create_task(run(bus, SETTINGS, stop, knowledge)) for _ in range(placers)]
        try:
            await scenario(bus)
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 10)

    asyncio.run(with_placers())


async def placed_at(bus: UnreliableBus, name: str) -> str:
    """Place an instance and return its device."""
    await place(bus, name)
    await until(lambda: any(one.command_id == name for one in said(bus, events.InstancePlaced)), what="the placement")
    (device,) = next(one for one in said(bus, events.InstancePlaced) if one.command_id == name).plan.memory_by_device
    return device


def test_what_is_lost_is_placed_elsewhere_and_the_event_names_the_loss_as_its_cause() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        device = await placed_at(bus, "c1")
        await lose(bus, device)
        (replaced,) = await until_said(bus, events.InstanceReplaced)
        assert replaced.cause == "device_lost"
        assert device not in replaced.plan.memory_by_device
        assert header_of(bus, events.InstanceReplaced, "ce-causationid") == "the loss"
        assert header_of(bus, events.InstanceReplaced, "ce-correlationid") == "the loss"
        assert header_of(bus, events.InstanceReplaced, "ce-source") == "placer/placer"

    play(scenario)


def test_what_found_no_place_is_placed_when_a_node_comes_and_that_is_the_cause() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        device = await placed_at(bus, "c1")
        await lose(bus, device)
        (pending,) = await until_said(bus, events.InstancePending)
        assert pending.cause == "device_lost"
        await joins(bus, "late")
        (replaced,) = await until_said(bus, events.InstanceReplaced)
        assert list(replaced.plan.memory_by_device) == ["late/g"]
        stored = bus.server.log(FLEET).messages
        registered = next(one for one in reversed(stored) if one.headers["ce-type"] == "DeviceRegistered")
        assert header_of(bus, events.InstanceReplaced, "ce-causationid") == registered.headers["ce-id"]

    play(scenario, nodes=("a",))


def test_a_chain_that_a_rival_broke_ends_in_one_answer_and_one_place() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        await placed_at(bus, "low")
        rivals = iter(["rival"])

        def between_the_preemption_and_the_placement(message: Outgoing) -> None:
            if message.headers["ce-type"] == "InstancePlaced":
                for name in rivals:
                    gone = events.InstanceDeleted(instance_id="other")
                    subject = subjects.event("instance", "other")
                    payload = gone.model_dump_json().encode()
                    bus.server.append(Outgoing(subject, payload, {"ce-type": "InstanceDeleted"}, name), None)

        bus.before_append = between_the_preemption_and_the_placement
        await place(bus, "high", priority=5)
        await until_said(bus, events.InstancePlaced, 2)
        kinds = [type(event).__name__ for event in bus.said(FLEET)[2:]]
        assert kinds[:4] == ["InstancePlaced", "InstancePending", "InstanceDeleted", "InstancePlaced"]
        assert [one.command_id for one in said(bus, events.InstancePlaced)] == ["low", "high"]

    play(scenario, nodes=("a",))


def test_while_the_bus_takes_nothing_it_waits_and_then_does_what_is_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caretaker, "_AFTER_FAILURE_SECONDS", 0.01)

    async def scenario(bus: UnreliableBus) -> None:
        device = await placed_at(bus, "c1")
        await lose(bus, device)
        bus.away, before = True, bus.attempts
        await until(lambda: bus.attempts > before + 2, what="several attempts")
        assert not said(bus, events.InstanceReplaced)
        bus.away = False
        await until_said(bus, events.InstanceReplaced)

    play(scenario)


def test_a_defect_in_what_it_does_by_itself_stops_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caretaker, "_AFTER_FAILURE_SECONDS", 0.01)
    failures: list[str] = []

    def fails_on_moves(*given: Any, held: object = None, **named: Any) -> Any:
        if held is not None:
            failures.append("a defect")
            raise ZeroDivisionError("a defect")
        return plan(*given, **named)

    async def scenario(bus: UnreliableBus) -> None:
        device = await placed_at(bus, "c1")
        await lose(bus, device)
        await until(lambda: len(failures) > 1, what="two failures")
        await placed_at(bus, "c2")
        assert not said(bus, events.InstanceReplaced)

    play(scenario, planner=fails_on_moves)


def test_of_two_that_plan_the_same_one_is_told_that_it_lost() -> None:
    both = threading.Barrier(2)
    moves: list[str] = []

    def at_the_same_time(*given: Any, held: object = None, **named: Any) -> Any:
        if held is not None:
            moves.append(threading.current_thread().name)
            if len(moves) <= 2:
                both.wait(10)
        return plan(*given, held=held, **named)  # type: ignore[arg-type]  # as it was called

    async def scenario(bus: UnreliableBus) -> None:
        lost_races: list[str] = []
        original = bus.append

        async def spy(message: Outgoing, *, expected: ExpectedLast | None = None, timeout_seconds: float = 5) -> Any:
            try:
                return await original(message, expected=expected, timeout_seconds=timeout_seconds)
            except WrongSequenceError:
                lost_races.append(message.subject)
                raise

        device = await placed_at(bus, "c1")
        bus.append = spy  # type: ignore[method-assign]  # the test listens in
        await lose(bus, device)
        await until_said(bus, events.InstanceReplaced)
        await until(lambda: len(lost_races) == 1, what="a lost race")
        await placed_at(bus, "c2") if device.startswith("b") else await joins(bus, "c")
        assert len(said(bus, events.InstanceReplaced)) == 1

    play(scenario, planner=at_the_same_time, placers=2)


def test_a_race_lost_to_something_else_is_run_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caretaker, "_COURTESY_SECONDS", 1000)

    async def scenario(bus: UnreliableBus) -> None:
        device = await placed_at(bus, "c1")
        rivals = iter(["rival"])

        def somebody_is_faster(message: Outgoing) -> None:
            if message.headers["ce-type"] == "InstanceReplaced":
                for name in rivals:
                    subject, headers = subjects.event("instance", "other"), {"ce-type": "InstanceDeleted"}
                    bus.server.append(Outgoing(subject, b'{"instance_id": "other"}', headers, name), None)

        bus.before_append = somebody_is_faster
        await lose(bus, device)
        await until_said(bus, events.InstanceReplaced)

    play(scenario)


def test_a_command_that_is_planned_for_long_holds_up_no_repair() -> None:
    repaired = threading.Event()

    def slow_for_some(fleet: Any, model: Any, request: Any, *given: Any, **named: Any) -> Any:
        if request.priority == 1:
            assert repaired.wait(10)
        return plan(fleet, model, request, *given, **named)

    async def scenario(bus: UnreliableBus) -> None:
        device = await placed_at(bus, "c1")
        await place(bus, "slow", priority=1)
        await lose(bus, device)
        await until_said(bus, events.InstanceReplaced)
        repaired.set()
        await until_said(bus, events.InstancePlaced, 2)

    play(scenario, planner=slow_for_some, nodes=("a", "b", "c"))


def test_a_step_in_hand_is_finished_before_it_stops(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*given: Any, held: object = None, **named: Any) -> Any:
        if held is not None:
            begun.set()
            assert go_on.wait(10)
        return plan(*given, held=held, **named)  # type: ignore[arg-type]  # as it was called

    async def scenario() -> None:
        bus, stop = UnreliableBus(), asyncio.Event()
        for node in ("a", "b"):
            await joins(bus, node)
        running = asyncio.create_task(run(bus, SETTINGS, stop, Knowledge({}, Policy(), slow)))
        await lose(bus, await placed_at(bus, "c1"))
        await until(begun.is_set, what="the step")
        stop.set()
        await asyncio.sleep(0)
        assert not running.done()
        go_on.set()
        await asyncio.wait_for(running, 10)
        assert len(said(bus, events.InstanceReplaced)) == 1
        wrong = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        assert not wrong, "on the way"

    asyncio.run(scenario())


def test_what_came_and_went_before_it_began_is_not_held_against_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_BATCH", 1)

    async def scenario() -> None:
        bus, knowledge = UnreliableBus(), Knowledge({}, Policy(), plan)
        for node in ("a", "b"):
            await joins(bus, node)
        stop = asyncio.Event()
        first = asyncio.create_task(run(bus, SETTINGS, stop, knowledge))
        device = DeviceKey(await placed_at(bus, "c1"))
        stop.set()
        await asyncio.wait_for(first, 10)
        other = "b" if device.node_id == "a" else "a"
        for number in range(5):
            boot = "b" if number == 0 else f"b{number}"
            await publish(bus, events.NodeLeft(node_id=other, boot_id=boot), source="agent")
            await joins(bus, other, f"b{number + 1}")
        stop = asyncio.Event()
        follow = bus.follow

        async def follow_slowly(*given: Any, **named: Any) -> AsyncGenerator[Sequence[Stored], None]:
            async with contextlib.aclosing(follow(*given, **named)) as batches:
                async for batch in batches:
                    yield batch
                    await asyncio.sleep(0.01)

        bus.follow = follow_slowly  # type: ignore[method-assign]  # each moment of the past can be seen
        second = asyncio.create_task(run(bus, SETTINGS, stop, knowledge))
        await placed_at(bus, "c2")
        await publish(bus, commands.Delete(instance_id=said(bus, events.InstancePlaced)[-1].instance_id), source="me")
        await until_said(bus, events.InstanceDeleted)
        await lose(bus, device)
        await until(lambda: said(bus, events.InstanceReplaced) or said(bus, events.InstancePending))
        assert not said(bus, events.InstancePending)
        stop.set()
        await asyncio.wait_for(second, 10)

    asyncio.run(scenario())
