"""One round: processes are started, events flow, faults fall, everything heals, and then it is looked at."""

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chaos.faults import Faults, Notes
from chaos.plan import Plan
from chaos.processes import Process, Role
from chaos.stage import Stage
from chaos.verdict import Acknowledged, Evidence, Letter, Sample, Verdict, judge
from shardbus_eventstore.intake import examine
from shardbus_infra.bus.port import Bus, Stored, StreamInfo
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas.events import DeadLettered
from support.projecting import assert_read_model_is_the_fold
from support.waiting import until

_START_SECONDS: Final = 40
_REST_SECONDS: Final = 60
_SAMPLE_SECONDS: Final = 0.04
_KEPT_BY_RETENTION: Final = 25
_SLOWEST_BYTES_PER_SECOND: Final = 4_000

FLEET_FILE: Final = """\
nodes:
  - {node_id: s0, devices: [{device_id: "cuda:0", name: NVIDIA GeForce RTX 3090, memory_used_bytes: 412e6}]}
  - {node_id: s1, devices: [{device_id: "cuda:0", name: NVIDIA A100 80GB PCIe, memory_used_bytes: 600e6}]}
default_link: {bandwidth_bytes_per_second: 118e6, latency_seconds: 0.0004}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A round, played."""

    plan: Plan
    verdict: Verdict
    faults: Counter[str]
    """What fell, by its name; what could not be done here is counted as skipped."""
    published: int
    retries: int
    fenced: int
    """How often a projector found that another one had taken over."""
    gaps: int
    catching_up_seconds: float
    """From the heal until the read model had all that the streams held then."""
    seconds: float


async def play(stage: Stage, plan: Plan, folder: Path, *, variant: str | None = None) -> Outcome:
    """Play a round on ``stage`` and judge it; what it wrote stays in ``folder``."""
    began = time.monotonic()
    async with stage.fresh() as bus:
        game = _Round(stage, bus, plan, folder, variant)
        try:
            return await game.play(began)
        except Exception as error:  # noqa: BLE001 - one round that cannot be judged must not hide the others
            return game.broken_off(began, error)
        finally:
            await game.close()


