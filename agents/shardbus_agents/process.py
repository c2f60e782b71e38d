"""The agent as a process: this host's node, or all nodes of a fleet file that is played, until it is told to stop."""

import asyncio
from datetime import UTC, datetime

from shardbus_infra.bus.port import Bus

from shardbus_agents import bootstrap
from shardbus_agents.presence import DuplicateNodeError
from shardbus_agents.settings import AgentSettings


async def run(bus: Bus, settings: AgentSettings, stop: asyncio.Event) -> None:
    """Report until ``stop`` is set; every node then says that it leaves.

    Raises FileError for a bad fleet file, InfraError where the probe server cannot listen, DuplicateNodeError if
    another agent speaks for a node. The streams must exist. While the bus is away nothing is raised: see ``outbox``.
    """
    nodes = bootstrap.nodes(bus, settings, now=lambda: datetime.now(UTC))
    try:
        async with asyncio.TaskGroup() as tasks:
            for node in nodes:
                tasks.create_task(node.run(stop))
    except BaseExceptionGroup as group:
        refused = _first(group.subgroup(DuplicateNodeError))
        if refused is None:
            raise
        raise refused from None


def _first(group: BaseExceptionGroup[DuplicateNodeError] | None) -> DuplicateNodeError | None:
    if group is None:
        return None
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
