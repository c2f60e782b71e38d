"""Each contract is run on every adapter."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from shardbus_infra.bus.memory import MemoryBus, MemoryServer
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.reconcile import reconcile
from support.buses import OpenBus, RunScenario, SomeBus


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.connected)])
def run(request: pytest.FixtureRequest) -> RunScenario:
    """Runs a scenario that may open any number of connections to the same streams; they are closed at the end."""
    opened: list[SomeBus] = []
    if request.param == "memory":
        server = MemoryServer()

        async def open_bus() -> SomeBus:
            opened.append(MemoryBus(server=server))
            return opened[-1]
    else:
        url: str = request.getfixturevalue("nats_url")

        async def open_bus() -> SomeBus:
            bus = await connect(url, name="contract")
            opened.append(bus)
            await reconcile(bus)
            return bus

    async def whole(scenario: Callable[[OpenBus], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(30):
                await scenario(open_bus)
        finally:
            for bus in opened:
                await bus.close()

    return lambda scenario: asyncio.run(whole(scenario))
