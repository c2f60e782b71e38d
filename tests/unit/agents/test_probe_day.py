"""A day of a fleet, in virtual time: what measuring costs its links, and that no node is in two measurements."""

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from shardbus_agents.collector import Snapshot
from shardbus_agents.probe.budget import SHARE
from shardbus_agents.probe.schedule import Rules, Schedule
from shardbus_agents.probe.turn import Turn
from shardbus_agents.probe.wire import MOST_BURSTS, MOST_BYTES, MOST_SECONDS
from shardbus_schemas.ids import NodeId
from support.readings import snapshot, state

DAY = 86_400.0
Later = Callable[[float, str, NodeId, NodeId], None]


@dataclass
class Fleet:
    """Real schedules and turns; only the clock and the cable are made up."""

    capacities: list[float]
    rules: Rules
    seed: int = 1
    busy: set[NodeId] = field(default_factory=set[NodeId])

    def __post_init__(self) -> None:
        self.now = 0.0
        chance = random.Random(self.seed)
        names = [NodeId(f"n{number:02}") for number in range(len(self.capacities))]
        self.capacity = dict(zip(names, self.capacities, strict=True))
        self.turns = {name: Turn(busy_percent=50, clock=lambda: self.now) for name in names}
        self.schedules = {name: Schedule(name, self.rules, random.Random(chance.random())) for name in names}
        self.bytes: dict[NodeId, float] = defaultdict(float)
        self.measured: dict[tuple[NodeId, NodeId], list[float]] = defaultdict(list)
        self.by_the_first: list[bool] = []
        self.running: set[NodeId] = set()
        for name, one in self.schedules.items():
            self.turns[name].promise(self.capacity[name])
            for other in names:
                if other != name:
                    one.meet(other, 0)

    def cost(self, a: NodeId, b: NodeId) -> tuple[float, float]:
        """Return the bytes in each direction, and the seconds: all three bursts, as if they never agreed.

        What a burst hands over at its end still has to be carried.
        """
        rate = min(self.capacity[a], self.capacity[b])
        count = MOST_BURSTS * min(MOST_BYTES, rate * MOST_SECONDS + 64_000)
        return count, 2 * count / rate + 0.1

    def run(self, until: float) -> None:
        events: list[tuple[float, int, str, NodeId, NodeId]] = []
        count = 0

        def later(at: float, what: str, a: NodeId, b: NodeId) -> None:
            nonlocal count
            count += 1
            heapq.heappush(events, (at, count, what, a, b))

        for name in self.schedules:
            later(0, "look", name, name)
        while events and events[0][0] <= until:
            self.now, _, what, a, b = heapq.heappop(events)
            if what == "look":
                self._look(a, later)
            else:
                self._end(a, b)
                later(self.now, "look", a, a)

    def _look(self, name: NodeId, later: Later) -> None:
        one, own = self.schedules[name], self.turns[name]
        if own.obstacle() is not None:
            later(self.now + max(own.wait_seconds(), 10), "look", name, name)
            return
        peer = one.next(self.now)
        if peer is None:
            wait = one.wait_seconds(self.now)
            later(self.now + max(wait or 60, 1e-3), "look", name, name)
            return
        # As Prober does: the own obstacle first, then the own turn, then the other's turn and obstacle.
        other = self.turns[peer]
        if not own.take():
            one.refused(peer, self.now)
        elif not other.take():
            own.give_back()
            one.refused(peer, self.now)
        elif other.obstacle() is not None:
            other.give_back()
            own.give_back()
            one.refused(peer, self.now, other.wait_seconds())
        else:
            assert not {name, peer} & self.running, "a node in two measurements"
            assert not {name, peer} & self.busy, "a busy node was measured"
            self.running |= {name, peer}
            later(self.now + self.cost(name, peer)[1], "end", name, peer)
            return
        later(self.now, "look", name, name)

    def _end(self, a: NodeId, b: NodeId) -> None:
        count, _ = self.cost(a, b)
        rate = min(self.capacity[a], self.capacity[b])
        for name, peer in ((a, b), (b, a)):
            self.bytes[name] += count
            self.turns[name].learn(sent=rate, received=rate)
            seconds = self.turns[name].spend(int(count), int(count))
            self.schedules[name].measured(peer, self.now, seconds)
            self.turns[name].give_back()
        self.running -= {a, b}
        self.measured[min(a, b), max(a, b)].append(self.now)
        self.by_the_first.append(a < b)


@pytest.mark.parametrize("capacity", [1.25e6, 12.5e6, 125e6, 1.25e9])
def test_a_day_of_fifty_nodes_costs_no_link_more_than_its_share(capacity: float) -> None:
    fleet = Fleet([capacity] * 50, Rules())
    fleet.run(DAY)
    shares = [count / (capacity * DAY) for count in fleet.bytes.values()]
    assert max(shares) <= SHARE
    assert len(fleet.measured) == 50 * 49 / 2, "every pair was measured"
    ages = [later - earlier for times in fleet.measured.values() for earlier, later in pairwise(times)]
    assert min(ages) >= 3600


def test_in_a_fleet_as_people_own_them_the_first_of_each_pair_measures_it_once_an_hour() -> None:
    fleet = Fleet([125e6] * 5, Rules())
    fleet.run(DAY)
    assert all(fleet.by_the_first)
    assert len(fleet.measured) == 10
    for times in fleet.measured.values():
        assert times[0] < 10
        ages = [later - earlier for earlier, later in pairwise(times)]
        assert min(ages) >= 3600
        assert max(ages) <= 3600 * 1.2 + 60


def test_links_of_different_speeds_each_keep_to_their_own_share() -> None:
    capacities = [random.Random(7).choice([1.25e6, 12.5e6, 125e6]) for _ in range(50)]
    fleet = Fleet(capacities, Rules())
    fleet.run(DAY)
    for name, count in fleet.bytes.items():
        assert count / (fleet.capacity[name] * DAY) <= SHARE, name
    assert len(fleet.measured) == 50 * 49 / 2


def test_a_short_ttl_is_paid_from_the_same_budget() -> None:
    fleet = Fleet([125e6] * 10, Rules(ttl_seconds=1))
    fleet.run(DAY)
    shares = [count / (125e6 * DAY) for count in fleet.bytes.values()]
    assert 0.5 * SHARE < max(shares) <= SHARE


def test_a_node_that_computes_is_left_alone_and_measured_when_it_rests() -> None:
    fleet = Fleet([125e6] * 10, Rules())
    busy = NodeId("n03")
    fleet.busy.add(busy)
    fleet.turns[busy].watch(snapshot(state(compute_utilization_percent=97.0)))
    fleet.run(7200)
    assert len(fleet.measured) == 9 * 8 / 2
    fleet.busy.clear()
    fleet.turns[busy].watch(Snapshot())
    fleet.run(4 * 3600)
    assert len(fleet.measured) == 10 * 9 / 2
