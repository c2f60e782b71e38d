"""Any scenario: what is played is a pure function of time, and what agents say of it folds without a rest."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_agents.agent import Agent, Identity, Pace
from shardbus_agents.backends.player import Player
from shardbus_agents.backends.simulated import Script, SimulatedBackend
from shardbus_agents.cast import Cast
from shardbus_agents.collector import Sampled, merge
from shardbus_agents.timeline import Life, active, lives
from shardbus_schemas.events import Event
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetNode
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.scenario import HangStep, LoseStep, NodeStep, Scenario
from shardbus_schemas.telemetry import DeviceGPUState
from support.histories import START, History
from support.readings import after
from support.scenarios import step

UNTIL = 240
CARDS = tuple(
    FleetDevice(
        device_id=f"cuda:{n}", name="NVIDIA GeForce RTX 3090", battery_percent=60.0, is_plugged_in=n == 0, health="ok"
    )
    for n in range(2)
)
FLEET = Fleet(nodes=tuple(FleetNode(node_id=name, devices=CARDS) for name in ("a", "b")))
DEVICES = st.sampled_from([("*",), ("a",), ("a/cuda:0",), ("*/cuda:1",)])
NODES = st.sampled_from([("*",), ("a",)])
TARGET = st.floats(0, 100) | st.tuples(st.floats(0, 100), st.floats(0, 100))
MOMENTS = st.integers(0, UNTIL) | st.floats(0, UNTIL)


@st.composite
def steps(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["load", "throttle", "lose", "fault", "hang", "vanish", "leave", "unplug", "plug"]))
    what: dict[str, Any] = {"on": draw(NODES if kind in {"vanish", "leave", "unplug", "plug"} else DEVICES)}
    over = 0.0
    match kind:
        case "load":
            what |= {"utilization_percent": draw(TARGET), "memory_percent": draw(st.none() | TARGET)}
        case "throttle":
            what["reasons"] = draw(st.sampled_from([("software_thermal",), ("power_brake",), ("hardware_thermal",)]))
        case "fault":
            what |= {"code": draw(st.integers(0, 100)), "is_critical": draw(st.booleans())}
        case _:
            pass
    if kind in {"load", "throttle"}:
        over = what["over"] = draw(st.sampled_from([0.0, 5.0, 30.0]))
    if kind != "fault":
        what["lasts"] = draw(st.none() | st.floats(0.5, 90))
    lasts = what.get("lasts", 0.0)
    if lasts is not None and draw(st.booleans()):
        what["repeat_every"] = lasts + over + draw(st.floats(0.5, 60))
    return step(draw(MOMENTS), kind, **what)


scenarios = st.lists(steps(), max_size=6).map(lambda some: Scenario(steps=tuple(some)))


@given(scenarios, st.lists(MOMENTS, min_size=1, max_size=5), st.integers())
def test_a_state_is_valid_and_the_same_whenever_it_is_asked(what: Scenario, moments: list[float], seed: int) -> None:
    node = FLEET.nodes[0]
    own = Cast(what, FLEET).devices.get(node.node_id, {})
    for device in node.devices:
        playing = Player(seed, node, device, own.get(device.device_id, ()))
        states = {t: playing.state(t, START) for t in moments}
        for t, state in states.items():
            assert DeviceGPUState.model_validate(state.model_dump()) == state
            assert playing.state(t, START) == state
            assert Player(seed, node, device, own.get(device.device_id, ())).state(t, START) == state


@given(scenarios, st.integers(0, 100))
def test_whatever_does_not_act_at_the_beginning_leaves_the_files_readings(what: Scenario, seed: int) -> None:
    later = what.model_copy(update={"steps": tuple(each for each in what.steps if each.at > 0)})
    node = FLEET.nodes[0]
    own = Cast(later, FLEET).devices.get(node.node_id, {})
    for device in node.devices:
        playing = Player(seed, node, device, own.get(device.device_id, ())).state(0, START)
        assert playing == Player(seed, node, device).state(0, START)


def said(what: Scenario) -> Iterator[tuple[float, int, Event]]:
    """Yield all that the fleet says until UNTIL: when, in which order of a moment, and what."""
    cast = Cast(what, FLEET)
    for place, node in enumerate(FLEET.nodes):
        seen: set[Any] = set()
        for number, life in enumerate(lives_until(cast.nodes.get(node.node_id, ()), UNTIL)):
            t = life.start
            pace = Pace(heartbeat_seconds=10)
            agent = Agent(Identity(node.node_id, f"boot-{number}"), pace)
            clock = [t]
            script = Script(cast.devices.get(node.node_id, {}), lambda clock=clock: clock[0], life.start, seen=seen)
            backend = SimulatedBackend(node, seed=1, script=script)
            yield t, place, agent.join(moment(t)).message
            while t < min(life.end, UNTIL):
                clock[0] = t
                readings = backend.sample(moment(t))
                snapshot = merge([Sampled(backend.devices(), readings)])
                for announcement in agent.observe(snapshot, moment(t), t):
                    yield t, place, announcement.message
                t += 2
            if life.end <= UNTIL and life.says_goodbye:
                yield life.end, place, agent.leave(moment(life.end)).message


def lives_until(own: Sequence[NodeStep], t: float) -> list[Life]:
    return list(takewhile(lambda life: life.start <= t, lives(own)))


def moment(t: float) -> datetime:
    return after(t)


@settings(deadline=None)  # some scenarios say much
@given(scenarios)
def test_what_is_said_of_a_scenario_folds_with_nothing_ignored_or_rejected(what: Scenario) -> None:
    history = History()
    # A node's own messages stay in their order; those of several nodes come by their time.
    for t, _, message in sorted(said(what), key=lambda each: each[:2]):
        examined = history.add(message, seconds=t).examined
        assert (examined.rejected, examined.skipped) == ((), ())
    assert not any(history.state.ignored.values())
    assert_the_fold_knows_who_is_lost(what, history)


def assert_the_fold_knows_who_is_lost(what: Scenario, history: History) -> None:
    """Of a node that is there at the end, the fold has those devices as lost that were so at its last tick."""
    cast = Cast(what, FLEET)
    for node in FLEET.nodes:
        for life in lives_until(cast.nodes.get(node.node_id, ()), UNTIL):
            if not life.start < UNTIL < life.end:
                continue
            last = life.start + 2 * ((UNTIL - life.start - 1e-9) // 2)
            for device in node.devices:
                own = cast.devices.get(node.node_id, {}).get(device.device_id, ())
                record = history.state.devices.get(DeviceKey.of(node.node_id, device.device_id))
                if active([each for each in own if isinstance(each, LoseStep)], last):
                    assert record is None or record.lost_at is not None
                elif not active([each for each in own if isinstance(each, HangStep)], last):
                    assert record is not None
                    assert record.lost_at is None