class _Round:
    def __init__(self, stage: Stage, bus: Bus, plan: Plan, folder: Path, variant: str | None) -> None:
        self._stage = stage
        self._bus = bus
        self._plan = plan
        self._folder = folder
        self._notes = Notes()
        self._acks = folder / "acknowledged.jsonl"
        self._go = folder / "acknowledged.jsonl.go"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.txt").write_text(f"{plan}\n")
        fleet = folder / "fleet.yaml"
        fleet.write_text(FLEET_FILE)
        quick = {"SHARDBUS_LOG_LEVEL": "info", "SHARDBUS_DATA_DIR": str(folder)}
        of_projector = quick | {
            "SHARDBUS_NATS_URL": stage.nats_url("projector"),
            "SHARDBUS_POSTGRES_URL": stage.proxied_postgres_url,
            # Small, so that there is something between transactions to be killed in.
            "SHARDBUS_PROJECTOR_MAX_BATCH": "50",
            "SHARDBUS_POSTGRES_WAIT_SECONDS": "30",
        }
        of_placer = quick | {"SHARDBUS_NATS_URL": stage.nats_url("placer"), "SHARDBUS_ACK_WAIT_SECONDS": "2"}
        of_agent = quick | {
            "SHARDBUS_NATS_URL": stage.nats_url("agent"),
            "SHARDBUS_SAMPLE_INTERVAL_SECONDS": "0.2",
            "SHARDBUS_HEARTBEAT_SECONDS": "0.5",
        }
        of_agent |= {"SHARDBUS_SIMULATE": str(fleet), "SHARDBUS_SIMULATE_SEED": str(plan.seed)}
        settings = {
            "projector": ("projector", of_projector),
            "projector-2": ("projector", of_projector),
            "placer": ("placer", of_placer),
            "placer-2": ("placer", of_placer),
            "agent": ("agent", of_agent),
        }
        self._roles = {
            name: Role(name, (command,), folder / f"{name}.log", variables, stage.nursery)
            for name, (command, variables) in settings.items()
        }
        self._of_producer = ""
        if variant == "nameless":
            self._of_producer = self._roles["placer"].variant = self._roles["placer-2"].variant = variant
        of_projectors = variant or ("unlocked" if plan.unlocked else "real" if plan.deaths else "")
        for name in ("projector", "projector-2"):
            self._roles[name].variant = of_projectors
            self._roles[name].deaths = plan.deaths
        self._faults = Faults(stage, plan, self._roles, self._notes)
        self._producer: Process | None = None

    async def close(self) -> None:
        """End every process."""
        for role in self._roles.values():
            if role.process:
                role.process.send(signal.SIGCONT)
            await role.close()
        if self._producer:
            self._producer.kill()

    async def play(self, began: float) -> Outcome:
        sampling = asyncio.create_task(self._sample())
        try:
            await self._begin()
            async with asyncio.TaskGroup() as falling:
                for fault in self._plan.faults:
                    falling.create_task(self._faults.fall(fault))
            await self._stage.heal()
            catching_up = await self._come_to_rest()
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        evidence = await self._evidence()
        lines = self._lines()
        counts = next((line for line in reversed(lines) if "published" in line), {"published": 0})
        return Outcome(
            plan=self._plan,
            verdict=judge(evidence),
            faults=self._notes.faults,
            published=counts["published"],
            retries=counts.get("retries", 0),
            fenced=self._faults.fenced,
            gaps=len(evidence.gaps),
            catching_up_seconds=catching_up,
            seconds=time.monotonic() - began,
        )

    def broken_off(self, began: float, error: Exception) -> Outcome:
        """Return the outcome of a round that could not be played to its end: it has failed."""
        causes = "; ".join(map(repr, error.exceptions if isinstance(error, ExceptionGroup) else (error,)))
        return Outcome(
            plan=self._plan,
            verdict=Verdict(0, [], [], 0, [f"the round broke off: {causes}"]),
            faults=self._notes.faults,
            published=0,
            retries=0,
            fenced=self._faults.fenced,
            gaps=0,
            catching_up_seconds=0,
            seconds=time.monotonic() - began,
        )

    # --- before and after

    async def _begin(self) -> None:
        roles, plan = self._roles, self._plan
        for name in ("projector", "placer", "agent", *(("projector-2",) if plan.twins else ())):
            roles[name].start()
        self._producer = Process(
            ("produce", self._stage.nats_url("producer"), str(plan.seed), str(plan.seconds), str(self._acks)),
            self._folder / "producer.log",
            {},
            nursery=self._stage.nursery,
            variant=self._of_producer,
        )

        def ready() -> bool:
            self._require_producer()
            working = "projecting TELEMETRY" in roles["projector"].said + roles["projector-2"].said
            return working and "placer running" in roles["placer"].said and '"introduced"' in self._text()

        await until(ready, within=_START_SECONDS, what=f"the processes; their logs are in {self._folder}")
        self._go.touch()

    async def _come_to_rest(self) -> float:
        """Return the seconds it took to catch up, once nobody has anything to do any more."""
        healed = time.monotonic()
        ends = await self._stage.ends()
        for name in ("projector", "placer", "agent"):
            if not self._roles[name].wanted:
                self._roles[name].start()
        await self._notes.expect(lambda: self._projected(ends), "the read model to catch up")
        caught_up = time.monotonic() - healed
        await self._notes.expect(self._producer_is_done, "the producer to be acknowledged")
        await self._notes.expect(self._no_commands, "the commands to be answered")
        await asyncio.gather(*(self._roles[name].stop(within=10) for name in ("agent", "placer", "placer-2")))
        await self._notes.expect(self._all_projected, "the read model to have everything")
        await asyncio.gather(*(self._roles[name].stop(within=10) for name in ("projector", "projector-2")))
        await self._stage.no_sessions()
        if not await self._all_projected():
            self._notes.trouble.append("the read model had everything, and has not any more")
        return caught_up

    async def _projected(self, ends: Mapping[str, int]) -> bool:
        reached = {name: sequence for name, sequence, _ in await self._stage.checkpoints()}
        # A server that was killed may have forgotten readings since: then less is everything.
        now = await self._stage.ends()
        return all(reached.get(name, 0) >= min(end, now[name]) for name, end in ends.items() if end)

    async def _all_projected(self) -> bool:
        reached = {name: sequence for name, sequence, _ in await self._stage.checkpoints() if sequence}
        return reached == {name: end for name, end in (await self._stage.ends()).items() if end}

    async def _no_commands(self) -> bool:
        return (await self._stage.insist("COMMANDS")).messages == 0

    def _producer_is_done(self) -> bool:
        self._require_producer()
        assert self._producer is not None
        return self._producer.code is not None

    def _require_producer(self) -> None:
        assert self._producer is not None
        assert self._producer.code in {None, 0}, f"the producer failed:\n{self._producer.said}"

    async def _sample(self) -> None:
        """Write down what the checkpoints are, again and again."""
        with (self._folder / "checkpoints.jsonl").open("a") as file:
            while True:
                with contextlib.suppress(Exception):  # the server is away for as long as the plan has it
                    for name, sequence, epoch in await self._stage.checkpoints():
                        sample = Sample(name, sequence, epoch)
                        self._notes.samples.append(sample)
                        file.write(json.dumps([time.time(), name, sequence, epoch]) + "\n")
                await asyncio.sleep(_SAMPLE_SECONDS)

    # --- what is known afterwards

    def _text(self) -> str:
        return self._acks.read_text() if self._acks.exists() else ""

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text().splitlines()]

    async def _evidence(self) -> Evidence:
        fleet, letters = await self._stage.whole(FLEET), await self._stage.whole(DEAD)
        held = {stored.sequence: stored for stored in await self._stage.whole(TELEMETRY)}
        telemetry = [stored for _, stored in sorted((self._notes.copied | held).items())]
        unread = [seq for first, last in self._notes.dropped for seq in range(first, last + 1)]
        read = [stored for stored in telemetry if stored.sequence not in set(unread)]
        differences = await self._differences({FLEET: fleet, TELEMETRY: read, DEAD: letters})
        gaps = await self._stage.ask("SELECT from_sequence, to_sequence FROM shardbus.gaps ORDER BY gap_id")
        roles = self._roles.values()
        return Evidence(
            acknowledged=[
                Acknowledged(line["id"], line["lane"], line["sequence"], line["command_id"])
                for line in self._lines()
                if "lane" in line
            ],
            fleet=fleet,
            telemetry=telemetry,
            nats_was_killed=self._plan.kills_nats,
            samples=self._notes.samples,
            gaps=[(int(first), int(last)) for first, last in gaps],
            dropped=self._notes.dropped,
            refused=_refused([*fleet, *read]),
            letters=_letters(letters),
            differences=differences,
            trouble=[*self._notes.trouble, *(end for role in roles for end in role.ends), *_tracebacks(roles)],
        )

    async def _differences(self, streams: Mapping[str, Sequence[Stored]]) -> list[str]:
        try:
            await assert_read_model_is_the_fold(_Recorded(streams), self._stage.postgres_url)  # pyright: ignore[reportArgumentType] -- it reads
        except AssertionError as error:
            return [str(error).splitlines()[0] if str(error) else "past readings"]
        return []


class _Recorded:
    """Streams as they were written down."""

    def __init__(self, streams: Mapping[str, Sequence[Stored]]) -> None:
        self._streams = streams

    async def info(self, stream: str) -> StreamInfo:
        """Return where it ends."""
        messages = self._streams[stream]
        first, last = (messages[0].sequence, messages[-1].sequence) if messages else (1, 0)
        return StreamInfo(stream, datetime.now(UTC), first, last, len(messages), 0)

    async def follow(self, stream: str) -> AsyncGenerator[Sequence[Stored]]:
        """Yield all of it."""
        yield self._streams[stream]


def _refused(messages: Sequence[Stored]) -> list[Letter]:
    return [(each.stored.stream, each.stored.sequence, each.stored.recorded_at) for each in examine(messages).rejected]


def _letters(dead: Sequence[Stored]) -> list[Letter]:
    found = [receive(stored).message for stored in dead]
    return [(each.stream, each.sequence, each.recorded_at) for each in found if isinstance(each, DeadLettered)]


def _tracebacks(roles: Any) -> list[str]:
    return [f"{role.name} printed a traceback" for role in roles if "Traceback" in role.said]
