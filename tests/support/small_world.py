"""A small world on the pure core: machines, what runs on them, their streams, and placers, under one clock.

Nothing here waits and nothing is sent: time passes when it is told to. Laws that must hold at every sequence are
checked at every event, so that any test that plays in this world is a test of them.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from shardbus_eventstore.fleet_view import cordon_of, fleet_of
from shardbus_eventstore.fold import apply, fold
from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_infra.bus.streams import COMMANDS, FLEET, TELEMETRY
from shardbus_placer import ledger
from shardbus_placer.decider import command_id_of, conflict, decide
from shardbus_placer.finding import find_place
from shardbus_placer.hindsight import Rules, redo, verdict_of
from shardbus_placer.knowledge import Knowledge, Planner
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.policy import Policy
from shardbus_placer.reconcile import Step, Tried, barred_for, reconcile
from shardbus_placer.wanted import wanted_of
from shardbus_placer.watch import Watch, look, unstable
from shardbus_schemas import commands, events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import BootId, CommandId, DeviceId, DeviceKey, EventId, InstanceId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed
from shardbus_schemas.registry import Received
from shardbus_schemas.telemetry import DeviceGPUState
from support.quick_planner import BARE, quick_plan

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
HEARTBEAT_SECONDS = 10
_REMEMBERED = timedelta(minutes=2)
"""For how long the bus knows the id of a message, and drops another of the same."""
_MOST_STEPS = 2_000
_FULL_REPORT = 6
"""In every so many ticks all readings are told, changed or not."""


class LawBrokenError(AssertionError):
    """Something that must hold at every sequence does not."""


@dataclass
class Runner:
    """What runs, or is being loaded, for one instance on one device."""

    wanted_bytes: int
    loaded_bytes: int = 0
    told: str | None = None
    """The last state that it reported."""


@dataclass
class Device:
    """One device as it is; what the fleet knows of it may be older."""

    device_id: str
    total_bytes: int
    bytes_per_second: float
    others_bytes: int = 0
    """What programs that nobody asked for take."""
    is_throttling: bool = False
    is_there: bool = True
    is_broken: bool = False
    """Whether whatever is started here fails at once."""
    runners: dict[InstanceId, Runner] = field(default_factory=dict)

    @property
    def used_bytes(self) -> int:
        return min(self.total_bytes, self.others_bytes + sum(runner.loaded_bytes for runner in self.runners.values()))


@dataclass
class Machine:
    """One node as it is."""

    node_id: str
    devices: dict[str, Device]
    labels: dict[str, str] = field(default_factory=dict)
    is_up: bool = True
    is_heard: bool = True
    """Whether what it says reaches the bus."""
    boots: int = 1
    ticks: int = 0
    said: dict[str, object] = field(default_factory=dict)
    """What it told last of each device, in this life."""

    @property
    def boot_id(self) -> BootId:
        return BootId(f"boot-{self.boots}")


@dataclass
class Caretaker:
    """What one placer remembers: it is gone when the placer restarts."""

    watch: Watch = field(default_factory=Watch)
    tried: Tried = field(default_factory=dict)
    next_at: datetime | None = None


def knowledge_of(
    *models: ModelProfile, rules: LifeRules | None = None, plan: Planner = quick_plan, policy: Policy = BARE
) -> Knowledge:
    """Return what the placers of a world know."""
    return Knowledge({model.model_id: model for model in models}, policy, plan, rules or LifeRules())


class World:
    """See the module.

    ``reporting``: whether runtimes say what they take, for each instance. ``again``: whether each first placement is
    decided again. ``linked``: whether nodes measure the links between them.
    """

    def __init__(
        self,
        machines: Sequence[Machine],
        knowledge: Knowledge,
        *,
        placers: int = 1,
        reporting: Callable[[InstanceId], bool] = lambda _: True,
        loading_seconds: float = 20,
        again: bool = True,
        linked: bool = True,
    ) -> None:
        self.now = MIDNIGHT
        self.knowledge = knowledge
        self.machines = {machine.node_id: machine for machine in machines}
        self.placers = [Caretaker() for _ in range(placers)]
        self.state = FleetState()
        self.told: list[Received[FrozenModel]] = []
        """Both streams, in the order in which they grew."""
        self.counts: Counter[str] = Counter()
        """Events by type; moves and displacements by cause, as ``InstanceReplaced device_lost``."""
        self.moved_bytes = 0
        self.pending_seconds: list[float] = []
        self._reporting = reporting
        self._loading_seconds = loading_seconds
        self._again = again
        self._linked = linked
        self._pending_since: dict[InstanceId, datetime] = {}
        self._heard: dict[NodeId, dict[DeviceKey, int]] = {}
        """What others took on each device when it was told of last."""
        self._ids: dict[str, datetime] = {}
        self._seen: deque[FleetState] = deque(maxlen=32)
        self._asked = 0
        self.commands: dict[CommandId, Received[commands.Command]] = {}
        self._fleet = (self.state, self.now, fleet_of(self.state, self.now))
        for machine in machines:
            self._announce(machine)
        self.heartbeat()

    # What is told.

    def tell(self, message: FrozenModel, event_id: str | None = None) -> Received[FrozenModel]:
        """Append an event to its stream, check the laws, fold it, and return it as it was recorded."""
        stream = TELEMETRY if isinstance(message, events.TelemetryEvent) else FLEET
        sequence = self.state.positions.get(stream, 0) + 1
        envelope = Envelope(
            EventId(event_id or f"{stream}:{sequence}"), type(message).__name__, 1, self.now, "small world"
        )
        received = Received(message, envelope, stream, sequence, self.now)
        before = self.state
        self._seen.append(before)
        after = apply(before, received)
        if stream == FLEET:
            self._count(message, before)
            self._check(message, before, after)
        self.state = after
        self.told.append(received)
        return received

    def append(self, changes: Sequence[FrozenModel], expected: int | None, answer_id: str | None = None) -> bool:
        """Append as ``ledger.append`` does; return whether all went in. What went in before a conflict stays."""
        held = expected
        for number, change in enumerate(changes):
            last = number == len(changes) - 1
            on_ledger = isinstance(change, ledger.ON_LEDGER)
            if on_ledger and held is not None and held != self.ledger:
                return False
            event_id = answer_id if last and answer_id is not None else None
            if event_id is not None:
                said = self._ids.get(event_id)
                if said is not None and self.now - said < _REMEMBERED:
                    continue
                self._ids[event_id] = self.now
            appended = self.tell(change, event_id)
            if on_ledger:
                held = appended.sequence
        return True

    @property
    def ledger(self) -> int:
        """Where the last event of any instance is."""
        return self._ledger

    _ledger = 0

    # What is asked.

    def command(self, command: commands.Command) -> events.FleetEvent | None:
        """Send a command, let a placer answer it, and return the answer."""
        received = self.sent(command)
        return self.answer(received)

    def sent(self, command: commands.Command) -> Received[commands.Command]:
        """Return a command as the queue has it."""
        self._asked += 1
        envelope = Envelope(EventId(f"asked-{self._asked}"), command.TYPE, 1, self.now, "small world")
        received: Received[commands.Command] = Received(command, envelope, COMMANDS, self._asked, self.now)
        self.commands[command_id_of(received)] = received
        return received

    def answer(
        self, received: Received[commands.Command], seen: FleetState | None = None, ledger_seen: int | None = None
    ) -> events.FleetEvent | None:
        """Let a placer answer that saw ``seen`` first, and looks again after each lost race; ``None``: it was done."""
        for _ in range(5):
            state = seen or self.state
            expected = self.ledger if ledger_seen is None else ledger_seen
            seen, ledger_seen = None, None
            changes = decide(received, state, self.now, self.knowledge)
            if not changes:
                return None
            if self.append(changes, expected, f"{command_id_of(received)}/answer"):
                return changes[-1]
        refusal = conflict(received, self.state, 5)
        self.append([refusal], None, f"{command_id_of(received)}/answer")
        return refusal

    # What placers do by themselves.

    def propose(self, placer: Caretaker) -> Step:
        """Let a placer look at the world as it is now, and return the step that it would take."""
        fleet = self.fleet
        placer.watch = look(placer.watch, fleet, self.now)
        step = reconcile(self.state, fleet, placer.watch, placer.tried, self.now, self.knowledge)
        placer.tried, placer.next_at = step.tried, step.next_at
        return step

    @property
    def fleet(self) -> Fleet:
        """The fleet as everybody sees it now."""
        if self._fleet[0] is not self.state or self._fleet[1] != self.now:
            self._fleet = (self.state, self.now, fleet_of(self.state, self.now))
        return self._fleet[2]

    def settle(self, *, most: int = _MOST_STEPS) -> int:
        """Let the placers act until none has anything to do at this moment; return how many steps that took."""
        steps = 0
        self.follow()
        while True:
            done = False
            for placer in self.placers:
                expected = self.ledger
                step = self.propose(placer)
                if step.changes:
                    done = True
                    steps += 1
                    self.append(step.changes, expected)
                    self.follow()
                    if steps > most:
                        raise LawBrokenError(f"no end after {steps} steps; the last was {step.changes[-1]!r}")
            if not done:
                break
        self._check_settled()
        return steps

    def settle_in_a_race(self) -> None:
        """Let all placers plan on the same state before any of them appends: all but one come too late."""
        while True:
            expected = self.ledger
            steps = [self.propose(placer) for placer in self.placers]
            if not any(step.changes for step in steps):
                break
            won = [self.append(step.changes, expected) for step in steps if step.changes]
            assert won[0]
            self.follow()
        self._check_settled()

    def restart(self, placer: int = 0) -> None:
        """Let a placer forget all that is not in the streams."""
        self.placers[placer % len(self.placers)] = Caretaker()

    # Time.

    def pass_time(self, seconds: float, *, step: float = HEARTBEAT_SECONDS, settle: bool = True) -> None:
        """Let time pass: machines are heard, runtimes load, placers look once in each ``step``."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now = min(end, self.now + timedelta(seconds=step))
            self._run(step)
            self.heartbeat()
            if settle:
                self.settle()

    def rest(self, *, within: float = 6 * 3600) -> None:
        """Let time pass, from one moment at which something is due to the next, until nothing is due any more.

        What takes a while without being foreseen (a device that turns stale) has ten minutes first.
        """
        self.pass_time(600, step=30)
        end = self.now + timedelta(seconds=within)
        while moments := [placer.next_at for placer in self.placers if placer.next_at is not None]:
            if self.now > end:
                raise LawBrokenError(f"something is still due after {within:g} s: {self.needs()}")
            self.pass_time(max(0.01, (min(moments) - self.now).total_seconds()), step=86_400)
        self.pass_time(60, step=30)  # what was placed last loads

    def needs(self) -> Sequence[str]:
        """Return who is without a place, for messages."""
        return [f"{one.instance_id}: {one.reason}" for one in self.instances() if one.status != "placed"]

    def heartbeat(self) -> None:
        """Let every machine that can be heard tell what has changed since; now and then, and at first, everything."""
        self._tell_all(
            [self._tick(machine) for machine in self.machines.values() if machine.is_up and machine.is_heard]
        )

    def _tick(self, machine: Machine) -> events.DeviceGPUStateUpdated:
        machine.ticks += 1
        node = NodeId(machine.node_id)
        full = machine.ticks % _FULL_REPORT == 1
        there = [device for device in machine.devices.values() if device.is_there]
        self._heard[node] = {DeviceKey.of(node, device.device_id): device.others_bytes for device in there}
        now = {one.device_id: (one.used_bytes, one.total_bytes, one.is_throttling) for one in there}
        states = tuple(
            DeviceGPUState(
                node_id=node,
                device_id=DeviceId(name),
                memory_used_bytes=used,
                memory_total_bytes=total,
                is_thermal_throttling=throttling,
                last_update=self.now,
            )
            for name, (used, total, throttling) in now.items()
            if full or machine.said.get(name) != now[name]
        )
        machine.said = dict(now)
        return events.DeviceGPUStateUpdated(
            node_id=node, boot_id=machine.boot_id, tick=machine.ticks, heartbeat=full, states=states
        )

    def _tell_all(self, ticks: Sequence[FrozenModel]) -> None:
        """Append to ``TELEMETRY``, and fold once."""
        first = self.state.positions.get(TELEMETRY, 0) + 1
        envelope = Envelope(EventId("tick"), "DeviceGPUStateUpdated", 2, self.now, "small world")
        received = [Received(tick, envelope, TELEMETRY, first + number, self.now) for number, tick in enumerate(ticks)]
        self.state = fold(self.state, received)
        self.told += received

    # What befalls machines.

    def device(self, key: str) -> Device:
        """Return the device of that name as it is."""
        node, _, device = key.partition("/")
        return self.machines[node].devices[device]

    def leave(self, node: str, reason: str = "stopped") -> None:
        """Switch a machine off; it says so, and all that ran there is gone."""
        machine = self.machines[node]
        if machine.is_up:
            machine.is_up = False
            self._forget_runners(machine)
            self.tell(events.NodeLeft(node_id=NodeId(node), boot_id=machine.boot_id, reason=reason))

    def crash(self, node: str) -> None:
        """Switch a machine off without a word."""
        machine = self.machines[node]
        machine.is_up = False
        self._forget_runners(machine)

    def come_back(self, node: str) -> None:
        """Switch a machine on, or let it be heard again."""
        machine = self.machines[node]
        if not machine.is_up:
            machine.is_up = machine.is_heard = True
            machine.boots, machine.ticks, machine.said = machine.boots + 1, 0, {}
            self._announce(machine)
        machine.is_heard = True

    def join(self, machine: Machine) -> None:
        """Add a machine."""
        self.machines[machine.node_id] = machine
        self._announce(machine)

    def lose_device(self, key: str, reason: str = "fell off the bus") -> None:
        """Let a device vanish, with what ran on it."""
        device, name = self.device(key), DeviceKey(key)
        device.is_there = False
        device.runners.clear()
        if self._speaks(name.node_id):
            self.tell(events.DeviceLost(node_id=name.node_id, device_id=DeviceId(device.device_id), reason=reason))

    def find_device(self, key: str) -> None:
        """Let a device be there again."""
        device, name = self.device(key), DeviceKey(key)
        device.is_there = True
        if self._speaks(name.node_id):
            self.tell(events.DeviceRegistered(node_id=name.node_id, device=_facts(device)))

    def fail(self, instance_id: InstanceId, key: str, message: str = "out of memory") -> None:
        """Let what runs for an instance on a device fail, and say so."""
        runner = self.device(key).runners.get(instance_id)
        if runner is not None and self._speaks(DeviceKey(key).node_id):
            runner.loaded_bytes, runner.told = 0, "failed"
            self._report(instance_id, DeviceKey(key), "failed", 0, message)

    # What follows the placements.

    def follow(self) -> None:
        """Start and stop what runs on machines that are in touch, as the state says."""
        wanted = self.promises()
        for machine in self.machines.values():
            if not (machine.is_up and machine.is_heard):
                continue
            for device in machine.devices.values():
                if not device.is_there:
                    continue
                key = DeviceKey.of(machine.node_id, device.device_id)
                mine = wanted.get(key, {})
                for instance_id in [name for name in device.runners if name not in mine]:
                    del device.runners[instance_id]
                    if self._reporting(instance_id):
                        self._report(instance_id, key, "stopped", 0)
                for instance_id, count in mine.items():
                    runner = device.runners.setdefault(instance_id, Runner(count))
                    runner.wanted_bytes = count
                    runner.loaded_bytes = min(runner.loaded_bytes, count)

    def promises(self) -> dict[DeviceKey, dict[InstanceId, int]]:
        """Return what is promised, by device and instance."""
        found: dict[DeviceKey, dict[InstanceId, int]] = {}
        for record in self.state.instances.values():
            for key, count in record.promised.items():
                found.setdefault(key, {})[record.instance_id] = count
        return found

    def running(self) -> dict[DeviceKey, dict[InstanceId, int]]:
        """Return what is loaded in full, by device and instance."""
        return {
            DeviceKey.of(machine.node_id, device.device_id): {
                name: runner.loaded_bytes for name, runner in device.runners.items()
            }
            for machine in self.machines.values()
            for device in machine.devices.values()
            if device.runners
        }

    def instances(self) -> Iterator[InstanceRecord]:
        """Yield what is wanted."""
        return (record for record in self.state.instances.values() if record.is_wanted)

    def instance(self, name: str) -> InstanceRecord:
        """Return the one instance of that model or name."""
        (found,) = (one for one in self.instances() if name in (one.instance_id, one.model.model_id))
        return found

    def where(self, name: str) -> Sequence[str]:
        """Return the devices of the one instance of that model or name."""
        return list(self.instance(name).promised)

    def _run(self, seconds: float) -> None:
        """Let what loads load more, as far as there is memory."""
        for machine in self.machines.values():
            for device in machine.devices.values():
                if not (machine.is_up and device.is_there):
                    continue
                key = DeviceKey.of(machine.node_id, device.device_id)
                for instance_id, runner in device.runners.items():
                    if runner.told == "failed" and not self._is_asked_again(instance_id, key):
                        continue
                    if device.is_broken and self._reporting(instance_id) and machine.is_heard:
                        runner.told = "failed"
                        self._report(instance_id, key, "failed", 0, "cannot start")
                        continue
                    before = runner.loaded_bytes
                    more = int(runner.wanted_bytes * min(1.0, seconds / self._loading_seconds)) + 1
                    free = device.total_bytes - device.used_bytes
                    runner.loaded_bytes = min(runner.wanted_bytes, before + min(more, free))
                    state = "ready" if runner.loaded_bytes == runner.wanted_bytes else "loading"
                    if self._reporting(instance_id) and machine.is_heard:
                        if (runner.told, before) != (state, runner.loaded_bytes):
                            self._report(instance_id, key, state, runner.loaded_bytes)
                        runner.told = state

    def _is_asked_again(self, instance_id: InstanceId, key: DeviceKey) -> bool:
        """Return whether an instance was placed anew since its shard failed here."""
        record = self.state.instances.get(instance_id)
        shard = None if record is None else record.shards.get(key)
        return record is not None and shard is not None and shard.sequence < record.updated_sequence

    def _report(
        self, instance_id: InstanceId, key: DeviceKey, state: str, used: int, message: str | None = None
    ) -> None:
        said = {"instance_id": instance_id, "node_id": key.node_id, "device_id": key.device_id, "state": state}
        self.tell(
            events.ShardReported.model_validate(
                {**said, "memory_used_bytes": used, "message": message, "occurred_at": self.now}
            )
        )

    def _announce(self, machine: Machine) -> None:
        self.tell(
            events.NodeJoined(
                node_id=NodeId(machine.node_id),
                boot_id=machine.boot_id,
                heartbeat_seconds=HEARTBEAT_SECONDS,
                labels=machine.labels,
            )
        )
        for device in machine.devices.values():
            if device.is_there:
                self.tell(events.DeviceRegistered(node_id=NodeId(machine.node_id), device=_facts(device)))
        for other in self.machines.values() if self._linked else ():
            if other is not machine:
                for ends in ((machine.node_id, other.node_id), (other.node_id, machine.node_id)):
                    figures = {"bandwidth_bytes_per_second": 1e9, "latency_seconds": 1e-4, "measured_at": self.now}
                    self.tell(events.GPUBandwidthMeasured.model_validate({"from": ends[0], "to": ends[1], **figures}))

    def _speaks(self, node: str) -> bool:
        return self.machines[node].is_up and self.machines[node].is_heard

    def _forget_runners(self, machine: Machine) -> None:
        for device in machine.devices.values():
            device.runners.clear()

    # The laws.

    def _count(self, message: FrozenModel, before: FleetState) -> None:
        self.counts[type(message).__name__] += 1
        match message:
            case events.InstancePlaced():
                self._placed(message.instance_id)
            case events.InstanceReplaced():
                self.counts[f"InstanceReplaced {message.cause}"] += 1
                self._placed(message.instance_id)
                self.moved_bytes += _moved_bytes(before.instances[message.instance_id], message.plan)
            case events.InstancePending():
                self.counts[f"InstancePending {message.cause}"] += 1
                self._pending_since.setdefault(message.instance_id, self.now)
            case events.InstanceDeleted():
                self._pending_since.pop(message.instance_id, None)
            case _:
                pass
        if isinstance(message, ledger.ON_LEDGER):
            self._ledger = before.positions.get(FLEET, 0) + 1

    def _placed(self, name: InstanceId) -> None:
        since = self._pending_since.pop(name, None)
        if since is not None:
            self.pending_seconds.append((self.now - since).total_seconds())

    def _check(self, message: FrozenModel, before: FleetState, after: FleetState) -> None:
        command_id = getattr(message, "command_id", None)
        if command_id is not None:
            _must(before.decisions.get(command_id) is None, f"a second answer to {command_id}: {message!r}")
        if isinstance(message, events.InstancePlaced | events.InstanceReplaced):
            self._check_memory(message, before, after)
            self._check_given_way(message, before)
        if isinstance(message, events.InstancePlaced) and self._again:
            self._check_again(message)

    def _check_memory(
        self, message: events.InstancePlaced | events.InstanceReplaced, before: FleetState, after: FleetState
    ) -> None:
        """What is promised fits, beside what others were known to take when that was told last."""
        for key in message.plan.memory_by_device:
            total = after.devices[key].facts.memory_total_bytes
            promised = sum(one.promised.get(key, 0) for one in after.instances.values())
            _must(total is not None and promised <= total, f"{key} is promised {promised} of {total}")
            if self._all_have_reported(key, before):
                others = self._heard.get(key.node_id, {}).get(key, 0)
                _must(
                    total is not None and promised + others <= total,
                    f"{key} has {total}, others take {others}, {promised} are promised by {message!r}",
                )

    def _all_have_reported(self, key: DeviceKey, state: FleetState) -> bool:
        """Return whether all that runs or is to run there has said so: until then a rise is taken for its own."""
        runners = self.device(key).runners
        there = {one.instance_id for one in state.instances.values() if key in one.promised}
        return there <= runners.keys() and all(runner.told in ("loading", "ready") for runner in runners.values())

    def _check_given_way(self, message: events.InstancePlaced | events.InstanceReplaced, before: FleetState) -> None:
        own = (
            message.request
            if isinstance(message, events.InstancePlaced)
            else before.instances[message.instance_id].request
        )
        for name in message.gave_way:
            victim = before.instances[name]
            _must(victim.request.priority < own.priority, f"{name} gave way to an equal: {message.instance_id}")
            _must(victim.status != "placed", f"{name} gave way to {message.instance_id} and still has its place")

    def _check_again(self, message: events.InstancePlaced) -> None:
        """The same decision taken again on the state at its position gives the same plan."""
        at = message.position
        for state in self._seen:
            sequences = (state.positions.get(TELEMETRY, 0), state.positions.get(FLEET, 0))
            if sequences == (at.telemetry_sequence, at.fleet_sequence) and at.as_of is not None:
                then = redo(message, state, at.as_of, Rules(self.knowledge))
                _must(then is not None, f"the model of {message.instance_id} is not known any more")
                assert then is not None
                same = verdict_of(then).stages == verdict_of(message.plan).stages
                _must(same, f"{message.instance_id} decided again is placed otherwise")
                return
        raise LawBrokenError(f"no state is at the position of {message.instance_id}: {at}")

    def _check_settled(self) -> None:
        """Where nothing is to be done, nobody is where he must not be, and there are as many as are wanted."""
        fleet = self.fleet
        status = {key: device.status for key, _, device in fleet.devices()}
        rules, limited = self.knowledge.rules, self._is_limited()
        for record in self.instances():
            for key in record.promised:
                cordon = cordon_of(self.state, key)
                drained = cordon is not None and cordon.drain
                _must(not drained, f"{record.instance_id} is on {key}, which is drained")
                shard = record.shards.get(key)
                failed = (
                    shard is not None and shard.report.state == "failed" and shard.sequence > record.updated_sequence
                )
                _must(not failed or limited, f"{record.instance_id} is on {key}, where it failed")
                if rules.lost_after_seconds == rules.stale_after_seconds == 0:
                    away = status.get(key) in (None, "lost", "stale")
                    _must(not away or limited, f"{record.instance_id} is on {key}, which is {status.get(key)}")
        for deployment in self.state.deployments.values():
            there = sum(one.deployment_id == deployment.deployment_id for one in self.instances())
            _must(there == deployment.replicas, f"{there} replicas of {deployment.replicas}")

    def _is_limited(self) -> bool:
        lately = sum(self.now - record.updated_at < timedelta(minutes=1) for record in self.state.instances.values())
        return lately >= self.knowledge.rules.moves_per_minute

    def check_streams(self) -> None:
        """What the streams say, folded from the beginning, is the state."""
        _must(fold(FleetState(), self.told) == self.state, "folded from the beginning the state is another")

    def check_quiet(self) -> None:
        """Nothing is to be done, every pending instance has no place, and what runs is what the state says."""
        for placer in self.placers:
            step = self.propose(placer)
            _must(not step.changes, f"there is still something to do: {step.changes}")
        for record in self.instances():
            if record.status == "placed":
                continue
            watch = self.placers[0].watch
            barred = barred_for(record, watch, self.now, self.knowledge.rules)
            _must(not unstable(watch, self.now, self.knowledge.rules), "a device is not trusted yet")
            found = find_place(wanted_of(record), self.state, self.now, self.knowledge, barred=barred)
            _must(not isinstance(found.result, Placed), f"{record.instance_id} could be placed, and is not")
        _must(
            self.running() == self.promises(), f"what runs is not what is placed: {self.running()}, {self.promises()}"
        )


