"""What goes wrong in a round, done."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from chaos.plan import Fault, Plan
from chaos.processes import Role
from chaos.stage import Stage
from chaos.verdict import Sample
from shardbus_eventstore.checkpoint import Gap
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import TELEMETRY
from support.waiting import until

_PATIENCE_SECONDS: Final = 60
_KEPT_BY_RETENTION: Final = 25
_SLOWEST_BYTES_PER_SECOND: Final = 4_000


@dataclass(slots=True)
class Notes:
    """What the harness saw and did."""

    faults: Counter[str] = field(default_factory=Counter[str])
    samples: list[Sample] = field(default_factory=list[Sample])
    copied: dict[int, Stored] = field(default_factory=dict[int, Stored])
    """Messages of ``TELEMETRY`` from before retention came."""
    dropped: list[Gap] = field(default_factory=list[Gap])
    trouble: list[str] = field(default_factory=list[str])

    async def expect(self, condition: Callable[[], object] | Callable[[], Awaitable[object]], what: str) -> None:
        """Wait; what does not come about is trouble, and the round goes on to be judged."""
        try:
            await until(condition, within=_PATIENCE_SECONDS, what=what)
        except AssertionError as error:
            self.trouble.append(str(error))


class Faults:
    """Has faults fall on a stage and on who plays there."""

    def __init__(self, stage: Stage, plan: Plan, roles: dict[str, Role], notes: Notes) -> None:
        self._stage = stage
        self._plan = plan
        self._roles = roles
        self._notes = notes
        self._turns = {fault.victim: asyncio.Lock() for fault in plan.faults}

    @property
    def fenced(self) -> int:
        """How often a projector found that another one had taken over."""
        said = self._roles["projector"].said + self._roles["projector-2"].said
        return said.count("this one wrote nothing since")

    async def fall(self, fault: Fault) -> None:
        """Wait for its time, let it fall, and return when it is over."""
        await asyncio.sleep(fault.at)
        async with self._turns[fault.victim]:  # on a slow machine the one before may take longer than planned
            await self._fall(fault)

    async def _fall(self, fault: Fault) -> None:
        if fault.kind == "full-disk" and self._stage.disk is None:
            self._notes.faults[f"{fault.name} (skipped: no disk can be mounted here)"] += 1
            return
        self._notes.faults[fault.name] += 1
        if fault.is_of_a_link:
            await self._disturb(fault)
        elif fault.kind == "zombie":
            await self._make_zombie(fault)
        elif fault.kind == "retention":
            await self._overrun(fault)
        elif fault.target in self._roles:
            self._roles[fault.target].kill()
            await asyncio.sleep(fault.seconds)
            self._roles[fault.target].start()
        else:
            await self._take_server_away(fault)

    async def _disturb(self, fault: Fault) -> None:
        link = self._stage.links[fault.target]
        match fault.kind:
            case "cut":
                link.cut_at = fault.share
            case "half-close":
                link.half_close("up" if fault.share < 0.5 else "down")
            case "black-hole":
                link.passing.clear()
            case "deaf":
                link.swallowed = "down"
            case "delay":
                link.delay_seconds = 0.02 + 0.1 * fault.share
            case _:
                link.bytes_per_second = _SLOWEST_BYTES_PER_SECOND * (1 + 9 * fault.share)
        await asyncio.sleep(fault.seconds)
        if fault.kind in {"cut", "half-close"} or (fault.kind == "black-hole" and fault.share < 0.5):
            link.cut()  # whatever is left of it; a black hole may also just end
        link.heal()

    async def _take_server_away(self, fault: Fault) -> None:
        server = self._stage.nats if fault.target == "nats" else self._stage.postgres
        match fault.kind:
            case "kill":
                await asyncio.to_thread(server.kill)
            case "stop":
                await self._stage.stop_immediately()
            case "freeze":
                assert server.pid is not None
                frozen = server.pid
                _signal(frozen, signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                _signal(frozen, signal.SIGCONT)
                return
            case _:
                disk = self._stage.disk
                assert disk is not None
                await asyncio.to_thread(disk.fill)
                await asyncio.sleep(fault.seconds)
                disk.clear()
                await asyncio.to_thread(server.start)  # one that cannot write its log ends itself
                return
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(server.start)

    async def _make_zombie(self, fault: Fault) -> None:
        """Stop a process in the middle of what it does, have another one take over, and let it go on."""
        first, second = self._roles[fault.target], self._roles[f"{fault.target}-2"]
        first.wanted = False
        if first.process:
            first.process.send(signal.SIGSTOP)
        if fault.target == "projector" and not self._plan.unlocked:
            # With its lock it holds the others up until Postgres, which hears nothing of it, ends its session.
            await self._stage.no_sessions(end_them=True)
        second.start()
        await asyncio.sleep(fault.seconds)
        if fault.target == "projector":
            with contextlib.suppress(AssertionError):
                await until(lambda: "projecting TELEMETRY" in second.said, within=5)
        fenced = self.fenced
        if first.process:
            first.process.send(signal.SIGCONT)
        if fault.target == "projector" and self._plan.unlocked:
            # Nothing but the fence is between them now: one of the two has to meet it at its next batch.
            await self._notes.expect(lambda: self.fenced > fenced, "one of two projectors to be fenced")
        await asyncio.sleep(0.3 + fault.share)
        first.kill()
        self._roles[fault.target], self._roles[f"{fault.target}-2"] = second, first

    async def _overrun(self, fault: Fault) -> None:
        """Have retention drop what a projector that is dead has not read."""
        role, stage, notes = self._roles["projector"], self._stage, self._notes
        role.kill()
        stage.links["postgres"].cut()  # what it sent and nobody executed yet never arrives
        await stage.no_sessions()
        await asyncio.sleep(fault.seconds)
        await stage.insist(TELEMETRY)
        notes.copied |= {stored.sequence: stored for stored in await stage.whole(TELEMETRY)}
        position = next((sequence for name, sequence, _ in await self._stage.checkpoints() if name == TELEMETRY), 0)
        await stage.keep_newest(TELEMETRY, _KEPT_BY_RETENTION)
        info = await stage.insist(TELEMETRY)
        if info.first_sequence > position + 1:
            notes.dropped.append((position + 1, info.first_sequence - 1))
        role.start()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
