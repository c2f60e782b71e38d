"""One agent for each node id: who comes second does not start.

An agent asks on its node's subject before it says anything else. Where nobody listens, the bus says so at once. The
one that runs answers, and the one that asked stops. Two that start together may both hear nothing: so each claims the
id as soon as it listens itself, and again now and then (a network that was cut may have let two in). Of two that meet
so, the one with the earlier boot id goes on; it says so again, and the other stops.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from shardbus_infra.bus.port import Bus, BusError, BusUnreachableError, Heard, NoAnswerError, NoRespondersError
from shardbus_infra.errors import InfraError
from shardbus_schemas import subjects
from shardbus_schemas.presence import AgentPresent

_log = logging.getLogger(__name__)

CLAIM_SECONDS: Final = 30.0
"""How often a running agent says that the id is its own."""

_ANSWER_SECONDS: Final = 2.0
"""How long somebody who seems to listen may take. He may have lost power a moment ago."""
_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 5.0


class DuplicateNodeError(InfraError):
    """Another agent speaks for this node id."""

    def __init__(self, node_id: str, other: AgentPresent | None) -> None:
        who = "another agent, which this version does not understand, speaks"
        if other is not None:
            host = f" on host {other.hostname}" if other.hostname else ""
            process = f" (process {other.process_id})" if other.process_id else ""
            who = f"an agent{host}{process} speaks since {other.started_at:%Y-%m-%d %H:%M:%S} UTC"
        super().__init__(
            f"{who} for the node id {node_id!r}, so this one stops: stop the other one, or give this one a name of its "
            "own with --node-id or SHARDBUS_NODE_ID"
        )
        self.other: AgentPresent | None = other


class Presence:
    """One agent's claim on its node id. Nothing may be published before ``admitted`` is set."""

    def __init__(self, word: AgentPresent, bus: Bus, *, claim_seconds: float = CLAIM_SECONDS) -> None:
        self.admitted: asyncio.Event = asyncio.Event()
        self._word = word
        self._bus = bus
        self._subject = subjects.agent(word.node_id)
        self._claim_seconds = claim_seconds
        self.contested: Callable[[], None] = lambda: None
        """Called when another agent got in for a moment, and was told to stop: what it said is to be put right."""
        self._warned = False

    async def run(self) -> None:
        """Ask, then answer those who ask, until cancelled; raises DuplicateNodeError."""
        await self._ask()
        async with self._bus.listen(self._subject, max_waiting=100) as words:
            self.admitted.set()
            claiming = asyncio.create_task(self._claim_now_and_then())
            try:
                async for heard in words:
                    await self._hear(heard)
            finally:
                claiming.cancel()

    async def _ask(self) -> None:
        pause = _PAUSE_SECONDS
        while True:
            try:
                answer = await self._bus.request(self._subject, self._word.write(), timeout_seconds=_ANSWER_SECONDS)
            except NoRespondersError:
                return
            except BusUnreachableError as error:
                if pause == _PAUSE_SECONDS:
                    _log.warning(
                        "%s: cannot ask whether the node id is free, will go on trying: %s", self._word.node_id, error
                    )
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            except NoAnswerError as error:
                _log.warning("%s: %s; taken for dead", self._word.node_id, error)
                return
            except BusError as error:
                _log.warning("%s: nobody can be asked whether the node id is taken: %s", self._word.node_id, error)
                return
            else:
                other = AgentPresent.read(answer)
                if other is None or other.boot_id != self._word.boot_id:
                    raise DuplicateNodeError(self._word.node_id, other)
                return

    async def _claim_now_and_then(self) -> None:
        while True:
            await self._tell(self._subject)
            await asyncio.sleep(self._claim_seconds)

    async def _hear(self, heard: Heard) -> None:
        other = AgentPresent.read(heard.payload)
        if other is None or other.boot_id == self._word.boot_id:
            return
        if heard.reply is not None:
            await self._tell(heard.reply)
        elif other.boot_id < self._word.boot_id:
            raise DuplicateNodeError(self._word.node_id, other)
        else:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "%s: a second agent, on host %s, claimed this node id and is told to stop",
                    self._word.node_id,
                    other.hostname or "?",
                )
            await self._tell(self._subject)
            self.contested()

    async def _tell(self, subject: str) -> None:
        try:
            await self._bus.tell(subject, self._word.write())
        except BusError as error:
            _log.debug("%s: %s", self._word.node_id, error)
