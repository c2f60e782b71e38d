"""The cluster of ``infra/cluster`` as people run it: a leader killed, one without network, all restarted in turn."""

import asyncio
from collections.abc import Sequence

import pytest
from support.cluster_at_work import all_current, everybody_at_work, leader_of
from support.compose import SERVERS, Composed
from support.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]


def beginning_at_each(cluster: Composed) -> Sequence[str]:
    urls = cluster.url.split(",")
    return [",".join([first, *(url for url in urls if url != first)]) for first in urls]


def test_whichever_container_fails_nothing_acknowledged_is_lost(nats_cluster: Composed) -> None:
    cluster = nats_cluster

    async def scenario() -> None:
        async with everybody_at_work(beginning_at_each(cluster), admin=cluster.url) as work:
            killed = cluster.containers[await leader_of(work.admin)]
            await asyncio.to_thread(killed.kill)
            await work.go_on()
            await asyncio.to_thread(killed.start)
            await until(lambda: all_current(work.admin), within=60)

            alone = await leader_of(work.admin)
            await asyncio.to_thread(cluster.disconnect, alone)
            await work.go_on()
            await asyncio.to_thread(cluster.connect, alone)
            await until(lambda: all_current(work.admin), within=60)

            for name in SERVERS:
                await asyncio.to_thread(cluster.containers[name].restart)
                await until(lambda: all_current(work.admin), within=60)
                await work.go_on()
            await work.assert_nothing_lost()

    asyncio.run(scenario())
