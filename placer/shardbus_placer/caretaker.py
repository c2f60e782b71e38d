"""The placer's other half: without a command, it closes the gap between what is wanted and what is."""

import asyncio
import contextlib
import logging
import random
import time
from datetime import UTC, datetime
from typing import Final

from shardbus_eventstore.fleet_view import Remembered, fleet_of
from shardbus_eventstore.live import LiveState, StateBehindError
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Bus, BusError, ExpectedLast, WrongSequenceError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET
from shardbus_infra.observability import metrics
from shardbus_schemas import events
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.registry import UnreadableMessageError

from shardbus_placer import ledger
from shardbus_placer.catching_up import caught_up
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.needs import needs_of
from shardbus_placer.reconcile import Step, Tried, reconcile
from shardbus_placer.settings import PlacerSettings
from shardbus_placer.watch import Watch, look

log = logging.getLogger(__name__)

_REST_SECONDS: Final = 0.2
"""Between looks while nothing happens on ``FLEET``: readings, silence and time matter too."""
_SHARE: Final = 0.05
"""Of the time that such looks may take: a large fleet is looked at less often."""
_LONGEST_REST_SECONDS: Final = 2.0
_BUSY_SHARE: Final = 0.25
"""The same while things happen on ``FLEET``, each of which is a reason to look at once."""
_LONGEST_PAUSE_SECONDS: Final = 0.1
_COURTESY_SECONDS: Final = 0.25
"""How long a placer that lost a race leaves the next steps to the one that won: both would plan the same."""
_AFTER_FAILURE_SECONDS: Final = 1.0


