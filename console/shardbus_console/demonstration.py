"""What ``shardbus demo`` shows once the servers run."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import nats
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET
from shardbus_infra.files.fleet_file import read_fleet
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import events, subjects
from shardbus_schemas.fleet import Fleet

from shardbus_console.ask import Answer, wait_for_answer
from shardbus_console.commands.fleet import print_devices, read_fleet_of, read_plan
from shardbus_console.connection import open_bus
from shardbus_console.exits import CommandError, Exit
from shardbus_console.output import data, heading, messages
from shardbus_console.placement_view import print_result
from shardbus_console.running import Part, run_until_stopped

FoundT = TypeVar("FoundT")

_TOO_LARGE = "deepseek-r1"
_DEADLINE_SECONDS = 30.0


async def show(parts: Mapping[str, Part], settings: CommonSettings, fleet_file: Path, model: str) -> None:
    """Run ``parts``, wait for the fleet, place ``model``, and ask for what cannot fit."""
    heading("2. The processes: two agents (this machine, and a simulated fleet), a projector, a placer")
    async with _running(parts, settings), open_bus(settings) as bus:
        fleet = await _wait_for_fleet(settings, fleet_file)
        print_devices(fleet)
        heading(f"3. A placement command, published as a plain NATS message: {model}")
        # Thirteen devices with links that differ: a proof may take a second, and here it is welcome to.
        await _place(bus, settings, {"model_id": model, "deadline_ms": 5000})
        heading(f"4. A request that cannot fit: {_TOO_LARGE}")
        await _place(bus, settings, {"model_id": _TOO_LARGE})


@asynccontextmanager
async def _running(parts: Mapping[str, Part], settings: CommonSettings) -> AsyncGenerator[None]:
    """Run ``parts`` meanwhile, and let their errors out."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_until_stopped(parts, settings, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def _wait_for_fleet(settings: CommonSettings, fleet_file: Path) -> Fleet:
    """Return the fleet as Postgres has it, once every device of the fleet file has reported."""
    expected = {key for key, _, _ in read_fleet(fleet_file).devices()}

    def arrived(fleet: Fleet) -> bool:
        here = {key for key, _, device in fleet.devices() if device.last_update is not None}
        return expected < here  # and this machine's own

    with messages.status("waiting for the agents' first readings to reach Postgres"):
        return await _until(lambda: read_fleet_of(settings), arrived, "the agents' first readings")


async def _place(bus: Bus, settings: CommonSettings, payload: Mapping[str, object]) -> None:
    """Publish ``payload`` as any NATS client would, with no header at all, and show what comes of it."""
    subject, text = subjects.command("place"), json.dumps(payload)
    fleet_start = (await bus.info(FLEET)).last_sequence + 1
    dead_start = (await bus.info(DEAD)).last_sequence + 1
    data.print(f"nats pub {subject} '{text}'", style="bold cyan", markup=False, soft_wrap=True)
    client = await nats.connect(settings.nats_url)  # pyright: ignore[reportUnknownMemberType] -- partly untyped
    try:
        stored = await client.jetstream().publish(subject, text.encode())  # pyright: ignore[reportUnknownMemberType] -- likewise
    finally:
        await client.close()
    answer = await wait_for_answer(
        bus,
        # A message without headers is named after its place in the stream.
        lambda command_id: command_id.startswith(f"{COMMANDS}:{stored.seq}@"),
        command_sequence=stored.seq,
        fleet_start=fleet_start,
        dead_start=dead_start,
        timeout_seconds=_DEADLINE_SECONDS,
    )
    await _show_answer(answer, settings)


async def _show_answer(answer: Answer, settings: CommonSettings) -> None:
    match answer:
        case events.InstancePlaced(instance_id=instance_id):
            plan = await _until(lambda: read_plan(settings, instance_id), lambda plan: plan is not None, "the instance")
            assert plan is not None
            print_result(plan, heading=f"read back from Postgres: instance {instance_id}", left_out=False)
        case events.PlacementRejected(result=result):
            print_result(result)
        case _:
            raise CommandError(f"the placer answered with {type(answer).__name__}", Exit.FAILED)


async def _until(read: Callable[[], FoundT], good: Callable[[FoundT], bool], what: str) -> FoundT:
    """Return what ``read`` finds as soon as it is ``good``; raise CommandError when the deadline passes."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        try:
            found = await asyncio.to_thread(read)
        except CommandError:
            if time.monotonic() > deadline:
                raise  # until then the projector may still be making its tables
        else:
            if good(found):
                return found
            if time.monotonic() > deadline:
                raise CommandError(f"{what} did not reach Postgres within {_DEADLINE_SECONDS:g} s", Exit.FAILED)
        await asyncio.sleep(0.1)
