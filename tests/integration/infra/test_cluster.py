"""Three servers as one cluster, each a process of its own: whichever fails, what was acknowledged stays."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.reconcile import StreamDriftError, reconcile
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, SNAPSHOTS, TELEMETRY, declared
from shardbus_infra.embedded.cluster import EmbeddedCluster
from shardbus_infra.embedded.nats import EmbeddedNats
from support.cluster_at_work import all_current, everybody_at_work, leader_of
from support.route_cuts import CuttableCluster
from support.waiting import until

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def cluster(folder_for_servers: Path) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(folder_for_servers) as running:
        yield running


@pytest.fixture
def cuttable(folder_for_servers: Path) -> Iterator[CuttableCluster]:
    with CuttableCluster(folder_for_servers) as running:
        yield running


def beginning_at_each(cluster: EmbeddedCluster) -> Sequence[str]:
    """Return the members' addresses, a different one first each time."""
    urls = [member.url for member in cluster.members]
    return [",".join([first, *(url for url in urls if url != first)]) for first in urls]


async def leading(bus: NatsBus, cluster: EmbeddedCluster) -> EmbeddedNats:
    name = await leader_of(bus)
    return next(member for member in cluster.members if member.name == name)


def test_a_killed_leader_and_a_restart_of_all_in_turn_cost_a_pause_and_nothing_else(cluster: EmbeddedCluster) -> None:
    async def scenario() -> None:
        async with everybody_at_work(beginning_at_each(cluster), admin=cluster.url) as work:
            leader = await leading(work.admin, cluster)
            await asyncio.to_thread(leader.kill)
            await work.go_on()
            await asyncio.to_thread(leader.start)
            for member in cluster.members:
                await until(lambda: all_current(work.admin), within=60)
                await asyncio.to_thread(member.stop)
                await asyncio.to_thread(member.start)
                await work.go_on()
            await work.assert_nothing_lost()

    asyncio.run(scenario())


def test_a_leader_that_is_cut_off_loses_its_clients_to_the_others(cuttable: CuttableCluster) -> None:
    async def scenario() -> None:
        async with everybody_at_work(beginning_at_each(cuttable), admin=cuttable.url) as work:
            cuttable.cut_off(await leading(work.admin, cuttable))
            await work.go_on()
            cuttable.mend()
            await work.assert_nothing_lost()

    asyncio.run(scenario())


def test_streams_of_one_server_are_copied_to_three_but_for_telemetry(cluster: EmbeddedCluster) -> None:
    async def scenario(url: str) -> None:
        bus = await connect(url, name="test", timeout_seconds=10)
        try:
            await reconcile(bus)
            with pytest.raises(StreamDriftError, match=r"TELEMETRY exists with persist_mode 'async'.*copied to others"):
                await reconcile(bus, declared(replicas=3))
            await bus.delete_stream(TELEMETRY)
            done = await reconcile(bus, declared(replicas=3, telemetry_max_age=timedelta(hours=1)))
            changed = "changed num_replicas 1 instead of 3"
            assert done == [
                f"{TELEMETRY}: created",
                *(f"{name}: {changed}" for name in (FLEET, COMMANDS, DEAD, SNAPSHOTS)),
            ]
            # Who was told nothing leaves all of it.
            assert [line.endswith("as declared") for line in await reconcile(bus)] == [True] * 5
            config = await bus.stream_config(TELEMETRY)
            assert config is not None
            assert (config["num_replicas"], config["max_age"]) == (3, 3_600_000_000_000)
            await until(lambda: all_current(bus), within=30)
        finally:
            await bus.close()

    asyncio.run(scenario(cluster.url))
