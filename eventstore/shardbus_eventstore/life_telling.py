"""A life told from an instance's events and from what led to them. Pure.

The rules of what counts are the fold's (``fold.py``): what it ignores, such as a second placement of an instance that
is there, is not told. Durations are by the stream's clock; a step of it backwards counts as no time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypedDict

from shardbus_infra.bus.streams import COMMANDS, FLEET
from shardbus_schemas import events
from shardbus_schemas.ids import DeviceKey, InstanceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import Placed
from shardbus_schemas.registry import Received, type_of

from shardbus_eventstore.life import Because, Elsewhere, Ended, Held, Life, Settled, ShardTold, Totals, Waiting
from shardbus_eventstore.state import InstanceStatus
from shardbus_eventstore.wording import asked_for, layout, named_summary

OWN: Final = (
    events.InstancePlaced,
    events.InstanceReplaced,
    events.InstancePending,
    events.InstanceDeleted,
    events.InstanceLost,
    events.ShardReported,
)
"""What befalls an instance."""


@dataclass(frozen=True, slots=True)
class Led:
    """What led to the events of a life, as far as it was found."""

    events: Mapping[str, Received[FrozenModel]] = field(default_factory=dict[str, Received[FrozenModel]])
    """By its id."""
    answers: Mapping[str, Received[FrozenModel]] = field(default_factory=dict[str, Received[FrozenModel]])
    """By the id of a command: the event that answered it, and says who asked."""


def ids_to_find(instance_id: str, own: Iterable[Received[FrozenModel]]) -> set[str]:
    """Return the ids of what led to the events of an instance, but for what these say themselves."""
    told = [received for received in own if _is_own(instance_id, received.message)]
    here = {received.envelope.event_id for received in told}
    return {
        cause
        for received in told
        if (cause := received.envelope.causation_id) is not None and cause not in here and asked_of(received) is None
    }


def asked_of(received: Received[FrozenModel]) -> events.Asked | None:
    """Return who sent the command that an event answers, if it says so."""
    message = received.message
    return message.asked if isinstance(message, events.Answer) else None


def life_of(instance_id: str, own: Sequence[Received[FrozenModel]], led: Led = Led(), *, now: datetime) -> Life | None:
    """Return the life that the events in ``own`` tell, in stream order; ``None`` if it never began.

    Events of others are skipped. ``now`` is where the story stands; an earlier one than the last event is that event's.
    """
    telling = _Telling(led)
    for received in own:
        if _is_own(instance_id, received.message):
            telling.take(received)
    return telling.life(InstanceId(instance_id), now)


def _is_own(instance_id: str, message: FrozenModel) -> bool:
    return isinstance(message, OWN) and message.instance_id == instance_id


@dataclass(slots=True)
class _Shard:
    """What a runtime said last."""

    state: events.ShardState
    since: datetime
    """By the node's clock."""
    index: int
    """Where its moment is."""


