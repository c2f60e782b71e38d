"""Follows the decisions of the placers, for the runners of a played fleet."""

import asyncio
import contextlib
import logging
from typing import Final

from shardbus_infra.bus.port import Bus, BusError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas.registry import UnreadableMessageError
from shardbus_schemas.subjects import INSTANCES_ALL

from shardbus_agents.runners.wanted import Wanted

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 2.0


class Ledger:
    """What the placers want. ``wanted`` is ``None`` until the ledger is read to where it ended when it was opened."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.wanted: Wanted | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until ``stop`` is set."""
        following = asyncio.create_task(self._follow())
        try:
            await stop.wait()
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def _follow(self) -> None:
        """Read the ledger from its beginning, and again where it cannot be followed any more."""
        complaint = ""
        while True:
            try:
                await self._read()
            except BusError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    _log.warning("the played runners do not hear what is placed, will go on trying: %s", error)
            else:
                return  # the bus was closed
            await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self) -> None:
        last = await self._bus.last(FLEET, INSTANCES_ALL)
        end = 0 if last is None else last.sequence
        wanted = Wanted()
        if end == 0:
            self.wanted = wanted
        async with contextlib.aclosing(self._bus.follow(FLEET, subjects=(INSTANCES_ALL,))) as batches:
            async for batch in batches:
                for stored in batch:
                    try:
                        wanted.take(receive(stored).message, stored.sequence)
                    except UnreadableMessageError as error:
                        _log.warning("%s %d is not understood and left out: %s", FLEET, stored.sequence, error)
                    if stored.sequence >= end:
                        self.wanted = wanted