class Caretaker:
    """One of any number that look after the same instances; it waits for no command, however long that is planned."""

    def __init__(self, bus: Bus, live: LiveState, settings: PlacerSettings, knowledge: Knowledge) -> None:
        self._bus = bus
        self._live = live
        self._settings = settings
        self._knowledge = knowledge
        self._source = f"placer/{settings.placer_name}"
        self._busy = asyncio.Lock()
        self._watch = Watch()
        self._remembered = Remembered()
        self._tried: Tried = {}
        self._courtesy = 0.0
        self._next_at: datetime | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Look after the fleet until ``stop`` is set."""
        is_caught_up = False
        while not stop.is_set():
            began, position = time.perf_counter(), self._live.state.positions.get(FLEET, 0)
            try:
                if not is_caught_up:
                    # While the past is folded, devices come and go that did so long ago.
                    await caught_up(self._bus, self._live, self._settings.catch_up_seconds)
                    is_caught_up = True
                goes_on = self._is_something_due() and await self._act()
            except BusError as error:
                log.warning("cannot look after the fleet now, will try again: %s", error)
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            except Exception:  # a defect here must not stop the answering of commands
                log.exception("failed to look after the fleet")
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            else:
                if not goes_on:
                    await self._rest(position, time.perf_counter() - began)

    async def idle(self) -> None:
        """Return when no step is in hand."""
        async with self._busy:
            pass

    async def _rest(self, position: int, took: float) -> None:
        """Wait until there may be something to see again: beyond ``position``, or after a while."""
        await asyncio.sleep(min(_LONGEST_PAUSE_SECONDS, took * (1 / _BUSY_SHARE - 1)))
        rest = max(_REST_SECONDS, min(_LONGEST_REST_SECONDS, took * (1 / _SHARE - 1)))
        if self._next_at is not None:
            rest = max(0.01, min(rest, (self._next_at - datetime.now(UTC)).total_seconds()))
        with contextlib.suppress(StateBehindError):
            await self._live.wait_until(FLEET, position + 1, rest)

    async def _act(self) -> bool:
        """Take a step when it is this placer's turn; return whether to go on at once."""
        if self._courtesy:
            courtesy, self._courtesy = self._courtesy, 0.0
            await asyncio.sleep(courtesy)
            return True
        async with self._busy:
            return await self._step()

    async def _step(self) -> bool:
        """Take one step, if there is one to take; return whether to go on at once."""
        expected = await caught_up(self._bus, self._live, self._settings.catch_up_seconds)
        state, now = self._live.state, datetime.now(UTC)
        began = time.perf_counter()
        step = await asyncio.to_thread(self._decide, state, now)
        self._tried, self._next_at = step.tried, step.next_at
        if not step.changes:
            return False
        try:
            await self._append(step, expected)
        except WrongSequenceError:
            await self._give_way(step, state)
            return True
        _report(step, time.perf_counter() - began)
        # Its own change is the first thing to see.
        await self._live.wait_until(FLEET, (await self._bus.info(FLEET)).last_sequence, self._settings.catch_up_seconds)
        return True

    async def _give_way(self, step: Step, before: FleetState) -> None:
        """After a lost race: be courteous if it was about the same instance, for then another placer is at it."""
        await caught_up(self._bus, self._live, self._settings.catch_up_seconds)
        about = _about(step)
        if self._live.state.instances.get(about) is not before.instances.get(about):
            self._courtesy = _COURTESY_SECONDS * (0.5 + random.random())  # noqa: S311 -- no secret

    def _is_something_due(self) -> bool:
        """Look at the fleet, and return whether a step may be due: quick, on the state as it is known."""
        state, now = self._live.state, datetime.now(UTC)
        if not state.instances and not state.deployments:
            return False
        fleet = self._fleet_of(state, now)
        self._watch = look(self._watch, fleet, now)
        needs = needs_of(state, fleet, self._watch, now, self._knowledge.rules)
        later = [need.due for need in needs if need.due > now]
        self._next_at = min(later, default=None)
        return len(later) < len(needs) or _replicas_differ(state)

    def _decide(self, state: FleetState, now: datetime) -> Step:
        return reconcile(state, self._fleet_of(state, now), self._watch, self._tried, now, self._knowledge)

    def _fleet_of(self, state: FleetState, now: datetime) -> Fleet:
        """Return the fleet as this placer knows it: before it listened nobody was silent."""
        since = self._live.listening_since
        return fleet_of(state, now, listening_since=since, remembered=self._remembered)

    async def _append(self, step: Step, expected: ExpectedLast) -> None:
        causation, correlation = await self._cause(step.trigger)
        await ledger.append(
            self._bus,
            step.changes,
            source=self._source,
            correlation_id=correlation,
            causation_id=causation,
            expected=expected,
        )

    async def _cause(self, trigger: int | None) -> tuple[str | None, str | None]:
        """Return the id of the message that led to a step, and of the story that it belongs to."""
        stored = None if trigger is None else await self._bus.get(FLEET, trigger)
        if stored is None:
            return None, None
        try:
            envelope = receive(stored).envelope
        except UnreadableMessageError:
            return None, None
        return envelope.event_id, envelope.correlation_id or envelope.event_id


def _about(step: Step) -> InstanceId:
    """Return which instance a step is for."""
    change = step.changes[-1]
    assert isinstance(change, ledger.ON_LEDGER)  # a step changes instances, nothing else
    return change.instance_id


def _replicas_differ(state: FleetState) -> bool:
    there: dict[str, int] = {}
    for record in state.instances.values():
        if record.is_wanted and record.deployment_id is not None:
            there[record.deployment_id] = there.get(record.deployment_id, 0) + 1
    return any(there.get(name, 0) != deployment.replicas for name, deployment in state.deployments.items())


def _report(step: Step, seconds: float) -> None:
    for change in step.changes:
        match change:
            case events.InstanceReplaced():
                metrics.placed(seconds, strategy=change.plan.strategy)
                log.info("moved %s: %s", change.instance_id, change.reason)
            case events.InstancePlaced():
                metrics.placed(seconds, strategy=change.plan.strategy)
                log.info("placed %s, a replica of %s", change.instance_id, change.deployment_id)
            case events.InstancePending():
                log.info("%s waits for a place: %s", change.instance_id, change.reason)
            case events.InstanceDeleted():
                log.info("deleted %s: %s", change.instance_id, change.reason)
            case _:
                log.info("appended %s", type(change).__name__)
