"""The placer's shell: read a command, decide on the state of this moment, append the answer, acknowledge."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

from shardbus_eventstore.live import LiveState
from shardbus_infra.bus.dead_letters import bury
from shardbus_infra.bus.port import Bus, BusError, ExpectedLast, Stored, WorkItem, WrongSequenceError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import COMMANDS
from shardbus_infra.observability import following, metrics
from shardbus_schemas import commands, events
from shardbus_schemas.registry import Received, UnreadableMessageError

from shardbus_placer import ledger
from shardbus_placer.access.key_ring import KeyRing
from shardbus_placer.caretaker import Caretaker
from shardbus_placer.catching_up import caught_up
from shardbus_placer.decider import command_id_of, conflict, decide
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.replies import reply, reply_error, serve_asks
from shardbus_placer.settings import PlacerSettings

log = logging.getLogger(__name__)

DURABLE = "placer"
"""All placers share this consumer: each command goes to one of them."""


async def run(bus: Bus, settings: PlacerSettings, stop: asyncio.Event, knowledge: Knowledge) -> None:
    """Answer commands, and look after what is placed, until ``stop`` is set; what is in hand is finished first."""
    live = LiveState(bus)
    placer = Placer(bus, live, settings, knowledge)
    caretaker = Caretaker(bus, live, settings, knowledge)
    done = asyncio.Event()  # whoever finishes what is in hand still needs the state to go on
    following = asyncio.create_task(live.run(done), name="placer-state")
    working = asyncio.create_task(placer.work(), name="placer-work")
    caring = asyncio.create_task(caretaker.run(stop), name="placer-care")
    asking = asyncio.create_task(serve_asks(bus), name="placer-asks")
    stopping = asyncio.create_task(stop.wait(), name="placer-stop")
    try:
        await asyncio.wait({following, working, caring, asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (following, working, caring, asking):
            if task.done() and not stop.is_set():
                task.result()  # a task that ended by itself failed: let its error out
        await asyncio.gather(placer.idle(), caretaker.idle())
    finally:
        stop.set()
        done.set()
        for task in (working, caring, asking, stopping):
            task.cancel()
        await asyncio.gather(following, working, caring, asking, stopping, return_exceptions=True)


class Placer:
    """One worker of the shared command queue."""

    def __init__(self, bus: Bus, live: LiveState, settings: PlacerSettings, knowledge: Knowledge) -> None:
        self._bus = bus
        self._live = live
        self._settings = settings
        self._knowledge = knowledge
        self._keys = KeyRing(settings.access_keys)
        self._source = f"placer/{settings.placer_name}"
        self._busy = asyncio.Lock()

    async def work(self) -> None:
        """Answer one command after the other, for ever."""
        queue = self._bus.work(COMMANDS, durable=DURABLE, ack_wait_seconds=self._settings.ack_wait_seconds)
        async with contextlib.aclosing(queue):
            async for item in queue:
                async with self._busy:
                    await self._settle(item)

    async def idle(self) -> None:
        """Return when no command is in hand."""
        async with self._busy:
            pass

    async def _settle(self, item: WorkItem) -> None:
        """Answer one command and acknowledge it, or give it back, or bury it."""
        try:
            received = _read(item.stored)
        except UnreadableMessageError as error:
            log.warning("refused the message at %s:%d: %s", COMMANDS, item.stored.sequence, error)
            await self._bury(item, error.code, str(error))
            return
        try:
            await self._answer(received, item)
        except BusError as error:
            log.warning("cannot answer %s now, will try again: %s", command_id_of(received), error)
            await self._give_back(item)
        except Exception as error:  # a defect of the placer must not stop the commands behind this one
            log.exception("failed to answer %s", command_id_of(received))
            if item.attempt < self._settings.max_attempts:
                await self._give_back(item)
            else:
                reason = f"the placer failed {item.attempt} times: {type(error).__name__}: {error}"
                await self._bury(item, "placer_failed", reason)

    async def _answer(self, received: Received[commands.Command], item: WorkItem) -> None:
        with following(f"answer {received.envelope.type}", item.stored.headers) as span:
            span.set_attribute("shardbus.command_id", command_id_of(received))
            async with _kept(item, self._settings.ack_wait_seconds / 3):
                answer, sequence = await self._decide_and_append(received)
            if answer is not None:
                span.set_attribute("shardbus.answer", type(answer).__name__)
            await reply(self._bus, item.stored.headers, sequence)
            await _acknowledge(item)

    async def _decide_and_append(self, received: Received[commands.Command]) -> tuple[events.FleetEvent | None, int]:
        """Return the answer, if there was none before, and where it is in ``FLEET``."""
        for _ in range(self._settings.max_conflicts):
            expected = await caught_up(self._bus, self._live, self._settings.catch_up_seconds)
            started = time.perf_counter()
            access = self._keys.access(required=self._settings.require_access_token)
            knowledge = replace(self._knowledge, access=access)
            changes = await asyncio.to_thread(decide, received, self._live.state, datetime.now(UTC), knowledge)
            if not changes:
                log.info("%s was answered before", command_id_of(received))
                return None, self._live.state.decisions[command_id_of(received)]
            try:
                sequence = await self._append(changes, received, expected)
            except WrongSequenceError:
                continue
            _report(changes[-1], time.perf_counter() - started)
            return changes[-1], sequence
        rejected = conflict(received, self._live.state, self._settings.max_conflicts)
        sequence = await self._append([rejected], received, None)
        _report(rejected, 0)
        return rejected, sequence

    async def _append(
        self, changes: Sequence[events.FleetEvent], received: Received[commands.Command], expected: ExpectedLast | None
    ) -> int:
        command_id = command_id_of(received)
        return await ledger.append(
            self._bus,
            changes,
            source=self._source,
            correlation_id=received.envelope.correlation_id or command_id,
            causation_id=received.envelope.event_id,
            expected=expected,
            last_id=f"{command_id}/answer",
        )

    async def _give_back(self, item: WorkItem) -> None:
        with contextlib.suppress(BusError):  # unsettled, it comes back by itself after ack_wait
            await item.nak(delay_seconds=min(30, 2 ** (item.attempt - 1)))

    async def _bury(self, item: WorkItem, code: str, reason: str) -> None:
        """Put the command among the dead letters, however long the bus is away, and take it off the queue."""
        delay = 0.1
        while True:
            try:
                await bury(self._bus, item.stored, code=code, reason=reason, seen_by=self._source)
                break
            except BusError as error:
                log.warning("the bus does not answer, will try again: %s", error)
                await asyncio.sleep(delay)
                delay = min(5, delay * 2)
        metrics.buried(stream=COMMANDS, code=code)
        await reply_error(self._bus, item.stored.headers, code, reason)
        await _acknowledge(item)


def _read(stored: Stored) -> Received[commands.Command]:
    received = receive(stored)
    if not isinstance(received.message, commands.Command):
        raise UnreadableMessageError("not_a_command", f"{received.envelope.type} is not a command")
    return cast("Received[commands.Command]", received)


@contextlib.asynccontextmanager
async def _kept(item: WorkItem, every_seconds: float) -> AsyncGenerator[None]:
    """Tell the bus meanwhile that the command is worked on: planning a whole fleet may outlast its patience."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            with contextlib.suppress(BusError):
                await item.in_progress()

    telling = asyncio.create_task(tell(), name="placer-in-progress")
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _acknowledge(item: WorkItem) -> None:
    """Take the command off the queue. If that fails it comes back, is found answered, and is taken off then."""
    try:
        await item.ack()
    except BusError as error:
        log.warning("could not acknowledge %s:%d: %s", COMMANDS, item.stored.sequence, error)


def _report(answer: events.FleetEvent, seconds: float) -> None:
    match answer:
        case events.InstanceReplaced():
            metrics.placed(seconds, strategy=answer.plan.strategy)
            log.info("answered %s: moved %s", answer.command_id, answer.instance_id)
        case events.InstancePending():
            log.info("answered %s: %s waits for a place, %s", answer.command_id, answer.instance_id, answer.reason)
        case events.InstancePlaced() | events.PlacementPreviewed():
            metrics.placed(seconds, strategy=answer.plan.strategy)
            log.info("answered %s: placed %s by %s", answer.command_id, answer.plan.model_id, answer.plan.strategy)
        case events.PlacementRejected():
            metrics.placed(seconds, strategy=answer.result.strategy)
            metrics.refused(code=answer.result.refusal.code)
            log.info("answered %s: refused, %s", answer.command_id, answer.result.refusal.message)
        case events.CommandRejected():
            metrics.refused(code=answer.code)
            log.info("answered %s: refused, %s", answer.command_id, answer.message)
        case _:
            log.info("answered with %s", type(answer).__name__)
