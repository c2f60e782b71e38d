"""A node with what runs beside it: its claim on the node id, and the measuring of its links."""

import asyncio
import logging
from typing import TYPE_CHECKING

from shardbus_schemas.events import Event

from shardbus_agents.node import Node
from shardbus_agents.presence import Presence

if TYPE_CHECKING:
    from shardbus_agents.probe.prober import Prober

_log = logging.getLogger(__name__)


class Member:
    """One node of the fleet, whole."""

    def __init__(self, node: Node, presence: Presence, prober: "Prober | None" = None) -> None:
        self._node = node
        self._presence = presence
        self._prober = prober

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set.

        Raises DuplicateNodeError, within an ExceptionGroup, if another agent has this node id. Then nothing more is
        said: the other one speaks.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._presence.run())]
                if self._prober is not None:
                    beside.append(tasks.create_task(self._measure(self._prober)))
                await self._node.run(stop)
                for task in beside:
                    task.cancel()
        finally:
            if self._prober is not None:
                self._prober.close()

    def tell(self, message: Event) -> None:
        """Publish what another part of the agent found out."""
        self._node.tell(message)

    async def _measure(self, prober: "Prober") -> None:
        await self._presence.admitted.wait()
        try:
            await prober.run()
        except Exception as error:  # noqa: BLE001 - whatever befalls the measuring of links, the devices are still told
            _log.warning("links are not measured any more, until the agent is started again: %r", error, exc_info=error)
