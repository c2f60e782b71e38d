"""Random commands and faults against the pure decider and reconciler: what may never be, and what comes in the end.

Safety is checked by the world at every event (``support.small_world``) and whenever it has settled; liveness is
checked once the faults stop. They are kept apart: the first tests never wait, the second never looks in between.
"""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas import commands, events
from shardbus_schemas.ids import InstanceId
from support.small_world import Device, World, knowledge_of, machine, model

GIB = 1 << 30
MODELS = (model("small", 20), model("middle", 48), model("large", 120, layers=8))
NODES = ("a", "b", "c")
DEVICES = ("a/g0", "a/g1", "b/g0", "c/g0")
nodes = st.sampled_from(NODES)
devices = st.sampled_from(DEVICES)
targets = st.sampled_from((*((node, None) for node in NODES), *(tuple(key.split("/")) for key in DEVICES)))
which = st.integers(0, 5)


class Life(RuleBasedStateMachine):
    """Everything that may be asked for, and everything that may go wrong."""

    placers = 1

    @initialize(
        reporting=st.sampled_from(("all", "none", "some")),
        rules=st.sampled_from((LifeRules(), LifeRules(lost_after_seconds=15, stale_after_seconds=15))),
    )
    def begin(self, reporting: str, rules: LifeRules) -> None:
        says = {"all": lambda _: True, "none": lambda _: False, "some": lambda name: name[-1] in "02468ace"}
        self.world = World(
            [machine("a", 100, 64), machine("b", 100, speed=800.0), machine("c", 64, speed=900.0)],
            knowledge_of(*MODELS, rules=rules),
            placers=self.placers,
            reporting=says[reporting],
        )
        self.number = 0

    def ask(self, kind: type[commands.Command], **what: Any) -> None:
        self.number += 1
        note(f"{kind.__name__} {what}")
        self.world.command(kind(command_id=f"c{self.number}", **what))

    def some(self, number: int) -> InstanceId | None:
        names = sorted(one.instance_id for one in self.world.instances())
        return names[number % len(names)] if names else None

    # What people ask for.

    @rule(
        name=st.sampled_from([one.model_id for one in MODELS]),
        priority=st.integers(0, 2),
        wait=st.booleans(),
        include=st.just(()) | st.tuples(devices),
    )
    def place(self, name: str, priority: int, wait: bool, include: tuple[str, ...]) -> None:
        self.ask(commands.Place, model_id=name, priority=priority, wait_for_capacity=wait, include=include)

    @rule(number=which)
    def delete(self, number: int) -> None:
        if (name := self.some(number)) is not None:
            self.ask(commands.Delete, instance_id=name)

    @rule(number=which, away=st.just(()) | st.tuples(devices | nodes))
    def move(self, number: int, away: tuple[str, ...]) -> None:
        if (name := self.some(number)) is not None:
            self.ask(commands.Move, instance_id=name, away_from=away)

    @rule(replicas=st.integers(0, 3), name=st.sampled_from(("small", "middle")), priority=st.integers(0, 1))
    def scale(self, replicas: int, name: str, priority: int) -> None:
        self.ask(commands.Scale, model_id=name, replicas=replicas, priority=priority)

    @rule(at=targets, kind=st.sampled_from((commands.Cordon, commands.Drain, commands.Uncordon)))
    def cordon(self, at: Any, kind: Any) -> None:
        self.ask(kind, node_id=at[0], device_id=at[1])

    @rule(threshold=st.sampled_from((0.0, 0.1, None)))
    def rebalance(self, threshold: float | None) -> None:
        self.ask(commands.Rebalance, threshold=threshold)

    @precondition(lambda self: self.number)
    @rule(data=st.data())
    def the_queue_delivers_twice(self, data: st.DataObject) -> None:
        sent = list(self.world.commands.values())
        assert self.world.answer(data.draw(st.sampled_from(sent))) is None

    # What goes wrong.

    @rule(node=nodes)
    def leave(self, node: str) -> None:
        self.world.leave(node)

    @rule(node=nodes)
    def crash(self, node: str) -> None:
        self.world.crash(node)

    @rule(node=nodes)
    def fall_silent(self, node: str) -> None:
        self.world.machines[node].is_heard = False

    @rule(node=nodes)
    def come_back(self, node: str) -> None:
        self.world.come_back(node)

    @rule(key=devices)
    def lose_device(self, key: str) -> None:
        if self.world.device(key).is_there:
            self.world.lose_device(key)

    @rule(key=devices)
    def find_device(self, key: str) -> None:
        if not self.world.device(key).is_there:
            self.world.find_device(key)

    @rule(key=devices, share=st.sampled_from((0, 0.3, 0.9)))
    def others_take(self, key: str, share: float) -> None:
        device = self.world.device(key)
        free = device.total_bytes - device.used_bytes + device.others_bytes
        device.others_bytes = int(share * free)

    @rule(key=devices)
    def throttle(self, key: str) -> None:
        device = self.world.device(key)
        device.is_throttling = not device.is_throttling

    @rule(key=devices, number=which)
    def fail(self, key: str, number: int) -> None:
        runners = sorted(self.world.device(key).runners)
        if runners:
            self.world.fail(runners[number % len(runners)], key)

    @rule(number=which)
    def a_placer_restarts(self, number: int) -> None:
        self.world.restart(number)

    # And time.

    @rule(seconds=st.sampled_from((10, 40, 90)))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule()
    def settle(self) -> None:
        self.world.settle()

    def everything_is_well_again(self) -> None:
        world = self.world
        for node in NODES:
            world.come_back(node)
        for key in DEVICES:
            device: Device = world.device(key)
            if not device.is_there:
                world.find_device(key)
            device.others_bytes, device.is_throttling = 0, False
        world.heartbeat()