def _moved_bytes(before: InstanceRecord, plan: Placed) -> int:
    """Return the bytes of layers that are on a device on which they were not."""
    old = before.plan.stages if before.status == "placed" and before.plan is not None else ()
    had = {
        (key, layer) for stage in old for key in stage.devices for layer in range(stage.start_layer, stage.end_layer)
    }
    sizes = before.model.bytes_by_layer
    return sum(
        sizes[layer]
        for stage in plan.stages
        for key in stage.devices
        for layer in range(stage.start_layer, stage.end_layer)
        if (key, layer) not in had
    )


def _facts(device: Device) -> DeviceFacts:
    return DeviceFacts(
        device_id=DeviceId(device.device_id),
        backend="cuda",
        memory_total_bytes=device.total_bytes,
        memory_bandwidth_bytes_per_second=device.bytes_per_second,
    )


def _must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise LawBrokenError(otherwise)


def machine(node: str, *totals: int, speed: float = 1000.0, **labels: str) -> Machine:
    """Return a machine with a device ``g0``, ``g1``, ... of each size."""
    devices = {f"g{number}": Device(f"g{number}", total, speed) for number, total in enumerate(totals)}
    return Machine(node, devices, labels)


def model(name: str, size: int, layers: int = 4) -> ModelProfile:
    """Return a model of so many bytes in all, in equal layers."""
    return ModelProfile(model_id=name, layers=layers, layer_bytes=size // layers)