class _Telling:
    """A life while it is told."""

    def __init__(self, led: Led) -> None:
        self._led = led
        self._own: dict[str, Received[FrozenModel]] = {}
        self._moments: list[Settled | Waiting | Ended | ShardTold] = []
        self._elsewhere: dict[int, Elsewhere] = {}
        self._birth: events.InstancePlaced | events.InstancePending | None = None
        self._status: InstanceStatus = "deleted"
        self._began: datetime | None = None
        self._at: datetime | None = None
        self._since: datetime | None = None
        self._plan: Placed | None = None
        """The last, also of one that has no place now."""
        self._planned_at: datetime | None = None
        self._shards: dict[DeviceKey, _Shard] = {}
        self._standing: set[DeviceKey] = set()
        """The devices of which a runtime spoke since they hold what the plan wants there."""
        self._spoken = False
        self._spent: dict[InstanceStatus, float] = {"placed": 0.0, "pending": 0.0, "lost": 0.0, "deleted": 0.0}
        self._ready_seconds = 0.0
        self._waits: list[float] = []
        self._moves = 0
        self._failures = 0

    def take(self, received: Received[FrozenModel]) -> None:
        """Note one event of the instance."""
        message = received.message
        self._own[received.envelope.event_id] = received
        match message:
            case events.InstancePlaced() if not self._wanted:
                self._pass_to(received.recorded_at)
                self._begin(message)
                self._settle(received, message.plan, None, None, message.gave_way)
            case events.InstancePending() if not self._wanted:
                if message.model is not None and message.request is not None and message.command_id is not None:
                    self._pass_to(received.recorded_at)
                    self._begin(message)
                    self._wait(received, message)
            case events.InstanceReplaced() if self._wanted:
                self._pass_to(received.recorded_at)
                self._settle(received, message.plan, message.reason, message.cause, message.gave_way)
            case events.InstancePending() | events.InstanceLost() if self._wanted:
                self._pass_to(received.recorded_at)
                self._wait(received, message)
            case events.InstanceDeleted() if self._wanted:
                self._pass_to(received.recorded_at)
                self._end(received, message)
            case events.ShardReported() if self._wanted:
                self._pass_to(received.recorded_at)
                self._report(received, message)
            case _:
                pass  # the fold ignores it too

    def life(self, instance_id: InstanceId, now: datetime) -> Life | None:
        """Return what was told, up to ``now``."""
        if self._birth is None or self._began is None or self._at is None or self._since is None:
            return None
        birth, end = self._birth, self._at
        if self._wanted:
            self._pass_to(now)
            end = self._at
        waits = [*self._waits, *([self._so_long] if self._wanted and self._status != "placed" else [])]
        last = next((moment for moment in reversed(self._moments) if isinstance(moment, Waiting)), None)
        waiting = last if self._wanted and self._status != "placed" else None
        plan = self._plan if self._status == "placed" else None
        there = () if plan is None else plan.memory_by_device
        assert birth.model is not None
        return Life(
            instance_id=instance_id,
            model_id=birth.model.model_id,
            priority=0 if birth.request is None else birth.request.priority,
            deployment_id=birth.deployment_id,
            moments=tuple(sorted([*self._moments, *self._elsewhere.values()], key=lambda moment: moment.sequence)),
            status=self._status,
            since=self._since,
            plan=None if plan is None else _held(plan),
            reason=None if waiting is None else waiting.reason,
            refusal=None if waiting is None else waiting.refusal,
            shards={key: state for key in sorted(there) if (state := self._says(key)) is not None},
            totals=Totals(
                seconds=(end - self._began).total_seconds(),
                placed_seconds=self._spent["placed"],
                without_place_seconds=self._spent["pending"] + self._spent["lost"],
                gone_seconds=self._spent["deleted"],
                ready_seconds=self._ready_seconds if self._spoken else None,
                longest_without_place_seconds=max(waits, default=0.0),
                times_without_place=len(waits),
                moves=self._moves,
                shard_failures=self._failures,
            ),
        )

    @property
    def _wanted(self) -> bool:
        return self._status != "deleted"

    @property
    def _so_long(self) -> float:
        """How long it has been so by now."""
        assert self._at is not None
        assert self._since is not None
        return (self._at - self._since).total_seconds()

    def _pass_to(self, moment: datetime) -> None:
        """Let time pass up to ``moment``; one before the last counts as the last."""
        if self._at is None:
            self._began = self._at = moment
            return
        spent = max(0.0, (moment - self._at).total_seconds())
        self._spent[self._status] += spent
        if self._is_ready:
            self._ready_seconds += spent
        self._at = max(self._at, moment)

    @property
    def _is_ready(self) -> bool:
        """Whether all shards of its plan are ready."""
        if self._status != "placed" or self._plan is None:
            return False
        return all(self._says(device) == "ready" for device in self._plan.memory_by_device)

    def _says(self, device: DeviceKey) -> events.ShardState | None:
        return self._shards[device].state if device in self._standing else None

    def _begin(self, event: events.InstancePlaced | events.InstancePending) -> None:
        self._birth = event
        self._plan, self._shards = None, {}
        self._standing.clear()

    def _become(self, status: InstanceStatus) -> None:
        was_waiting, waits = self._status in ("pending", "lost"), status in ("pending", "lost")
        if was_waiting and not waits:
            self._waits.append(self._so_long)
        if not (was_waiting and waits):
            self._since = self._at
        self._status = status

    def _settle(
        self,
        received: Received[FrozenModel],
        plan: Placed,
        reason: str | None,
        cause: events.ChangeCause | None,
        gave_way: tuple[InstanceId, ...],
    ) -> None:
        before, status = self._plan, self._status
        so_long = None if self._since is None else self._so_long
        moved = None if before is None else _layers_moved(before, plan)
        self._moves += before is not None and layout(before) != layout(plan)
        where, held = _where(plan), _where(before if status == "placed" else None)
        self._standing = {device for device in self._standing if where.get(device) == held.get(device, ())}
        self._plan, self._planned_at = plan, self._at
        self._become("placed")
        told = self._common(received)
        self._moments.append(
            Settled(
                **told,
                kind="moved" if status == "placed" else "placed",
                plan=_held(plan),
                left=None if before is None else layout(before),
                layers_moved=moved,
                reason=reason,
                cause=cause,
                placed_seconds=so_long if status == "placed" else None,
                without_place_seconds=so_long if status in ("pending", "lost") else None,
                gave_way=gave_way,
            )
        )

    def _wait(self, received: Received[FrozenModel], event: events.InstancePending | events.InstanceLost) -> None:
        still = self._status in ("pending", "lost")
        is_placed = self._status == "placed"
        placed_seconds = self._so_long if is_placed else None  # so long since it was placed there
        told = self._common(received)
        self._become("pending" if isinstance(event, events.InstancePending) else "lost")
        left = layout(self._plan) if is_placed and self._plan is not None else None
        match event:
            case events.InstancePending():
                moment = Waiting(
                    **told,
                    kind="pending",
                    reason=event.reason,
                    cause=event.cause,
                    still=still,
                    left=left,
                    placed_seconds=placed_seconds,
                    refusal=event.result.refusal,
                    gave_way_to=event.gave_way_to,
                )
            case events.InstanceLost():
                moment = Waiting(
                    **told,
                    kind="lost",
                    reason=event.reason,
                    cause="device_lost",
                    still=still,
                    left=left,
                    placed_seconds=placed_seconds,
                )
        self._moments.append(moment)

    def _end(self, received: Received[FrozenModel], event: events.InstanceDeleted) -> None:
        assert self._at is not None
        assert self._began is not None
        told = self._common(received)
        self._become("deleted")
        self._moments.append(Ended(**told, reason=event.reason, age_seconds=(self._at - self._began).total_seconds()))

    def _report(self, received: Received[FrozenModel], event: events.ShardReported) -> None:
        self._spoken = True
        device = DeviceKey.of(event.node_id, event.device_id)
        known = self._shards.get(device)
        if known is not None and known.state == event.state and device in self._standing:
            self._repeat(known, event)
            return
        self._failures += event.state == "failed"
        was_ready = self._is_ready
        self._standing.add(device)
        self._shards[device] = _Shard(event.state, event.occurred_at, len(self._moments))
        whole = None
        if self._is_ready and not was_ready and self._planned_at is not None and self._at is not None:
            whole = (self._at - self._planned_at).total_seconds()
        promised = self._plan.memory_by_device.get(device) if self._plan and self._status == "placed" else None
        took = None if known is None else max(0.0, (event.occurred_at - known.since).total_seconds())
        self._moments.append(
            ShardTold(
                **self._common(received),
                state=event.state,
                device=device,
                layers=None if event.end_layer is None else f"[{event.start_layer or 0}-{event.end_layer - 1}]",
                took_seconds=took,
                took_from=None if known is None else known.state,
                memory_used_bytes=event.memory_used_bytes,
                promised_bytes=promised,
                message=event.message,
                all_ready_seconds=whole,
            )
        )

    def _repeat(self, known: _Shard, event: events.ShardReported) -> None:
        """Note what a runtime says further in the same state."""
        moment = self._moments[known.index]
        if isinstance(moment, ShardTold):
            said = {"memory_used_bytes": event.memory_used_bytes, "message": event.message}
            further = {name: value for name, value in said.items() if value is not None}
            self._moments[known.index] = moment.model_copy(update=further)

    def _common(self, received: Received[FrozenModel]) -> "_Common":
        because = self._because(received)
        return {
            "sequence": received.sequence,
            "recorded_at": received.recorded_at,
            "source": received.envelope.source,
            "because": because,
            "causation_id": received.envelope.causation_id,
        }

    def _because(self, received: Received[FrozenModel]) -> Because | None:
        cause, asked = received.envelope.causation_id, asked_of(received)
        if asked is not None:
            return _command(cause or f"{COMMANDS}:{asked.sequence}", received, asked, received.recorded_at)
        if cause is None:
            return None
        found = self._own.get(cause) or self._led.events.get(cause)
        if found is not None:
            if cause not in self._own:
                self._elsewhere[found.sequence] = Elsewhere(
                    sequence=found.sequence,
                    recorded_at=found.recorded_at,
                    source=found.envelope.source,
                    causation_id=found.envelope.causation_id,
                    type=found.envelope.type,
                    text=named_summary(found.message),
                )
            return Because(
                event_id=cause,
                type=type_of(found.message),
                text=named_summary(found.message),
                source=found.envelope.source,
                stream=FLEET,
                sequence=found.sequence,
                recorded_at=found.recorded_at,
                seconds_before=max(0.0, (received.recorded_at - found.recorded_at).total_seconds()),
            )
        answer = self._led.answers.get(cause)
        asked = None if answer is None else asked_of(answer)
        return None if answer is None or asked is None else _command(cause, answer, asked, received.recorded_at)


