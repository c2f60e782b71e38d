"""Lives of instances, written by hand: who said what, when, and what led to it."""

from datetime import datetime, timedelta
from typing import Any

from shardbus_eventstore.intake import examine, take
from shardbus_eventstore.life import Life
from shardbus_eventstore.life_telling import Led, ids_to_find, life_of
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Bus, Outgoing, Stored
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import Asked
from shardbus_schemas.ids import CommandId, DeviceKey, InstanceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import (
    DeviceVerdict,
    Movement,
    ObjectiveValue,
    Placed,
    PlacementRequest,
    Prediction,
    Refusal,
    Refused,
    SolverReport,
    Stage,
    StatePosition,
    Transfer,
)
from support.histories import START

GIB = 2**30
LLAMA = ModelProfile(model_id="llama-3.3-70b-4bit", layers=80, layer_bytes=500 * 2**20)
REQUEST = PlacementRequest(model_id="llama-3.3-70b-4bit", context_tokens=8192, priority=5, wait_for_capacity=True)
NAME = InstanceId("llama-3.3-70b-4bit-1a2b3c4d")
NOWHERE = StatePosition()


def plan(rate: float, *held: tuple[str, int, int], movement: Movement | None = None) -> Placed:
    """Return a plan of stages: device, first layer, one past the last."""
    return Placed(
        model_id=LLAMA.model_id,
        strategy="ilp",
        strategy_reason="the fleet is heterogeneous",
        stages=tuple(
            Stage(
                devices=(DeviceKey(device),),
                start_layer=start,
                end_layer=end,
                memory_bytes={DeviceKey(device): (end - start) * GIB // 2},
                seconds=(end - start) / 80 / rate,
            )
            for device, start, end in held
        ),
        objective=ObjectiveValue(name="latency", value=1 / rate, unit="seconds", bound=1 / rate, gap=0),
        predicted=Prediction(seconds_per_token=1 / rate, tokens_per_second=rate),
        solver=SolverReport(name="HiGHS", status="optimal", seconds=0.03),
        movement=movement,
        devices=tuple(
            DeviceVerdict(device=DeviceKey(device), score=0.8, chosen=True, why="it fits") for device, _, _ in held
        ),
    )


def refused(message: str, code: Any = "insufficient_memory", **figures: Any) -> Refused:
    """Return why there is no place."""
    return Refused(
        model_id=LLAMA.model_id,
        strategy="ilp",
        strategy_reason="the fleet is heterogeneous",
        refusal=Refusal(code=code, message=message, **figures),
    )


class Telling:
    """``FLEET``, event by event; each returns its id, for what it leads to."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self.asked = 0

    def say(
        self,
        message: FrozenModel,
        at: float,
        *,
        because: str | None = None,
        source: str = "placer/attic",
        name: str | None = None,
    ) -> str:
        """Append ``message`` as of ``at`` seconds after the start."""
        sequence = len(self.stored) + 1
        event_id = name or f"event-{sequence}"
        moment = START + timedelta(seconds=at)
        ready = outgoing(message, source=source, event_id=event_id, occurred_at=moment, causation_id=because)
        self.stored.append(Stored(FLEET, sequence, ready.subject, ready.headers, ready.payload, moment))
        return event_id

    def who(self, at: float, source: str = "console/anna") -> Asked:
        """Return who asked, just before."""
        self.asked += 1
        moment = START + timedelta(seconds=at)
        return Asked(source=source, occurred_at=moment, recorded_at=moment, sequence=self.asked)

    def shard(self, device: str, state: events.ShardState, at: float, start: int, end: int, **more: Any) -> str:
        """Append what a runtime says."""
        node, _, name = device.partition("/")
        message = events.ShardReported(
            instance_id=NAME,
            node_id=node,
            device_id=name,
            state=state,
            start_layer=start,
            end_layer=end,
            occurred_at=START + timedelta(seconds=at),
            **more,
        )
        return self.say(message, at + 0.004, source=f"agent/{node}")

    @property
    def state(self) -> FleetState:
        """What folding it gives."""
        return take(FleetState(), self.stored).state

    def life(self, name: str = NAME, *, now: datetime | None = None) -> Life | None:
        """Return the life that it tells, with all that led to it."""
        received = examine(self.stored).received
        wanted = ids_to_find(name, received)
        led = {one.envelope.event_id: one for one in received if one.envelope.event_id in wanted}
        answers = {
            cause: one
            for one in received
            if (cause := one.envelope.causation_id) in wanted and getattr(one.message, "asked", None) is not None
        }
        ending = self.stored[-1].recorded_at if self.stored else START
        return life_of(name, received, Led(led, answers), now=now or ending)

    async def publish(self, bus: Bus) -> None:
        """Append all of it to a bus, which has its own clock."""
        await bus.append_many([Outgoing(one.subject, one.payload, one.headers) for one in self.stored])


WINNER = InstanceId("deepseek-r1-distill-9f8e7d6c")
FIRST = plan(11.2, ("rig/cuda:0", 0, 40), ("rig/cuda:1", 40, 80))
SECOND = plan(
    9.4,
    ("rig/cuda:0", 0, 40),
    ("desk/mlx:0", 40, 80),
    movement=Movement(
        moved_bytes=20 * GIB,
        moved_seconds=19.1,
        downtime_seconds=19.1,
        horizon_tokens=100_000,
        steady_value=0.106,
        transfers=(
            Transfer.model_validate({"device": "desk/mlx:0", "from": None, "weight_bytes": 20 * GIB, "seconds": 19.1}),
        ),
    ),
)
THIRD = plan(12.0, ("attic/cuda:0", 0, 44), ("rig/cuda:0", 44, 80))
FOURTH = plan(8.1, ("attic/cuda:0", 0, 80))


def eventful() -> Telling:
    """Return a life in which everything happens once, two days long."""
    told = Telling()
    for node in ("rig", "attic", "desk"):
        told.say(events.NodeJoined(node_id=node, boot_id="b1", heartbeat_seconds=10), 0, source=f"agent/{node}")
    back = events.DeviceRegistered(node_id="rig", device=DeviceFacts(device_id="cuda:1", name="NVIDIA RTX 3090"))
    told.say(back, 0.2, source="agent/rig")

    placed = events.InstancePlaced(
        instance_id=NAME,
        command_id=CommandId("cli-1"),
        model=LLAMA,
        request=REQUEST,
        plan=FIRST,
        position=NOWHERE,
        asked=told.who(60),
    )
    told.say(placed, 60.142, because="cli-1")
    told.shard("rig/cuda:0", "loading", 62, 0, 40)
    told.shard("rig/cuda:1", "loading", 62.5, 40, 80)
    told.shard("rig/cuda:0", "loading", 70, 0, 40, memory_used_bytes=9 * GIB, message="44 %")
    told.shard("rig/cuda:0", "ready", 80.2, 0, 40, memory_used_bytes=20 * GIB)
    told.shard("rig/cuda:1", "ready", 83.9, 40, 80, memory_used_bytes=21 * GIB)

    lost = events.DeviceLost(node_id="rig", device_id="cuda:1", reason="XID 79: the GPU has fallen off the bus")
    because = told.say(lost, 902, source="agent/rig")
    replaced(told, SECOND, 902.31, "device_lost", "rig/cuda:1 was lost with 40 of its 80 layers", because=because)
    told.shard("desk/mlx:0", "loading", 904, 40, 80)
    failed = told.shard("desk/mlx:0", "failed", 931, 40, 80, message="out of memory in the second buffer")

    missing = refused(
        "38.4 GiB are missing on 2 devices",
        required_bytes=40 * GIB,
        available_bytes=20 * GIB,
        missing_bytes=20 * GIB,
        remedy="free 20.0 GiB on attic/cuda:0",
    )
    pending = events.InstancePending(
        instance_id=NAME,
        cause="shard_failed",
        reason="its shard on desk/mlx:0 failed, which is barred for 10 minutes; nothing else is free",
        result=missing,
        position=NOWHERE,
    )
    told.say(pending, 931.2, because=failed)
    other = events.InstanceDeleted(instance_id="qwen3-32b-aa", asked=told.who(1500))
    room = told.say(other, 1500.1, because="cli-7")
    replaced(told, THIRD, 1500.3, "capacity", "qwen3-32b-aa left, and there is room", because=room)

    win = told.who(4000, "console/ben")
    gave = events.InstancePending(
        instance_id=NAME,
        cause="preempted",
        reason=f"{WINNER} of priority 10 needs the memory on attic/cuda:0",
        result=refused("the memory is promised to a higher priority", "preempted"),
        position=NOWHERE,
        gave_way_to=WINNER,
    )
    told.say(gave, 4000.2, because="cli-9")
    winner = events.InstancePlaced(
        instance_id=WINNER,
        command_id=CommandId("cli-9"),
        model=LLAMA,
        request=PlacementRequest(model_id="deepseek-r1-distill", priority=10),
        plan=FOURTH,
        position=NOWHERE,
        gave_way=(NAME,),
        asked=win,
    )
    told.say(winner, 4000.25, because="cli-9")
    registered = told.say(back, 90_000, source="agent/rig")
    replaced(told, FIRST, 90_000.4, "capacity", "rig/cuda:1 is back, and there is room", because=registered)

    drain = events.Cordoned(node_id="rig", drain=True, reason="new power supply", asked=told.who(100_000))
    drained = told.say(drain, 100_000.05, because="cli-12")
    replaced(told, FOURTH, 100_000.3, "drained", "rig is drained: new power supply", because=drained)
    asked = told.who(110_000, "nats-cli")
    replaced(told, THIRD, 110_000.2, "moved", "12.0 tokens/s in place of 8.1", because="cli-13", asked=asked)
    replaced(told, FIRST, 120_000.2, "rebalanced", "a gain of 19 %", because="cli-14")
    balance = events.FleetRebalanced(
        moved={NAME: 0.19},
        threshold=0.1,
        position=NOWHERE,
        command_id=CommandId("cli-14"),
        asked=told.who(120_000),
    )
    told.say(balance, 120_000.3, because="cli-14")
    gone = events.InstanceDeleted(
        instance_id=NAME, command_id=CommandId("cli-20"), reason="enough for today", asked=told.who(180_000)
    )
    told.say(gone, 180_000.02, because="cli-20")
    return told


def replaced(
    told: Telling, where: Placed, at: float, cause: events.ChangeCause, reason: str, *, because: str, **more: Any
) -> str:
    """Append that the instance got another plan."""
    message = events.InstanceReplaced(
        instance_id=NAME, plan=where, reason=reason, cause=cause, position=NOWHERE, **more
    )
    return told.say(message, at, because=because)
