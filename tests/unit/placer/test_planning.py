"""What a decision says was in use before it, and what the fleet makes of that afterwards."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.fold import fold
from shardbus_eventstore.state import FleetState
from shardbus_placer.carrying_out import after
from shardbus_placer.decider import decide
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.reconcile import reconcile
from shardbus_placer.telling import without_plan
from shardbus_placer.watch import Watch
from shardbus_schemas import commands, events
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import StatePosition
from shardbus_schemas.registry import Received
from shardbus_schemas.telemetry import DeviceGPUState
from support.placing import TINY, attic

START = datetime(2026, 11, 26, 12, tzinfo=UTC)
KNOWLEDGE = Knowledge({"tiny": TINY}, Policy(), plan)
OTHERS = 1_000


class Timeline:
    """A state that grows by a message each second."""

    def __init__(self) -> None:
        self.state = FleetState()
        self.now = START
        for event in attic():
            self.tell(event)

    def tell(self, message: FrozenModel) -> None:
        self.now += timedelta(seconds=1)
        stream = "TELEMETRY" if isinstance(message, events.TelemetryEvent) else "FLEET"
        sequence = self.state.positions.get(stream, 0) + 1
        envelope = Envelope(f"{stream}:{sequence}", type(message).__name__, 1, self.now, "test")  # pyright: ignore[reportArgumentType]
        self.state = fold(self.state, [Received(message, envelope, stream, sequence, self.now)])

    def read(self, used: int) -> None:
        """Read the device."""
        at = self.now + timedelta(seconds=1)
        reading: dict[str, Any] = {
            "node_id": "attic",
            "device_id": "cuda:0",
            "memory_used_bytes": used,
            "memory_total_bytes": 10_000,
            "last_update": at,
        }
        self.tell(events.DeviceGPUStateUpdated(node_id="attic", states=(DeviceGPUState(**reading),)))  # pyright: ignore[reportArgumentType]

    def memory(self) -> tuple[int | None, int]:
        """Return what is in use on the device, and what is promised beside it."""
        ((_, _, device),) = fleet_of(self.state, self.now).devices()
        return device.memory_used_bytes, device.memory_reserved_bytes


def test_a_runtime_that_went_on_while_its_instance_had_no_place_is_not_counted_twice_afterwards() -> None:
    line = Timeline()
    line.read(OTHERS)
    only_weights: dict[str, Any] = {"context_tokens": 0, "headroom_fraction": 0.0, "runtime_overhead_bytes": 0}
    asked = commands.Place(**{"model_id": "tiny", "command_id": "c1", **only_weights})
    sent = Received(asked, Envelope("c1", "Place", 1, line.now, "test"), "COMMANDS", 1, line.now)  # pyright: ignore[reportArgumentType]
    (placed,) = decide(sent, line.state, line.now, KNOWLEDGE)
    assert isinstance(placed, events.InstancePlaced)
    assert placed.used_before == {"attic/cuda:0": OTHERS}
    line.tell(placed)
    promised = sum(placed.plan.memory_by_device.values())
    assert line.memory() == (OTHERS, promised)
    about: dict[str, Any] = {"instance_id": placed.instance_id, "node_id": "attic", "device_id": "cuda:0"}
    line.tell(events.ShardReported(**about, state="ready", memory_used_bytes=promised, occurred_at=line.now))
    line.read(OTHERS + promised)
    assert line.memory() == (OTHERS + promised, 0)
    # The node was cut off for a while, and its runtime did not notice.
    line.tell(
        events.InstancePending(
            instance_id=placed.instance_id,
            reason="attic/cuda:0 is silent",
            cause="device_lost",
            result=without_plan(wanted="tiny", code="no_devices", message="none"),
            position=StatePosition(),
        )
    )
    line.read(OTHERS + promised)
    step = reconcile(line.state, fleet_of(line.state, line.now), Watch(), {}, line.now, KNOWLEDGE)
    (replaced,) = step.changes
    assert isinstance(replaced, events.InstanceReplaced)
    assert replaced.used_before == {"attic/cuda:0": OTHERS}
    line.state = after(line.state, [replaced], line.now)
    line.now += timedelta(seconds=1)
    assert line.memory() == (OTHERS + promised, 0)
    line.read(OTHERS + promised)
    assert line.memory() == (OTHERS + promised, 0)
