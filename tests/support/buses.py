"""The buses that the contract suites are run on."""

from collections.abc import Awaitable, Callable

from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.nats import NatsBus

SomeBus = MemoryBus | NatsBus
OpenBus = Callable[[], Awaitable[SomeBus]]
RunScenario = Callable[[Callable[[OpenBus], Awaitable[None]]], None]