class _Common(TypedDict):
    sequence: int
    recorded_at: datetime
    source: str
    because: Because | None
    causation_id: str | None


def _command(command_id: str, answer: Received[FrozenModel], asked: events.Asked, recorded_at: datetime) -> Because:
    kind, text = asked_for(answer.message)
    return Because(
        event_id=command_id,
        type=kind,
        text=text,
        source=asked.source,
        stream=COMMANDS,
        sequence=asked.sequence,
        recorded_at=asked.recorded_at,
        seconds_before=max(0.0, (recorded_at - asked.recorded_at).total_seconds()),
    )


def _held(plan: Placed) -> Held:
    return Held(
        layout=layout(plan),
        devices=tuple(dict.fromkeys(device for stage in plan.stages for device in stage.devices)),
        memory_bytes=sum(plan.memory_by_device.values()),
        tokens_per_second=plan.predicted.tokens_per_second,
        movement=plan.movement,
    )


def _where(plan: Placed | None) -> Mapping[DeviceKey, Sequence[tuple[int, int, Sequence[DeviceKey]]]]:
    """Return what each device holds: of which layers, and with whom."""
    found: dict[DeviceKey, tuple[tuple[int, int, Sequence[DeviceKey]], ...]] = {}
    for stage in () if plan is None else plan.stages:
        for device in stage.devices:
            found[device] = (*found.get(device, ()), (stage.start_layer, stage.end_layer, stage.devices))
    return found


def _layers_moved(before: Placed, after: Placed) -> int:
    """Return how many layers lie elsewhere than before."""
    old, new = _devices_by_layer(before), _devices_by_layer(after)
    return sum(old.get(layer) != devices for layer, devices in new.items())


def _devices_by_layer(plan: Placed) -> Mapping[int, frozenset[DeviceKey]]:
    found: dict[int, frozenset[DeviceKey]] = {}
    for stage in plan.stages:
        for layer in range(stage.start_layer, stage.end_layer):
            found[layer] = found.get(layer, frozenset()) | frozenset(stage.devices)
    return found
