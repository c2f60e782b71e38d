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
from shardbus_infra.bus.port import Bus, BusError, ExpectedLast, Stored, WrongSequenceError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET
from shardbus_infra.observability import metrics
from shardbus_schemas import events
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.registry import UnreadableMessageError

from shardbus_placer import ledger
from shardbus_placer.catching_up import caught_up, seen_in
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
"""How long a placer that lost a race leaves each step to the one that won, from then on: both would plan the same. If
nothing is done about it meanwhile, the other one is gone."""
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
        self._is_second = False
        self._own: int | None = None
        """Where in ``FLEET`` its last step is, if it goes on from there: the state holds that, which is new enough."""
        self._causes: dict[int, tuple[str | None, str | None]] = {}
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
                due = self._what_is_due()
                goes_on = due is not None and await self._act(due)
            except BusError as error:
                self._own = None
                log.warning("cannot look after the fleet now, will try again: %s", error)
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            except Exception:  # a defect here must not stop the answering of commands
                log.exception("failed to look after the fleet")
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            else:
                if not goes_on:
                    self._own = None  # by the next time more than a moment has passed
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

    async def _act(self, due: object) -> bool:
        """Take a step when it is this placer's turn; return whether to go on at once."""
        if self._is_second:
            await asyncio.sleep(_COURTESY_SECONDS * (0.5 + random.random()))  # noqa: S311 -- no secret
            if self._what_is_due() != due:
                return True
        async with self._busy:
            return await self._step()

    async def _step(self) -> bool:
        """Take one step, if there is one to take; return whether to go on at once."""
        own, self._own = self._own, None
        if own is None:
            expected = await caught_up(self._bus, self._live, self._settings.catch_up_seconds)
        else:
            expected = seen_in(self._live.state, own)
        state, now = self._live.state, datetime.now(UTC)
        began = time.perf_counter()
        step = await asyncio.to_thread(self._decide, state, now)
        self._tried, self._next_at = step.tried, step.next_at
        if not step.changes:
            return False
        try:
            place = await self._append(step, expected)
        except WrongSequenceError:
            await self._give_way(step, state)
            return True
        self._is_second = False
        _report(step, time.perf_counter() - began)
        # Its own change is the first thing to see.
        await self._live.wait_until(FLEET, place, self._settings.catch_up_seconds)
        self._own = place
        return True

    async def _give_way(self, step: Step, before: FleetState) -> None:
        """After a lost race: be the second from now on if another placer was at the same instance."""
        await caught_up(self._bus, self._live, self._settings.catch_up_seconds)
        about = _about(step)
        self._is_second = self._live.state.instances.get(about) is not before.instances.get(about)

    def _what_is_due(self) -> object | None:
        """Look at the fleet, and return what names the step that may be due: quick, on the state as it is known."""
        state, now = self._live.state, datetime.now(UTC)
        if not state.instances and not state.deployments:
            return None
        fleet = self._fleet_of(state, now)
        self._watch = look(self._watch, fleet, now)
        needs = needs_of(state, fleet, self._watch, now, self._knowledge.rules)
        later = [need.due for need in needs if need.due > now]
        self._next_at = min(later, default=None)
        first = next((need.instance for need in needs if need.due <= now), None)
        return _replicas_astray(state) if first is None else (first.instance_id, first.updated_sequence)

    def _decide(self, state: FleetState, now: datetime) -> Step:
        return reconcile(state, self._fleet_of(state, now), self._watch, self._tried, now, self._knowledge)

    def _fleet_of(self, state: FleetState, now: datetime) -> Fleet:
        """Return the fleet as this placer knows it: before it listened nobody was silent."""
        since = self._live.listening_since
        return fleet_of(state, now, listening_since=since, remembered=self._remembered)

    async def _append(self, step: Step, expected: ExpectedLast) -> int:
        causation, correlation = await self._cause(step.trigger)
        return await ledger.append(
            self._bus,
            step.changes,
            source=self._source,
            correlation_id=correlation,
            causation_id=causation,
            expected=expected,
        )

    async def _cause(self, trigger: int | None) -> tuple[str | None, str | None]:
        """Return the id of the message that led to a step, and of the story that it belongs to."""
        if trigger is None:
            return None, None
        if trigger not in self._causes:  # one loss is the cause of many steps
            self._causes = {trigger: _named_by(await self._bus.get(FLEET, trigger))}
        return self._causes[trigger]


def _about(step: Step) -> InstanceId:
    """Return which instance a step is for."""
    change = step.changes[-1]
    assert isinstance(change, ledger.ON_LEDGER)  # a step changes instances, nothing else
    return change.instance_id


def _named_by(stored: Stored | None) -> tuple[str | None, str | None]:
    """Return the id of a message, and of the story that it belongs to."""
    if stored is None:
        return None, None
    try:
        envelope = receive(stored).envelope
    except UnreadableMessageError:
        return None, None
    return envelope.event_id, envelope.correlation_id or envelope.event_id


def _replicas_astray(state: FleetState) -> object | None:
    """Return which deployments have how many replicas too many or too few, if there are any."""
    there: dict[str, int] = {}
    for record in state.instances.values():
        if record.is_wanted and record.deployment_id is not None:
            there[record.deployment_id] = there.get(record.deployment_id, 0) + 1
    astray = [
        (name, there.get(name, 0), deployment.replicas)
        for name, deployment in state.deployments.items()
        if there.get(name, 0) != deployment.replicas
    ]
    return astray or None


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
