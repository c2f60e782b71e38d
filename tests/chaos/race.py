"""Any number of placers under many commands, killed at random while nodes come and go; and the judgement afterwards.

    python -m chaos.race --commands 1000 --seed 1

plays it on a NATS server of its own. The placers are ``shardbus placer``, each a process.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from chaos.nursery import Nursery
from chaos.processes import Role, environment_with
from chaos.verdict_of_race import judge
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.live import LiveState, read_state
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.reconcile import reconcile as bring_about_streams
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.reconcile import reconcile
from shardbus_placer.watch import Watch
from shardbus_schemas import commands
from shardbus_schemas.ids import CommandId, DeviceKey, InstanceId, NodeId
from shardbus_schemas.model_profile import ModelProfile
from support.projecting import whole_stream
from support.reporting_fleet import GIB, ReportingFleet, card
from support.server_folders import server_folder
from support.waiting import until

PLACERS: Final = 4
PATIENCE_SECONDS: Final = 300.0
_MODELS: Final = (
    ModelProfile(model_id="small", layers=4, layer_bytes=GIB),
    ModelProfile(model_id="middle", layers=8, layer_bytes=2 * GIB),
    ModelProfile(model_id="large", layers=10, layer_bytes=4 * GIB),
)
_NODES: Final[Mapping[str, Sequence[tuple[str, int, float, float]]]] = {
    "attic": (("NVIDIA GeForce RTX 3090", 24, 936e9, 71.0), ("NVIDIA GeForce RTX 3090", 24, 936e9, 71.0)),
    "cellar": (("Tesla T4", 16, 320e9, 65.0), ("Tesla T4", 16, 320e9, 65.0)),
    "office": (("NVIDIA GeForce RTX 4090", 24, 1008e9, 165.0),),
    "lab": (("NVIDIA RTX A6000", 48, 768e9, 155.0), ("NVIDIA GeForce RTX 3090", 24, 936e9, 71.0)),
}
_RULES: Final = {
    # Patience is another test's matter: here all is to come to rest in the end.
    "SHARDBUS_BACK_OFF_SECONDS": "0.2",
    "SHARDBUS_LONGEST_BACK_OFF_SECONDS": "1",
    "SHARDBUS_UNSTABLE_SECONDS": "0.2",
    "SHARDBUS_UNSTABLE_AFTER": "8",
    "SHARDBUS_MOVES_PER_MINUTE": "100000",
    "SHARDBUS_ACK_WAIT_SECONDS": "2",
}
_DEADLINE_MS: Final = 30.0
_TWICE: Final = 0.15
"""Of all commands."""
_OF_A_DEVICE: Final = 0.75
"""Of all cordons; the others are of a whole node."""
_WAITS: Final = 0.2
"""Of all placements: for room."""
_DRY: Final = 0.05
_MEANT: Final = 0.9
"""Of all deletions and the like: name something that is there."""
_IN_HAND: Final = 30
"""Commands that wait at the most, so that what they name is there still."""
_BETWEEN_KILLS_SECONDS: Final = (0.2, 1.2)
_COMMANDS_PER_FAULT: Final = 40


@dataclass(frozen=True, slots=True)
class Raced:
    """A race that was run."""

    sent: int
    """Messages, those that came twice included."""
    kills: int
    faults: int
    answers: Mapping[str, int]
    by_themselves: Mapping[str, int]
    """What the placers did without a command, by its cause."""
    seconds: float
    problems: Sequence[str]


def commands_of(random: Random, count: int, state: Callable[[], FleetState]) -> Iterator[commands.Command]:
    """Yield so many commands of all kinds, each with an id; most name what is there in the state of that moment."""
    kinds = ("place", "delete", "move", "scale", "cordon", "drain", "uncordon", "rebalance")
    for number in range(count):
        command_id = CommandId(f"command-{number}")
        node = random.choice(sorted(_NODES))
        device = f"cuda:{random.randrange(len(_NODES[node]))}" if random.random() < _OF_A_DEVICE else None
        target: dict[str, Any] = {"node_id": node, "device_id": device, "command_id": command_id}
        conditions: dict[str, Any] = {"context_tokens": 0, "deadline_ms": _DEADLINE_MS, "command_id": command_id}
        match random.choices(kinds, (36, 18, 8, 6, 5, 5, 12, 2))[0]:
            case "place":
                yield commands.Place(
                    model=random.choice(_MODELS),
                    priority=random.choice((0, 0, 0, 1, 2)),
                    wait_for_capacity=random.random() < _WAITS,
                    dry_run=random.random() < _DRY,
                    **conditions,
                )
            case "delete":
                yield commands.Delete(instance_id=_one_of(state(), random), command_id=command_id)
            case "move":
                yield commands.Move(instance_id=_one_of(state(), random), away_from=(node,), command_id=command_id)
            case "scale":
                yield commands.Scale(model=random.choice(_MODELS[:2]), replicas=random.randrange(4), **conditions)
            case "cordon":
                yield commands.Cordon(**target)
            case "drain":
                yield commands.Drain(**target)
            case "rebalance":
                yield commands.Rebalance(threshold=0.01, command_id=command_id)
            case _:
                held = [one for one in state().cordons.values() if one.lifted_at is None]
                if held and random.random() < _MEANT:
                    cordon = random.choice(held)
                    target |= {"node_id": cordon.node_id, "device_id": cordon.device_id}
                yield commands.Uncordon(**target)


def _one_of(state: FleetState, random: Random) -> InstanceId:
    """Return an instance that is there, mostly."""
    there = [name for name, record in state.instances.items() if record.is_wanted]
    return random.choice(there) if there and random.random() < _MEANT else InstanceId("nothing")


@dataclass(slots=True)
class _Race:
    bus: Bus
    live: LiveState
    fleet: ReportingFleet
    placers: Sequence[Role]
    random: Random
    count: int
    asked: list[CommandId] = field(default_factory=list[CommandId])
    sent: int = 0
    kills: int = 0
    faults: int = 0
    trouble: list[str] = field(default_factory=list[str])

    async def run(self) -> None:
        """Ask for everything while faults fall, heal everything, and wait until nobody has anything to do."""
        killing = asyncio.create_task(self._kill())
        failing = asyncio.create_task(self._fail())
        try:
            await self._ask()
            await self._expect(self._all_answered, "every command to be answered")
        finally:
            for task in (killing, failing):
                task.cancel()
            await asyncio.gather(killing, failing, return_exceptions=True)
        await self._heal()
        await self._expect(self._is_at_rest, "the fleet to come to rest")
        for placer in self.placers:
            await placer.stop(within=10)

    async def _ask(self) -> None:
        for command in commands_of(self.random, self.count, lambda: self.live.state):
            assert command.command_id is not None  # each has one
            self.asked.append(command.command_id)
            await until(self._has_room, within=PATIENCE_SECONDS, what="the queue to become shorter")
            for _ in range(2 if self.random.random() < _TWICE else 1):
                await publish(self.bus, command, source="race")
                self.sent += 1

    async def _has_room(self) -> bool:
        return (await self.bus.info(COMMANDS)).messages < _IN_HAND

    async def _all_answered(self) -> bool:
        return (await self.bus.info(COMMANDS)).messages == 0

    async def _kill(self) -> None:
        """Kill one placer after the other, at any moment, and start it again."""
        while True:
            await asyncio.sleep(self.random.uniform(*_BETWEEN_KILLS_SECONDS))
            victim = self.random.choice(self.placers)
            await asyncio.to_thread(victim.kill)
            self.kills += 1
            victim.start()

    async def _fail(self) -> None:
        """Have a node leave, fall silent or lose a device now and then, and come back."""
        while True:
            due = len(self.live.state.decisions) + _COMMANDS_PER_FAULT // 2
            await until(lambda due=due: len(self.live.state.decisions) >= due, within=PATIENCE_SECONDS)
            node = NodeId(self.random.choice(sorted(_NODES)))
            lost = DeviceKey.of(node, "cuda:0")
            whole = self.random.random() < 0.5
            await (self.fleet.leave(node) if whole else self.fleet.lose(lost))
            self.faults += 1
            back = len(self.live.state.decisions) + _COMMANDS_PER_FAULT // 2
            await until(lambda back=back: len(self.live.state.decisions) >= back, within=PATIENCE_SECONDS)
            await (self.fleet.join(node) if whole else self.fleet.find_again(lost))

    async def _heal(self) -> None:
        for node in _NODES:
            await self.fleet.join(NodeId(node))
        ids = [CommandId(f"uncordon-{node}") for node in _NODES]
        for command_id, node in zip(ids, _NODES, strict=True):
            command = commands.Uncordon(node_id=NodeId(node), command_id=command_id)
            self.asked.append(command_id)
            await publish(self.bus, command, source="race")
            self.sent += 1
        await self._expect(lambda: self.live.state.decisions.keys() >= set(ids), "the nodes to be uncordoned")

    async def _is_at_rest(self) -> bool:
        """Return whether a placer that knows all would do nothing."""
        return await asyncio.to_thread(_nothing_to_do, self.live.state)

    async def _expect(self, condition: Any, what: str) -> None:
        """Wait; what does not come about is trouble, and the race is judged all the same."""
        try:
            await until(condition, within=PATIENCE_SECONDS, what=what)
        except AssertionError as error:
            self.trouble.append(str(error))


def _nothing_to_do(state: FleetState) -> bool:
    now = datetime.now(UTC)
    knowledge = Knowledge({}, Policy(), plan, rules=LifeRules())
    return not reconcile(state, fleet_of(state, now), Watch(), {}, now, knowledge).changes


async def race(nats_url: str, folder: Path, nursery: Nursery, *, count: int, seed: int, variant: str = "") -> Raced:
    """Run a race on empty streams; the placers' logs stay in ``folder``."""
    began, random = time.monotonic(), Random(seed)
    bus = await connect(nats_url, name="race")
    stop = asyncio.Event()
    live = LiveState(bus)
    placers: list[Role] = []
    try:
        await bring_about_streams(bus)
        fleet = ReportingFleet(
            bus,
            {
                NodeId(node): [card(number, *kind) for number, kind in enumerate(kinds)]
                for node, kinds in _NODES.items()
            },
        )
        await fleet.join_all()
        following = asyncio.create_task(live.run(stop))
        for number in range(PLACERS):
            variables = {**_RULES, "SHARDBUS_NATS_URL": nats_url, "SHARDBUS_PLACER_NAME": f"placer-{number}"}
            placers.append(Role(f"placer-{number}", ("placer",), folder / f"placer-{number}.log", variables, nursery))
            placers[-1].variant = variant
            placers[-1].start()
        running = _Race(bus, live, fleet, placers, random, count)
        async with fleet.reporting(0.5):
            await running.run()
        stop.set()
        await following
        messages = await whole_stream(bus, FLEET)
        verdict = judge(messages, running.asked)
        ended = await read_state(bus)
        trouble = [
            *running.trouble,
            *verdict.problems,
            *(f"{placer.name} printed a traceback" for placer in placers if "Traceback" in placer.said),
            *(end for placer in placers for end in placer.ends),
            *([] if ended.instances == verdict.state.instances else ["one fold of the stream is not another"]),
            *([] if (await bus.info(DEAD)).messages == 0 else ["there are dead letters"]),
        ]
        return Raced(
            sent=running.sent,
            kills=running.kills,
            faults=running.faults,
            answers=verdict.answers,
            by_themselves=verdict.by_themselves,
            seconds=time.monotonic() - began,
            problems=trouble,
        )
    finally:
        stop.set()
        for placer in placers:
            await placer.close()
        await bus.close()


def main() -> int:
    """Return 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m chaos.race", description=__doc__)
    parser.add_argument("--commands", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    nursery = Nursery(environment_with({}))
    try:
        with server_folder() as folder, EmbeddedNats(folder / "nats") as nats:
            raced = asyncio.run(race(nats.url, folder, nursery, count=options.commands, seed=options.seed))
            if raced.problems:
                for log in sorted(folder.glob("placer-*.log")):
                    sys.stderr.write(f"{log.name}, its end:\n{log.read_text()[-2000:]}\n")
    finally:
        with contextlib.suppress(BrokenPipeError):
            nursery.close()
    sys.stdout.write(
        f"{options.commands} commands in {raced.sent} messages, {PLACERS} placers killed {raced.kills} times, "
        f"{raced.faults} nodes or devices gone and back, in {raced.seconds:.0f} s\n"
        f"answered: {_counts(raced.answers)}\nwithout a command: {_counts(raced.by_themselves)}\n"
    )
    for problem in raced.problems:
        sys.stdout.write(f"PROBLEM: {problem}\n")
    return 1 if raced.problems else 0


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(counts).most_common())


if __name__ == "__main__":
    sys.exit(main())
