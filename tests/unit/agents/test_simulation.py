"""The lives of played nodes, on a clock that runs a thousand times as fast."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from unittest import mock

import pytest
from shardbus_agents.agent import Identity
from shardbus_agents.backends.protocol import Backend
from shardbus_agents.played_fleet import played_nodes
from shardbus_agents.settings import AgentSettings
from shardbus_agents.simulation import SimulationClock
from shardbus_agents.timeline import Life
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.events import Event, GPUBandwidthMeasured
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.scenario import Scenario
from support.readings import START
from support.scenarios import scenario, step
from support.waiting import until

CARD = FleetDevice(device_id="cuda:0", name="NVIDIA GeForce RTX 3090")
FAST = LinkFigures(bandwidth_bytes_per_second=1e9, latency_seconds=0.001)


def fleet(*names: str, **what: Any) -> Fleet:
    return Fleet(nodes=tuple(FleetNode(node_id=name, devices=(CARD,)) for name in names), **what)


class Told:
    """What becomes of each node: ``join``, ``leave`` or ``gone``, and the links that it tells."""

    def __init__(self) -> None:
        self.lives: list[tuple[str, str]] = []
        self.boots: list[str] = []
        self.links: list[GPUBandwidthMeasured] = []

    def begin(self, identity: Identity, backend: Backend, runners: object) -> "Fake":
        self.boots.append(identity.boot_id)
        return Fake(identity.node_id, self)


class Fake:
    def __init__(self, name: str, told: Told) -> None:
        self._name = name
        self._told = told

    async def run(self, stop: asyncio.Event) -> None:
        self._told.lives.append((self._name, "join"))
        try:
            await stop.wait()
            self._told.lives.append((self._name, "leave"))
        except asyncio.CancelledError:
            self._told.lives.append((self._name, "gone"))
            raise

    def tell(self, message: Event) -> None:
        assert isinstance(message, GPUBandwidthMeasured)
        self._told.links.append(message)


def play(of: Fleet, what: Scenario, happened: Callable[[Told], object], **settings: Any) -> Told:
    """Play until something happened, then stop."""
    told = Told()

    async def playing() -> None:
        stop = asyncio.Event()
        nodes = played_nodes(
            of, what, AgentSettings(sample_interval_seconds=0.02, **settings), told.begin, now=lambda: START
        )
        running: Sequence[Awaitable[None]] = [asyncio.create_task(node.run(stop)) for node in nodes]
        await until(lambda: happened(told))
        stop.set()
        await asyncio.gather(*running)

    asyncio.run(playing())
    return told


def test_a_node_vanishes_comes_back_leaves_and_comes_back_each_time_in_a_new_boot() -> None:
    what = scenario(step(50, "vanish", lasts=50), step(150, "leave", lasts=50), time_scale=1000)
    told = play(fleet("a"), what, lambda told: len(told.lives) == 5)
    assert told.lives == [("a", each) for each in ("join", "gone", "join", "leave", "join", "leave")]
    assert len(set(told.boots)) == 3


def test_others_live_on_meanwhile() -> None:
    what = scenario(step(10, "vanish", on=("a",)), time_scale=1000)
    told = play(fleet("a", "b"), what, lambda told: ("a", "gone") in told.lives)
    assert [each for name, each in told.lives if name == "b"] == ["join", "leave"]
    assert [each for name, each in told.lives if name == "a"] == ["join", "gone"]


def test_a_node_that_is_away_from_the_beginning_joins_late() -> None:
    what = scenario(step(0, "leave", on=("a",), lasts=30), time_scale=1000)
    told = play(fleet("a", "b"), what, lambda told: len(told.lives) == 2)
    assert told.lives[:2] == [("b", "join"), ("a", "join")]


def test_links_are_told_at_the_start_when_they_change_and_again_after_a_while() -> None:
    of = fleet("a", "b", links=(FleetLink(**{"from": "a", "to": "b"}, **FAST.model_dump()),))
    what = scenario(step(50, "link", on=("a>b",), bandwidth_factor=0.1, latency_factor=3, lasts=100), time_scale=1000)
    told = play(of, what, lambda told: len(told.links) >= 5, link_interval_seconds=0.4)
    figures = [(link.bandwidth_bytes_per_second, link.latency_seconds) for link in told.links]
    assert figures[:3] == [(1e9, 0.001), (pytest.approx(1e8), pytest.approx(0.003)), (1e9, 0.001)]
    assert set(figures[3:]) == {(1e9, 0.001)}
    assert {(link.from_node, link.to_node, link.method) for link in told.links} == {("a", "b", "simulated")}


def test_a_default_link_joins_all_pairs_and_may_get_worse() -> None:
    what = scenario(step(20, "link", on=("a<>*",), latency_seconds=1.0), time_scale=1000)
    told = play(fleet("a", "b", "c", default_link=FAST), what, lambda told: len(told.links) >= 10)
    assert len({(link.from_node, link.to_node) for link in told.links}) == 6
    worse = {(link.from_node, link.to_node) for link in told.links if link.latency_seconds == 1}
    assert worse == {("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")}


def test_an_agent_that_fails_ends_the_play() -> None:
    class Broken(Fake):
        async def run(self, stop: asyncio.Event) -> None:
            raise RuntimeError("broken")

    async def playing() -> None:
        told = Told()
        what = scenario(step(1000, "vanish"))
        (node, _) = played_nodes(
            fleet("a"), what, AgentSettings(), lambda identity, *_: Broken(identity.node_id, told), now=lambda: START
        )
        await asyncio.wait_for(node.run(asyncio.Event()), 5)

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(playing())


def on_a_clock_of_mine(work: Callable[[Callable[[float], None]], Any]) -> Any:
    """Run ``work`` on a loop whose time is what it says; it must not wait."""

    async def run() -> Any:
        with mock.patch.object(asyncio.get_running_loop(), "time", return_value=1000.0) as clock:
            return work(lambda seconds: setattr(clock, "return_value", 1000.0 + seconds))

    return asyncio.run(run())


def test_ticks_of_many_nodes_are_spread_over_the_interval_and_of_few_hardly() -> None:
    def turns(nodes: int) -> list[float]:
        clock = SimulationClock(time_scale=1, interval_seconds=2, nodes=nodes)
        return [clock.turn(place) for place in range(nodes)]

    many, few = on_a_clock_of_mine(lambda _: (turns(1000), turns(10)))
    assert [many[0], many[500], many[999]] == pytest.approx([0, 1, 1.998])
    assert few[9] == pytest.approx(0.09)


def test_the_scenario_begins_when_all_are_there_and_ticks_count_whole_intervals() -> None:
    def play(at: Callable[[float], None]) -> None:
        clock = SimulationClock(time_scale=10, interval_seconds=2, nodes=1000)
        assert clock.now() == 0
        tick = clock.ticks(Life(0, 1000, says_goodbye=False), place=500)
        at(1)
        assert (clock.now(), tick()) == (0, 0)
        at(3.1)  # a tick that is a little late
        assert tick() == 10
        assert clock.now() == pytest.approx(11)
        assert clock.seconds_until(21) == pytest.approx(1)
        returned = clock.ticks(Life(70, 1000, says_goodbye=False), place=500)
        at(9.02)
        assert returned() == 70
        at(11)
        assert returned() == 90

    on_a_clock_of_mine(play)


def test_very_many_links_are_told_bit_by_bit_and_all_of_them() -> None:
    many = fleet(*(f"n{n}" for n in range(60)), default_link=FAST)
    first: list[int] = []

    def all_told(told: Told) -> bool:
        first.append(len(told.links))
        return len({(link.from_node, link.to_node) for link in told.links}) == 60 * 59

    play(many, Scenario(), all_told, link_interval_seconds=1)
    assert min(count for count in first if count) <= 60 * 10
