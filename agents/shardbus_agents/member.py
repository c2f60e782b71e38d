"""A node with what runs beside it: its claim on the node id, the measuring of its links, the ear for its runners."""

import asyncio
import logging
from typing import TYPE_CHECKING

from shardbus_schemas.events import Event

from shardbus_agents.node import Node
from shardbus_agents.presence import Presence

if TYPE_CHECKING:
    from shardbus_agents.probe.prober import Prober
    from shardbus_agents.runners.server import RunnerServer

_log = logging.getLogger(__name__)


class Member:
    """One node of the fleet, whole."""

    def __init__(
        self,
        node: Node,
        presence: Presence,
        prober: "Prober | None" = None,
        runners: "RunnerServer | None" = None,
    ) -> None:
        self._node = node
        self._presence = presence
        self._prober = prober
        self._runners = runners

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
                if self._runners is not None:
                    beside.append(tasks.create_task(self._hear_runners(self._runners)))
                await self._node.run(stop)
                for task in beside:
                    task.cancel()
        finally:
            if self._prober is not None:
                self._prober.close()
            if self._runners is not None:
                self._runners.close()

    def tell(self, message: Event) -> None:
        """Publish what another part of the agent found out."""
        self._node.tell(message)

    async def _measure(self, prober: "Prober") -> None:
        await self._presence.admitted.wait()
        try:
            await prober.run()
        except Exception as error:  # noqa: BLE001 - whatever befalls the measuring of links, the devices are still told
            _log.warning("links are not measured any more, until the agent is started again: %r", error, exc_info=error)

    async def _hear_runners(self, runners: "RunnerServer") -> None:
        await self._presence.admitted.wait()
        try:
            await runners.run()
        except Exception as error:  # noqa: BLE001 - whatever befalls the runners' socket, the devices are still told
            _log.warning("no runner is heard any more, until the agent is started again: %r", error, exc_info=error)
