"""Devices that read what a test says."""

import asyncio
from datetime import datetime

from shardbus_agents.collector import Sampled
from shardbus_agents.sampler import Sampler
from support.readings import facts, state
from typing_extensions import override


class Scripted(Sampler):
    """Answers what the test says, when the test lets it."""

    def __init__(self) -> None:
        self.now = Sampled((facts(),), (state(),))
        self.lets = asyncio.Event()
        self.lets.set()

    @override
    async def sample(self, at: datetime, *, patience_seconds: float) -> Sampled:
        await self.lets.wait()
        return self.now

    @override
    async def close(self, *, patience_seconds: float) -> None:
        return
