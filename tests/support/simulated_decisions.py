"""A long day of a small fleet, with every decision taken by the real decider and every event on the bus in memory.

Devices fill and empty, run hot, fall silent, are lost and come back; links get slower; models are registered anew;
instances come and go. Several placers work at a time, so that what an answer saw may be older than what its
predecessors saw.
"""

from collections import Counter, deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from shardbus_eventstore.intake import take
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_placer.decider import decide
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas import commands, events
from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.ids import CommandId, DeviceId, EventId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.registry import Received
from shardbus_schemas.telemetry import DeviceGPUState

START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
GIB = 1 << 30
MODELS = {
    "small": ModelProfile(model_id="small", layers=4, layer_bytes=GIB),
    "middle": ModelProfile(model_id="middle", layers=6, layer_bytes=2 * GIB),
    "large": ModelProfile(model_id="large", layers=8, layer_bytes=3 * GIB),
}
KNOWLEDGE = Knowledge(MODELS, Policy(), plan)
_KINDS = (("NVIDIA GeForce RTX 3090", 24, 936e9), ("NVIDIA GeForce RTX 4060 Ti", 16, 288e9), ("Tesla T4", 16, 320e9))
_PLACERS = 4


class Day:
    """The simulation. ``bus`` holds all that was said, ``answers`` counts the decisions by their type.

    Said again on another bus, all is recorded at other times: without ``falls_silent`` that changes nothing.
    """

    def __init__(
        self,
        seed: int,
        knowledge: Knowledge = KNOWLEDGE,
        *,
        falls_silent: bool = True,
        models_registered: bool = False,
        **request: Any,
    ) -> None:
        self._heartbeat_seconds = 20.0 if falls_silent else 1e7
        self.now = START
        self.bus = MemoryBus(now=lambda: self.now)
        self.answers: Counter[str] = Counter()
        self.state = FleetState()
        self._request = request
        self._random = Random(seed)
        self._knowledge = knowledge
        self._seen: deque[FleetState] = deque([self.state], maxlen=_PLACERS)
        self._ticks: Counter[NodeId] = Counter()
        self._devices: dict[NodeId, tuple[DeviceFacts, ...]] = {}
        for number in range(2):
            self._join(NodeId(f"n{number}"))
        for profile in MODELS.values() if models_registered else ():
            self.say(events.ModelRegistered(profile=profile))

    def run(self, decisions: int) -> None:
        """Go on until so many placements more are decided."""
        wanted = self.decided + decisions
        while self.decided < wanted:
            self.now += timedelta(milliseconds=self._random.randrange(1, 4000))
            self._random.choices(
                (self._report, self._measure, self._place, self._delete, self._mishap, self._register),
                (30, 6, 40, 20, 3, 1),
            )[0]()

    @property
    def decided(self) -> int:
        """How many placements were decided by a planner."""
        return sum(count for name, count in self.answers.items() if name != "unplanned")

    def say(self, message: FrozenModel, *, source: str = "test") -> None:
        """Append a message and fold it."""
        ready = outgoing(message, source=source, event_id=None, occurred_at=self.now)
        place = self.bus.server.append(ready, None)
        stored = self.bus.server.log(place.stream).get(place.sequence)
        assert stored is not None
        self.state = take(self.state, (stored,)).state
        self._seen.append(self.state)

    def _join(self, node: NodeId) -> None:
        if node not in self._devices:
            self._devices[node] = tuple(self._facts(number) for number in range(self._random.randrange(1, 3)))
        self._ticks[node] += 1000
        boot = f"b{self._ticks[node]}"
        link = LinkFigures(bandwidth_bytes_per_second=12e9, latency_seconds=8e-6)
        self.say(
            events.NodeJoined(node_id=node, boot_id=boot, heartbeat_seconds=self._heartbeat_seconds, device_link=link)
        )
        for facts in self._devices[node]:
            self.say(events.DeviceRegistered(node_id=node, device=facts))

    def _facts(self, number: int) -> DeviceFacts:
        name, gib, bandwidth = self._random.choice(_KINDS)
        return DeviceFacts(
            device_id=DeviceId(f"cuda:{number}"),
            name=name,
            backend="cuda",
            memory_total_bytes=gib * GIB,
            memory_bandwidth_bytes_per_second=bandwidth,
        )

    def _node(self) -> NodeId:
        return self._random.choice(sorted(self._devices))

    def _report(self) -> None:
        node, full = self._node(), self._random.random() < 0.3
        self._ticks[node] += self._random.randrange(0, 3)  # some ticks come twice, some are lost
        told = [facts for facts in self._devices[node] if full or self._random.random() < 0.5]
        states = tuple(
            DeviceGPUState(
                node_id=node,
                device_id=facts.device_id,
                last_update=self.now,
                memory_used_bytes=self._random.randrange(0, (facts.memory_total_bytes or 0) // 2),
                compute_utilization_percent=float(self._random.randrange(0, 100)),
                is_thermal_throttling=self._random.random() < 0.1,
            )
            for facts in told
        )
        boot = f"b{self._ticks[node] // 1000 * 1000}"
        self.say(
            events.DeviceGPUStateUpdated(
                node_id=node, boot_id=boot, tick=self._ticks[node], heartbeat=full, states=states
            )
        )

    def _measure(self) -> None:
        a, b = self._random.sample(sorted(self._devices), 2)
        figures = {"bandwidth_bytes_per_second": self._random.choice((1.2e8, 1.2e9, 3e9)), "latency_seconds": 1e-4}
        self.say(
            events.GPUBandwidthMeasured.model_validate(
                {"from": a, "to": b, "method": "probe", "measured_at": self.now, **figures}
            )
        )

    def _mishap(self) -> None:
        node = self._node()
        record = self.state.nodes[node]
        if record.left_at is not None:
            self._join(node)
        elif self._random.random() < 0.3:
            self.say(events.NodeLeft(node_id=node, boot_id=record.joined.boot_id))
        else:
            device = self._random.choice(self._devices[node])
            self.say(events.DeviceLost(node_id=node, device_id=device.device_id, reason="fell off the bus"))
            self.say(events.DeviceRegistered(node_id=node, device=device))

    def _register(self) -> None:
        profile = MODELS["middle"].model_copy(update={"layers": self._random.randrange(4, 9)})
        self.say(events.ModelRegistered(profile=profile))

    def _delete(self) -> None:
        placed = [name for name, instance in sorted(self.state.instances.items()) if instance.status == "placed"]
        if placed:
            self._command(commands.Delete(instance_id=self._random.choice(placed)))

    def _place(self) -> None:
        asked: dict[str, Any] = {
            "objective": self._random.choice(("latency", "throughput", "score")),
            "dry_run": self._random.random() < 0.2,
            "context_tokens": 0,
            "deadline_ms": 60_000.0,
            "max_nodes": self._random.choice((None, 1, 2)),
            "headroom_fraction": self._random.choice((None, 0.0, 0.2)),
            **self._request,
        }
        if self._random.random() < 0.1:
            asked["model"] = MODELS["small"].model_copy(update={"model_id": "mine", "layers": 3})
        else:
            asked["model_id"] = self._random.choice(
                (*MODELS, "unheard-of") if self._random.random() < 0.1 else tuple(MODELS)
            )
        self._command(commands.Place(**asked))

    def _command(self, command: commands.Place | commands.Delete) -> None:
        """Let one of the placers answer: what it saw may be a little older than what is there."""
        command_id = CommandId(f"c{self.bus.server.log(FLEET).last_sequence}-{self._random.randrange(10**9)}")
        envelope = Envelope(EventId(command_id), command.TYPE, 1, self.now, "test")
        received: Received[Any] = Received(
            command.model_copy(update={"command_id": command_id}), envelope, "COMMANDS", 1, self.now
        )
        seen = self._view()
        (answer,) = decide(received, seen, self.now, self._knowledge)
        assert answer is not None
        changes_ledger = isinstance(answer, events.InstancePlaced | events.InstanceDeleted)
        if changes_ledger and seen.instances is not self.state.instances:
            return  # the ledger moved on: that placer plans again, and so does the next round
        if isinstance(answer, events.PlacementRejected) and answer.result.strategy == "none":
            self.answers["unplanned"] += 1
        elif not isinstance(answer, events.InstanceDeleted | events.CommandRejected):
            self.answers[type(answer).__name__] += 1
        self.now += timedelta(milliseconds=self._random.randrange(1, 50))  # planning and publishing take time
        self.say(answer, source="placer/test")

    def _view(self) -> FleetState:
        """Return a state of a moment ago: each of the two streams as some placer had it."""
        fleet, telemetry = self._random.choice(self._seen), self._random.choice(self._seen)
        return replace(
            fleet,
            device_states=telemetry.device_states,
            node_heard=telemetry.node_heard,
            links=telemetry.links,
            positions={
                FLEET: fleet.positions.get(FLEET, 0),
                TELEMETRY: telemetry.positions.get(TELEMETRY, 0),
            },
        )
