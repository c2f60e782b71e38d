"""The fold: a state and messages in, the next state out. Pure and total: no readable message makes it fail."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Final, Generic, Protocol, TypeVar, assert_never

from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas.events import (
    CommandRejected,
    Cordoned,
    DeadLettered,
    DeadLetterRetried,
    DeploymentScaled,
    DeviceFaulted,
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    FleetEvent,
    FleetRebalanced,
    GPUBandwidthMeasured,
    InstanceDeleted,
    InstanceLost,
    InstancePending,
    InstancePlaced,
    InstanceReplaced,
    ModelRegistered,
    NodeJoined,
    NodeLeft,
    PlacementPreviewed,
    PlacementRejected,
    ShardReported,
    TelemetryEvent,
    Uncordoned,
)
from shardbus_schemas.ids import BootId, CommandId, DeploymentId, DeviceKey, InstanceId, ModelId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received

from shardbus_eventstore import instance_fold
from shardbus_eventstore.state import (
    CordonRecord,
    DeadLetterKey,
    DeadLetterRecord,
    Decision,
    DecisionEvent,
    DeploymentRecord,
    DeviceRecord,
    DeviceStateRecord,
    FleetState,
    LinkKey,
    LinkRecord,
    ModelRecord,
    NodeHeard,
    NodeRecord,
    RetriedLetter,
)

_MOST = 2**62
_READINGS = (DeviceGPUStateUpdated, GPUBandwidthMeasured)  # a union would be made anew at each use
_LETTERS = (DeadLettered, DeadLetterRetried)

_key = lru_cache(maxsize=65_536)(DeviceKey.of)

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Changes:
    """What a fold touched: the rows that a read model must write."""

    device_states: AbstractSet[DeviceKey]
    node_heard: AbstractSet[NodeId]
    links: AbstractSet[LinkKey]
    nodes: AbstractSet[NodeId]
    devices: AbstractSet[DeviceKey]
    models: AbstractSet[ModelId]
    instances: AbstractSet[InstanceId]
    cordons: AbstractSet[str]
    deployments: AbstractSet[DeploymentId]
    decisions: tuple[Decision, ...]
    """The first answers to commands, whole: the state keeps only where each is."""
    dead_letters: AbstractSet[DeadLetterKey]
    retried_letters: AbstractSet[DeadLetterKey]
    readings: Sequence[DeviceStateRecord]
    """Every accepted reading in order, also those that a later one of the same device replaced."""


def fold(state: FleetState, received: Iterable[Received[FrozenModel]]) -> FleetState:
    """Return ``state`` after the messages, given in stream order. A message at or before its position is skipped."""
    return fold_with_changes(state, received)[0]


def apply(state: FleetState, received: Received[FrozenModel]) -> FleetState:
    """Return ``state`` after one message."""
    return fold(state, (received,))


def fold_with_changes(state: FleetState, received: Iterable[Received[FrozenModel]]) -> tuple[FleetState, Changes]:
    """Return ``state`` after the messages, and which of its records are new."""
    draft = _Draft(state)
    for message in received:
        draft.take(message)
    return draft.state(), draft.changes()


class Spoken(Protocol):
    """What a tick says of its node, apart from the readings."""

    @property
    def node_id(self) -> NodeId:
        """Who spoke."""
        ...

    @property
    def boot_id(self) -> BootId | None:
        """In which of its lives."""
        ...

    @property
    def tick(self) -> int | None:
        """For which time in that life."""
        ...

    @property
    def heartbeat(self) -> bool:
        """Whether it told all."""
        ...


def hear(old: NodeHeard | None, said: Spoken, sequence: int, recorded_at: datetime) -> tuple[NodeHeard, bool]:
    """Return what is known of a node that spoke, and whether it is news: no tick that came before."""
    boot, tick, missed, repeated, heartbeat = said.boot_id, said.tick, 0, 0, 0
    if old is not None:
        missed, repeated, heartbeat = old.missed_ticks, old.repeated_ticks, old.heartbeat_sequence
        if boot is None or tick is None:  # a producer that does not count cannot reset who does
            boot, tick = old.boot_id, old.tick
        elif boot == old.boot_id and old.tick is not None:
            if tick <= old.tick:
                return replace(old, repeated_ticks=repeated + 1), False
            missed = min(missed + tick - old.tick - 1, _MOST)  # an absurd tick must not outgrow its column
    if said.heartbeat:
        heartbeat = sequence
    return NodeHeard(said.node_id, sequence, recorded_at, boot, tick, heartbeat, missed, repeated), True


class _Table(Generic[KeyT, ValueT]):
    """A map that is copied on its first write, once for a whole batch: 45 µs for 8000 entries."""

    __slots__ = ("_base", "_own", "touched")

    def __init__(self, base: Mapping[KeyT, ValueT]) -> None:
        self._base = base
        self._own: dict[KeyT, ValueT] | None = None
        self.touched: set[KeyT] = set()

    def get(self, key: KeyT) -> ValueT | None:
        return (self._base if self._own is None else self._own).get(key)

    def items(self) -> Iterable[tuple[KeyT, ValueT]]:
        return self.result().items()

    def put(self, key: KeyT, value: ValueT) -> None:
        if self._own is None:
            self._own = dict(self._base)
        self._own[key] = value
        self.touched.add(key)

    def result(self) -> Mapping[KeyT, ValueT]:
        return self._base if self._own is None else self._own


class _Draft:
    """The next state while a batch is folded into it."""

    def __init__(self, state: FleetState) -> None:
        self.device_states = _Table(state.device_states)
        self.node_heard = _Table(state.node_heard)
        self.links = _Table(state.links)
        self.nodes = _Table(state.nodes)
        self.devices = _Table(state.devices)
        self.models = _Table(state.models)
        self.instances = _Table(state.instances)
        self.cordons = _Table(state.cordons)
        self.deployments = _Table(state.deployments)
        self.decisions = _Table(state.decisions)
        self.dead_letters = _Table(state.dead_letters)
        self.retried_letters = _Table(state.retried_letters)
        self._positions = dict(state.positions)
        self._ignored = dict(state.ignored)
        self.readings: list[DeviceStateRecord] = []
        self.decided: list[Decision] = []

    def take(self, received: Received[FrozenModel]) -> None:
        stream, message = received.stream, received.message
        if received.sequence <= self._positions.get(stream, 0):
            return
        self._positions[stream] = received.sequence
        if stream == TELEMETRY and isinstance(message, _READINGS):
            changed = self._telemetry(message, received)
        elif stream == FLEET and isinstance(message, FleetEvent):
            changed = self._fleet(message, received)
        elif stream == DEAD and isinstance(message, _LETTERS):
            changed = self._dead(message, received)
        else:
            # A message in a stream where its type has no place must not touch that stream's neighbours' state.
            changed = False
        if not changed:
            self._ignored[stream] = self._ignored.get(stream, 0) + 1

    def state(self) -> FleetState:
        return FleetState(
            device_states=self.device_states.result(),
            node_heard=self.node_heard.result(),
            links=self.links.result(),
            nodes=self.nodes.result(),
            devices=self.devices.result(),
            models=self.models.result(),
            instances=self.instances.result(),
            cordons=self.cordons.result(),
            deployments=self.deployments.result(),
            decisions=self.decisions.result(),
            dead_letters=self.dead_letters.result(),
            retried_letters=self.retried_letters.result(),
            positions=self._positions,
            ignored=self._ignored,
        )

    def changes(self) -> Changes:
        return Changes(
            device_states=self.device_states.touched,
            node_heard=self.node_heard.touched,
            links=self.links.touched,
            nodes=self.nodes.touched,
            devices=self.devices.touched,
            models=self.models.touched,
            instances=self.instances.touched,
            cordons=self.cordons.touched,
            deployments=self.deployments.touched,
            decisions=tuple(self.decided),
            dead_letters=self.dead_letters.touched,
            retried_letters=self.retried_letters.touched,
            readings=tuple(self.readings),
        )

    def _telemetry(self, event: TelemetryEvent, received: Received[FrozenModel]) -> bool:
        match event:
            case DeviceGPUStateUpdated():
                if not self._hear(event, received):
                    return False
                for reading in event.states:
                    record = DeviceStateRecord(reading, received.sequence, received.recorded_at)
                    self.device_states.put(_key(reading.node_id, reading.device_id), record)
                    self.readings.append(record)
            case GPUBandwidthMeasured():
                return self._measure(event, received)
            case _:
                assert_never(event)
        return True

    def _hear(self, event: DeviceGPUStateUpdated, received: Received[FrozenModel]) -> bool:
        old = self.node_heard.get(event.node_id)
        heard, is_news = hear(old, event, received.sequence, received.recorded_at)
        self.node_heard.put(event.node_id, heard)
        return is_news

    def _fleet(self, event: FleetEvent, received: Received[FrozenModel]) -> bool:
        match event:
            case NodeJoined():
                self.nodes.put(event.node_id, NodeRecord(event, received.recorded_at, received.sequence))
                return True
            case NodeLeft():
                return self._leave(event, received)
            case DeviceRegistered():
                return self._register(event, received)
            case DeviceFaulted():
                return self._note_fault(event, received)
            case DeviceLost():
                return self._lose_device(event, received)
            case ModelRegistered():
                self.models.put(
                    event.profile.model_id, ModelRecord(event.profile, received.sequence, received.recorded_at)
                )
                self._decide(event.command_id, event, received)
                return True
            case InstancePlaced():
                return self._place(event, received)
            case InstancePending():
                return self._wait(event, received)
            case InstanceReplaced() | InstanceDeleted() | InstanceLost():
                return self._change_instance(event, received)
            case ShardReported():
                return self._report(event, received)
            case PlacementRejected() | PlacementPreviewed():
                kept = event.model_copy(update={"request": instance_fold.without_token(event.request)})
                self._decide(event.command_id, kept, received)
                return True
            case CommandRejected() | FleetRebalanced():
                self._decide(event.command_id, event, received)
                return True
            case Cordoned():
                return self._cordon(event, received)
            case Uncordoned():
                return self._uncordon(event, received)
            case DeploymentScaled():
                return self._scale(event, received)
            case _:
                assert_never(event)

    def _leave(self, event: NodeLeft, received: Received[FrozenModel]) -> bool:
        node = self.nodes.get(event.node_id)
        if node is None or node.joined.boot_id != event.boot_id or node.left_at is not None:
            return False  # the farewell of an earlier boot does not send the new one away
        left = replace(node, left_at=received.recorded_at, left_reason=event.reason, sequence=received.sequence)
        self.nodes.put(event.node_id, left)
        return True

    def _register(self, event: DeviceRegistered, received: Received[FrozenModel]) -> bool:
        record = DeviceRecord(event.node_id, event.device, received.recorded_at, received.sequence)
        old = self.devices.get(record.key)
        if old is not None:  # what it is may change; what befell it stays
            record = replace(record, faults=old.faults, last_fault=old.last_fault)
        self.devices.put(record.key, record)
        return True

    def _note_fault(self, event: DeviceFaulted, received: Received[FrozenModel]) -> bool:
        key = DeviceKey.of(event.node_id, event.device_id)
        device = self.devices.get(key)
        if device is None:
            return False
        noted = replace(device, faults=device.faults + 1, last_fault=event, sequence=received.sequence)
        self.devices.put(key, noted)
        return True

    def _measure(self, event: GPUBandwidthMeasured, received: Received[FrozenModel]) -> bool:
        key = (event.from_node, event.to_node)
        old = self.links.get(key)
        if old is not None and not _replaces(event, old.measured):
            return False
        self.links.put(key, LinkRecord(event, received.sequence, received.recorded_at))
        return True

    def _lose_device(self, event: DeviceLost, received: Received[FrozenModel]) -> bool:
        key = DeviceKey.of(event.node_id, event.device_id)
        device = self.devices.get(key)
        if device is None:
            return False
        lost = replace(device, lost_at=received.recorded_at, lost_reason=event.reason, sequence=received.sequence)
        self.devices.put(key, lost)
        return True

    def _place(self, event: InstancePlaced, received: Received[FrozenModel]) -> bool:
        event = event.model_copy(update={"request": instance_fold.without_token(event.request)})
        self._decide(event.command_id, event, received)
        old = self.instances.get(event.instance_id)
        if old is not None and old.is_wanted:
            return False  # the same placement, published again
        self.instances.put(event.instance_id, instance_fold.placed(event, received))
        return True

    def _wait(self, event: InstancePending, received: Received[FrozenModel]) -> bool:
        if event.request is not None:
            event = event.model_copy(update={"request": instance_fold.without_token(event.request)})
        old = self.instances.get(event.instance_id)
        if old is not None and old.is_wanted:
            return self._change_instance(event, received)
        self._decide(event.command_id, event, received)
        new = instance_fold.pending(event, received)
        if new is None:
            return False
        self.instances.put(event.instance_id, new)
        return True

    def _change_instance(
        self,
        event: InstanceReplaced | InstancePending | InstanceDeleted | InstanceLost,
        received: Received[FrozenModel],
    ) -> bool:
        if not isinstance(event, InstanceLost):
            self._decide(event.command_id, event, received)
        instance = self.instances.get(event.instance_id)
        if instance is None or not instance.is_wanted:
            return False
        self.instances.put(event.instance_id, instance_fold.changed(instance, event, received))
        return True

    def _report(self, event: ShardReported, received: Received[FrozenModel]) -> bool:
        instance = self.instances.get(event.instance_id)
        if instance is None or not instance.is_wanted:
            return False
        self.instances.put(event.instance_id, instance_fold.reported(instance, event, received))
        return True

    def _cordon(self, event: Cordoned, received: Received[FrozenModel]) -> bool:
        self._decide(event.command_id, event, received)
        record = CordonRecord(
            event.node_id, event.device_id, event.drain, event.reason, received.recorded_at, received.sequence
        )
        self.cordons.put(record.key, record)
        return True

    def _uncordon(self, event: Uncordoned, received: Received[FrozenModel]) -> bool:
        """Lift the cordon of a device, or those of a node and all its devices."""
        self._decide(event.command_id, event, received)
        lifted = False
        for name, record in list(self.cordons.items()):
            meant = record.node_id == event.node_id and event.device_id in (None, record.device_id)
            if meant and record.lifted_at is None:
                gone = replace(record, lifted_at=received.recorded_at, sequence=received.sequence)
                self.cordons.put(name, gone)
                lifted = True
        return lifted

    def _scale(self, event: DeploymentScaled, received: Received[FrozenModel]) -> bool:
        event = event.model_copy(update={"request": instance_fold.without_token(event.request)})
        self._decide(event.command_id, event, received)
        old = self.deployments.get(event.deployment_id)
        record = DeploymentRecord(
            deployment_id=event.deployment_id,
            replicas=event.replicas,
            model=event.model,
            request=event.request,
            spread_by=event.spread_by,
            grant=event.grant,
            command_id=event.command_id,
            created_at=received.recorded_at if old is None else old.created_at,
            updated_at=received.recorded_at,
            sequence=received.sequence,
        )
        self.deployments.put(event.deployment_id, record)
        return True

    def _decide(self, command_id: CommandId | None, event: DecisionEvent, received: Received[FrozenModel]) -> None:
        """Note the answer to a command; the first one stays."""
        if command_id is None or self.decisions.get(command_id) is not None:
            return
        self.decisions.put(command_id, received.sequence)
        self.decided.append(
            Decision(
                command_id,
                event,
                received.sequence,
                received.recorded_at,
                received.envelope.event_id,
                received.envelope.correlation_id,
            ),
        )

    def _dead(self, message: DeadLettered | DeadLetterRetried, received: Received[FrozenModel]) -> bool:
        """Note a letter, or that it is done with; what was said first stays."""
        if isinstance(message, DeadLetterRetried):
            done = RetriedLetter(message, received.sequence, received.recorded_at)
            if self.retried_letters.get(done.key) is None:
                self.retried_letters.put(done.key, done)
            return True
        record = DeadLetterRecord(message, received.sequence, received.recorded_at)
        if self.dead_letters.get(record.key) is None:
            self.dead_letters.put(record.key, record)
        return True


_PROBED_FOR_SECONDS: Final = 86400.0
"""How long a probe is worth more than what the interfaces promise."""


def _replaces(new: GPUBandwidthMeasured, known: GPUBandwidthMeasured) -> bool:
    """Return whether ``new`` says more of its path: the newest does, but a promise is worth less than a fresh probe."""
    if new.method != "passive" or known.method == "passive":
        return True
    return (new.measured_at - known.measured_at).total_seconds() > _PROBED_FOR_SECONDS
