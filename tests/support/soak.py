"""Hours of a fleet in minutes: dozens of nodes that come and go, and people who want models on them."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from statistics import fmean, median
from typing import Any

from shardbus_placer.knowledge import Planner
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas import commands
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.registry import Received
from support.quick_planner import BARE, quick_plan
from support.small_world import Device, Machine, World, knowledge_of, model

GIB = 1 << 30
MODELS = (
    model("small", 6 * GIB),
    model("middle", 20 * GIB),
    model("large", 40 * GIB, layers=8),
    model("huge", 120 * GIB, layers=12),
)
_KINDS = ((16, 320e9), (24, 936e9), (24, 1008e9), (48, 960e9), (80, 2039e9))
"""GiB and bytes per second."""
_STEP_SECONDS = 20
"""Two heartbeats: of three that may be missed, one is always told."""
_PER_HOUR = {
    "place": 26,
    "delete": 24,
    "move": 6,
    "scale": 8,
    "drain": 5,
    "cordon": 3,
    "rebalance": 2,
    "deliver_twice": 10,
    "leave": 10,
    "crash": 6,
    "fall_silent": 8,
    "flap": 1,
    "lose_device": 6,
    "throttle": 8,
    "others_take": 10,
    "fail": 8,
    "break_device": 2,
    "restart": 4,
}
"""How often each happens, on the mean."""


@dataclass(order=True)
class _Later:
    """Something that ends by itself."""

    at: datetime
    number: int
    what: str
    name: str


class Soak:
    """A day in ``world``, drawn from a seed. ``racing``: all placers plan before any of them appends."""

    def __init__(self, seed: int, *, nodes: int = 14, real: bool = False, racing: bool = False) -> None:
        self._random = Random(seed)
        self._racing = racing
        planner: Planner = plan if real else quick_plan
        policy = Policy() if real else BARE
        machines = [self._machine(f"n{number:02}", number) for number in range(nodes)]
        self.world = World(
            machines,
            knowledge_of(*MODELS, rules=LifeRules(), plan=planner, policy=policy),
            placers=2,
            reporting=lambda name: hash_of(name) % 4 != 0,
            loading_seconds=60,
            again=not real,
            linked=real,
        )
        self.asked: Counter[str] = Counter()
        self._deadline = {"deadline_ms": 30_000.0} if real else {}
        self._later: list[_Later] = []
        self._number = 0

    def run(self, hours: float) -> None:
        """Play, then let the faults end, and wait until nothing is due any more."""
        world = self.world
        end = world.now + timedelta(hours=hours)
        share = _STEP_SECONDS / 3600
        kinds = list(_PER_HOUR)
        weights = list(_PER_HOUR.values())
        while world.now < end:
            world.pass_time(_STEP_SECONDS, step=_STEP_SECONDS, settle=False)
            for later in sorted(one for one in self._later if one.at <= world.now):
                self._later.remove(later)
                getattr(self, f"_end_{later.what}")(later.name)
            expected = share * sum(weights)
            for _ in range(int(expected) + (self._random.random() < expected % 1)):
                what = self._random.choices(kinds, weights)[0]
                self.asked[what] += 1
                getattr(self, f"_{what}")()
            if self._racing:
                world.settle_in_a_race()
            else:
                world.settle()
        for later in sorted(self._later):
            getattr(self, f"_end_{later.what}")(later.name)
        self._later.clear()
        for name, one in world.machines.items():
            world.come_back(name)
            for device in one.devices.values():
                key = f"{name}/{device.device_id}"
                if not device.is_there:
                    world.find_device(key)
                device.others_bytes, device.is_throttling, device.is_broken = 0, False, False
        world.heartbeat()
        world.rest(within=24 * 3600)

    def story(self) -> str:
        """Return what happened, in figures."""
        world = self.world
        moves = {
            name[17:]: count for name, count in sorted(world.counts.items()) if name.startswith("InstanceReplaced ")
        }
        waits = {
            name[16:]: count for name, count in sorted(world.counts.items()) if name.startswith("InstancePending ")
        }
        waited = world.pending_seconds or [0.0]
        there = list(world.instances())
        lines = [
            f"{len(world.told)} messages, {sum(self.asked.values())} faults and wishes:",
            f"  {dict(sorted(self.asked.items()))}",
            "{InstancePlaced} placed, {InstanceDeleted} deleted, {PlacementRejected} refused".format_map(world.counts),
            f"moved {sum(moves.values())}: {moves}",
            f"  {world.moved_bytes / GIB:.0f} GiB fetched",
            f"without a place {sum(waits.values())}: {waits}",
            f"  for {median(waited):.0f} s (median), {fmean(waited):.0f} s (mean), {max(waited):.0f} s (most)",
            f"at the end {len(there)} wanted, {sum(one.status == 'placed' for one in there)} placed",
        ]
        return "\n".join(lines)

    def _machine(self, name: str, number: int) -> Machine:
        size, speed = self._random.choice(_KINDS)
        count = self._random.choice((1, 1, 2, 4))
        devices = {f"g{at}": Device(f"g{at}", size * GIB, speed) for at in range(count)}
        return Machine(name, devices, {"rack": f"r{number % 5}"})

    # What people want.

    def _ask(self, kind: type[commands.Command], **what: Any) -> None:
        self._number += 1
        self.world.command(kind(command_id=f"c{self._number}", **what))

    def _instance(self) -> InstanceId | None:
        names = sorted(one.instance_id for one in self.world.instances())
        return self._random.choice(names) if names else None

    def _place(self) -> None:
        one = self._random.choices(MODELS, (4, 4, 2, 1))[0]
        priority, waits = self._random.choices((0, 1, 5), (6, 3, 1))[0], self._random.random() < 0.7
        self._ask(commands.Place, model_id=one.model_id, priority=priority, wait_for_capacity=waits, **self._deadline)

    def _delete(self) -> None:
        if (name := self._instance()) is not None:
            self._ask(commands.Delete, instance_id=name)

    def _move(self) -> None:
        if (name := self._instance()) is not None:
            away = (self._node(),) if self._random.random() < 0.5 else ()
            self._ask(commands.Move, instance_id=name, away_from=away)

    def _scale(self) -> None:
        name = self._random.choice(("small", "middle"))
        count = self._random.randrange(6)
        self._ask(commands.Scale, model_id=name, replicas=count, spread_by="rack", **self._deadline)

    def _drain(self) -> None:
        node = self._node()
        self._ask(commands.Drain, node_id=node, reason="maintenance")
        self._in_minutes(2, 40, "drain", node)

    def _cordon(self) -> None:
        node = self._node()
        self._ask(commands.Cordon, node_id=node)
        self._in_minutes(2, 40, "drain", node)

    def _end_drain(self, node: str) -> None:
        self._ask(commands.Uncordon, node_id=node)

    def _rebalance(self) -> None:
        self._ask(commands.Rebalance)

    def _deliver_twice(self) -> None:
        if self.world.commands:
            received: Received[Any] = self._random.choice(list(self.world.commands.values())[-200:])
            assert self.world.answer(received) is None

    # What goes wrong, and for how long.

    def _node(self) -> str:
        return self._random.choice(sorted(self.world.machines))

    def _device(self) -> str:
        node = self._node()
        return f"{node}/{self._random.choice(sorted(self.world.machines[node].devices))}"

    def _in_minutes(self, least: float, most: float, what: str, name: str) -> None:
        self._number += 1
        at = self.world.now + timedelta(minutes=self._random.uniform(least, most))
        self._later.append(_Later(at, self._number, what, name))

    def _leave(self) -> None:
        node = self._node()
        self.world.leave(node)
        self._in_minutes(0.2, 40, "away", node)

    def _crash(self) -> None:
        node = self._node()
        self.world.crash(node)
        self._in_minutes(0.2, 40, "away", node)

    def _fall_silent(self) -> None:
        node = self._node()
        self.world.machines[node].is_heard = False
        self._in_minutes(0.1, 5, "away", node)

    def _end_away(self, node: str) -> None:
        self.world.come_back(node)

    def _flap(self) -> None:
        node = self._node()
        for number in range(20):
            self._in_minutes(number * 0.5, number * 0.5 + 0.2, "up", node)
            self._in_minutes(number * 0.5 + 0.2, number * 0.5 + 0.4, "away", node)

    def _end_up(self, node: str) -> None:
        self.world.leave(node, "flaps")

    def _lose_device(self) -> None:
        key = self._device()
        if self.world.device(key).is_there:
            self.world.lose_device(key)
            self._in_minutes(0.5, 30, "lost", key)

    def _end_lost(self, key: str) -> None:
        if not self.world.device(key).is_there:
            self.world.find_device(key)

    def _throttle(self) -> None:
        key = self._device()
        self.world.device(key).is_throttling = True
        self._in_minutes(1, 20, "hot", key)

    def _end_hot(self, key: str) -> None:
        self.world.device(key).is_throttling = False

    def _others_take(self) -> None:
        key = self._device()
        device = self.world.device(key)
        free = device.total_bytes - device.used_bytes + device.others_bytes
        device.others_bytes = int(self._random.random() * free)
        self._in_minutes(1, 60, "full", key)

    def _end_full(self, key: str) -> None:
        self.world.device(key).others_bytes = 0

    def _fail(self) -> None:
        running = [(key, name) for key, there in self.world.running().items() for name in there]
        if running:
            key, name = self._random.choice(sorted(running))
            self.world.fail(name, key)

    def _break_device(self) -> None:
        key = self._device()
        self.world.device(key).is_broken = True
        self._in_minutes(5, 60, "broken", key)

    def _end_broken(self, key: str) -> None:
        self.world.device(key).is_broken = False

    def _restart(self) -> None:
        self.world.restart(self._random.randrange(2))


def hash_of(name: str) -> int:
    """Return a number that is the same in every process."""
    return sum(map(ord, name))
