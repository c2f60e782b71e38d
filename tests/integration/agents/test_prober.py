"""Probers that meet on a bus: what they tell, in which order, and when they do not."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from shardbus_agents.collector import Snapshot
from shardbus_agents.probe.interfaces import Interface, Interfaces, Way
from shardbus_agents.probe.prober import Listen, Prober
from shardbus_agents.probe.schedule import Rules
from shardbus_infra.bus.memory import MemoryBus, MemoryServer
from shardbus_schemas import subjects
from shardbus_schemas.ids import BootId, NodeId
from support.readings import snapshot, state
from support.waiting import until
from typing_extensions import override

BUSY = snapshot(state(compute_utilization_percent=99.0))


class Card(Interfaces):
    """A network card that says what a test wants."""

    def __init__(self, name: str, bytes_per_second: float | None) -> None:
        super().__init__()
        self.interface = Interface(name, 1500, bytes_per_second)

    @override
    def of_address(self, local_address: str) -> Interface:
        return self.interface

    @override
    def way_to(self, host: str, port: int) -> Way | None:
        return Way("127.0.0.1", host, self.interface)


class Street:
    """Nodes on one bus, and what they told."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.told: dict[str, list[Any]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def build(self, name: str, card: Interfaces, *, boot: str = "1", host: str = "127.0.0.1", **rules: Any) -> Prober:
        told = self.told.setdefault(name, [])
        prober = Prober(
            NodeId(name),
            BootId(boot),
            MemoryBus(server=self.server),
            listen=Listen(host, 0),
            rules=Rules(**rules),
            busy_percent=50,
            tell=told.append,
            now=lambda: datetime.now(UTC),
            interfaces=card,
        )
        self.tasks.append(asyncio.create_task(prober.run()))
        return prober

    def methods(self, name: str) -> list[tuple[str, str, str]]:
        return [(each.method, each.from_node, each.to_node) for each in self.told[name]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardbus_agents.probe.schedule._FIRST_WITHIN_SECONDS", 0.01)
    monkeypatch.setattr("shardbus_agents.probe.prober._LOOK_SECONDS", 0.05)
    monkeypatch.setattr("shardbus_agents.probe.prober._OBSTACLE_SECONDS", 0.1)
    monkeypatch.setattr("shardbus_agents.probe.schedule._BUSY_SECONDS", (0.05, 0.1))


def run(scenario: Callable[[Street], Awaitable[None]]) -> None:
    async def whole() -> None:
        street = Street()
        try:
            async with asyncio.timeout(60):
                await scenario(street)
        finally:
            for task in street.tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    asyncio.run(whole())


PASSIVE = [("passive", "attic", "cellar"), ("passive", "cellar", "attic")]
PROBED = [("probe", "attic", "cellar"), ("probe", "cellar", "attic")]


def test_what_the_cards_promise_is_told_first_and_then_what_was_measured() -> None:
    async def scenario(street: Street) -> None:
        street.build("cellar", Card("en0", 125e6))
        street.build("attic", Card("eth0", 1.25e9))
        await until(lambda: street.methods("attic") == PASSIVE + PROBED, within=20)
        there, back, probed, _ = street.told["attic"]
        assert there.bandwidth_bytes_per_second == back.bandwidth_bytes_per_second == 125e6
        assert (there.interface, back.interface) == ("eth0", "en0")
        assert there.samples is None
        assert there.latency_seconds == probed.latency_seconds
        assert probed.samples >= 1
        await asyncio.sleep(0.3)
        assert street.methods("attic") == PASSIVE + PROBED, "once"
        assert street.methods("cellar") == [], "by one of the two"

    run(scenario)


def test_a_card_that_promises_nothing_leaves_it_to_the_measurement() -> None:
    async def scenario(street: Street) -> None:
        street.build("attic", Card("wlan0", None))
        street.build("cellar", Card("en0", 125e6))
        await until(lambda: street.methods("attic") == PROBED, within=20)

    run(scenario)


@pytest.mark.parametrize("who", ["attic", "cellar"])
def test_while_a_device_of_either_is_busy_only_the_promise_is_told(who: str) -> None:
    async def scenario(street: Street) -> None:
        probers = {name: street.build(name, Card("eth0", 1.25e9)) for name in ("attic", "cellar")}
        probers[who].watch(BUSY)
        await until(lambda: street.methods("attic") == PASSIVE, within=20)
        await asyncio.sleep(0.5)
        assert street.methods("attic") == PASSIVE
        probers[who].watch(Snapshot())
        await until(lambda: street.methods("attic") == PASSIVE + PROBED, within=20)

    run(scenario)


def test_a_link_is_measured_again_when_its_way_changes() -> None:
    async def scenario(street: Street) -> None:
        card = Card("eth0", 1.25e9)
        attic = street.build("attic", card)
        street.build("cellar", Card("en0", 1.25e9))
        await until(lambda: street.methods("attic") == PASSIVE + PROBED, within=20)
        # However often the way changes, the path's budget holds; a test cannot wait for that.
        await until(lambda: attic._schedule._pairs[NodeId("cellar")].is_measured)
        attic._schedule._pairs[NodeId("cellar")].not_before = 0
        card.interface = replace(card.interface, name="wlan0")
        await until(lambda: street.methods("attic") == PASSIVE + PROBED + PROBED, within=20)
        assert street.told["attic"][-2].interface == "wlan0"

    run(scenario)


def test_where_the_first_of_a_pair_does_not_get_through_the_second_does() -> None:
    async def scenario(street: Street) -> None:
        # The second's address is one where nobody answers, as behind a firewall: it listens elsewhere than it says.
        cellar = street.build("cellar", Card("en0", 125e6), grace_seconds=0.5)
        cellar._listen = Listen("127.0.0.9", 0)
        street.build("attic", Card("eth0", 1.25e9), grace_seconds=0.5)
        reversed_probe = [("probe", "cellar", "attic"), ("probe", "attic", "cellar")]
        await until(lambda: street.methods("cellar")[-2:] == reversed_probe, within=20)
        assert street.methods("attic") == []

    run(scenario)


def test_words_that_are_no_words_of_peers_do_no_harm() -> None:
    async def scenario(street: Street) -> None:
        bus = MemoryBus(server=street.server)
        street.build("attic", Card("eth0", 1.25e9))
        await until(lambda: any(each.subjects == subjects.PEERS for each in street.server.hearings))
        for payload in (b"", b"{}", b"\xff", b'{"node_id": "x"}', b"[" * 1000):
            await bus.tell(subjects.PEERS, payload)
        street.build("cellar", Card("en0", 125e6))
        await until(lambda: street.methods("attic") == PASSIVE + PROBED, within=20)

    run(scenario)


def test_three_nodes_measure_every_pair_once() -> None:
    async def scenario(street: Street) -> None:
        names = ("a", "b", "c")
        for name in names:
            street.build(name, Card("eth0", 1.25e9))

        def probed() -> list[tuple[str, str]]:
            told = [each for name in names for each in street.methods(name)]
            return sorted((source, target) for method, source, target in told if method == "probe")

        every = sorted((source, target) for source in names for target in names if source != target)
        await until(lambda: probed() == every, within=40)

    run(scenario)