class Safety(Life):
    """Never: the world itself checks."""

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check_streams()


class Liveness(Life):
    """In the end."""

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.everything_is_well_again()
        self.world.rest()
        before = self.world.counts.copy()
        self.world.pass_time(1800, step=60)
        for kind in ("InstancePlaced", "InstanceReplaced", "InstancePending", "InstanceDeleted"):
            assert self.world.counts[kind] == before[kind], "something moves although nothing happens"
        self.world.check_quiet()
        self.world.check_streams()


class Race(Life):
    """Two placers that see the same, plan the same, and append one after the other; a command is answered by both."""

    placers = 2

    @rule()
    def settle(self) -> None:
        self.world.settle_in_a_race()

    @precondition(lambda self: hasattr(self, "world"))
    @rule(name=st.sampled_from([one.model_id for one in MODELS]), priority=st.integers(0, 2))
    def both_answer(self, name: str, priority: int) -> None:
        self.number += 1
        wish = commands.Place(model_id=name, priority=priority, command_id=f"c{self.number}", wait_for_capacity=True)
        sent, seen, ledger = self.world.sent(wish), self.world.state, self.world.ledger
        self.world.answer(sent, seen, ledger)
        self.world.answer(sent, seen, ledger)  # on what it saw before the other's answer: it comes too late

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle_in_a_race()
            self.world.check_streams()


PLAY = settings(max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestSafety = Safety.TestCase
TestSafety.settings = PLAY
TestLiveness = Liveness.TestCase
TestLiveness.settings = PLAY
TestRace = Race.TestCase
TestRace.settings = settings(PLAY, max_examples=25)


@given(st.lists(st.tuples(st.floats(1, 10), st.floats(1, 10)), min_size=40, max_size=60))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_node_that_flaps_causes_no_storm(flaps: list[tuple[float, float]]) -> None:
    """What can be nowhere else loses its place a number of times that doublings of its back-off bound."""
    rules = LifeRules(unstable_seconds=0)  # so that nothing but the back-off holds it up
    world = World([machine(node, 100) for node in NODES], knowledge_of(*MODELS, rules=rules))
    for number in range(3):
        world.command(commands.Place(model_id="small", command_id=f"c{number}", include=("a",)))
    began = world.now
    for away, back in flaps:
        world.leave("a")
        world.pass_time(away, step=5)
        world.come_back("a")
        world.pass_time(back, step=5)
    windows = 1 + int((world.now - began).total_seconds() / rules.back_off_window_seconds)
    # Within a window: the first time at once, then after 5, 10, ... s, until the pauses fill the window.
    times = 2 + int(rules.back_off_window_seconds / rules.back_off_seconds).bit_length()
    displaced: Counter[str] = Counter()
    for told in world.told:
        if isinstance(told.message, events.InstancePending | events.InstanceReplaced):
            displaced[told.message.instance_id] += told.message.cause == "device_lost"
    assert max(displaced.values(), default=0) <= windows * times
    world.rest()
    world.check_quiet()


class OnTheRealPlanner(RuleBasedStateMachine):
    """Fewer rules, on plans that count links, headroom and what is moved; time never decides."""

    @initialize()
    def begin(self) -> None:
        machines = [machine("a", 24 * GIB, 16 * GIB, speed=9e11), machine("b", 24 * GIB, speed=3e11)]
        machines.append(machine("c", 16 * GIB, speed=6e11))
        models = (model("small", 4 * GIB), model("large", 30 * GIB, layers=6))
        self.world = World(machines, knowledge_of(*models, plan=plan, policy=Policy()))
        self.number = 0

    @rule(name=st.sampled_from(("small", "small", "large")), priority=st.integers(0, 1))
    def place(self, name: str, priority: int) -> None:
        self.number += 1
        self.world.command(
            commands.Place(
                model_id=name,
                priority=priority,
                command_id=f"c{self.number}",
                wait_for_capacity=True,
                deadline_ms=60_000.0,
            )
        )

    @rule(node=nodes)
    def leave(self, node: str) -> None:
        self.world.leave(node)
        self.world.settle()

    @rule(node=nodes)
    def come_back(self, node: str) -> None:
        self.world.come_back(node)
        self.world.settle()

    @rule(node=nodes, kind=st.sampled_from((commands.Drain, commands.Uncordon)))
    def drain(self, node: str, kind: Any) -> None:
        self.number += 1
        self.world.command(kind(node_id=node, command_id=f"c{self.number}"))
        self.world.settle()

    @rule(threshold=st.sampled_from((0.0, 0.1)))
    def rebalance(self, threshold: float) -> None:
        self.number += 1
        self.world.command(commands.Rebalance(threshold=threshold, command_id=f"c{self.number}"))

    @rule()
    def pass_time(self) -> None:
        self.world.pass_time(20)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            for node in NODES:
                self.world.come_back(node)
            self.world.rest()
            self.world.check_quiet()
            self.world.check_streams()


TestOnTheRealPlanner = OnTheRealPlanner.TestCase
TestOnTheRealPlanner.settings = settings(PLAY, max_examples=12, stateful_step_count=12)
