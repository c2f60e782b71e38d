"""One look at this host, with no server anywhere: ``shardbus agent --once``."""

import asyncio
import logging
import platform
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from shardbus_schemas.node_report import NodeReport, ReportedInterface

from shardbus_agents import bootstrap
from shardbus_agents.collector import Sampled, merge
from shardbus_agents.probe.interfaces import Interfaces
from shardbus_agents.report import Asked, node_report
from shardbus_agents.sampler import BackendSampler
from shardbus_agents.settings import AgentSettings

OPENING_SECONDS: Final = 1.9
"""What the backends may take to open, all at once; the whole look is to take three seconds at most."""
_BETWEEN_SECONDS: Final = 0.4
"""Utilisation is the mean since the last look: this is the shortest that says something."""
_MAC_BETWEEN_SECONDS: Final = 0.8
"""macmon says nothing before its first interval."""
_SECOND_LOOK_SECONDS: Final = 0.5


async def look(
    samplers: Sequence[BackendSampler], settings: AgentSettings, *, interfaces: Interfaces | None = None
) -> NodeReport:
    """Return what this node is and does; a backend that hangs or fails is in it with the reason. Raises nothing."""
    began = time.monotonic()
    try:
        with _quiet():
            await _sample(samplers, OPENING_SECONDS)
            await asyncio.sleep(_MAC_BETWEEN_SECONDS if platform.system() == "Darwin" else _BETWEEN_SECONDS)
            taken_at = datetime.now(UTC)
            sampled = await _sample(samplers, _SECOND_LOOK_SECONDS)
    finally:
        await asyncio.gather(*(sampler.close(patience_seconds=0.2) for sampler in samplers))
    return node_report(
        bootstrap.identity(settings),
        merge(sampled),
        [Asked(sampler.name, sampler.absence, said.devices) for sampler, said in zip(samplers, sampled, strict=True)],
        taken_at=taken_at,
        seconds=time.monotonic() - began,
        python=platform.python_version(),
        interfaces=_interfaces(interfaces or Interfaces()),
    )


def look_once(settings: AgentSettings) -> NodeReport:
    """Return the report of this host with all its backends."""
    return asyncio.run(look(bootstrap.real_samplers(settings), settings))


def _interfaces(interfaces: Interfaces) -> list[ReportedInterface]:
    return [
        ReportedInterface(
            name=interface.name or "?",
            speed_bytes_per_second=interface.bytes_per_second,
            is_up=True,
            addresses=addresses,
        )
        for interface, addresses in interfaces.connected()
    ]


async def _sample(samplers: Sequence[BackendSampler], patience_seconds: float) -> list[Sampled]:
    at = datetime.now(UTC)
    return await asyncio.gather(*(sampler.sample(at, patience_seconds=patience_seconds) for sampler in samplers))


@contextmanager
def _quiet() -> Generator[None]:
    """Keep what the agent would log out of the way: the report says it all, in words."""
    logger = logging.getLogger("shardbus_agents")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
