"""Running the processes of shardbus: one, or all in one."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Bus, BusUnreachableError
from shardbus_infra.bus.reconcile import StreamAdministration, reconcile
from shardbus_infra.bus.streams import StreamSpec, declared
from shardbus_infra.observability import configure, configure_logging
from shardbus_infra.settings import CommonSettings, hide_passwords

from shardbus_console.exits import needs

Part = Callable[[Bus, asyncio.Event], Awaitable[None]]
"""One process' ``run``, with its settings bound: it works until the event is set."""

_ELECTION_PAUSES_SECONDS: Final = (0.5, 1.0)
"""Between tries that take 5 s each: an election takes 4 to 9 s."""


def serve(parts: Mapping[str, Part], settings: CommonSettings, say: Callable[[str], None]) -> None:
    """Run ``parts`` until a signal, and ``say`` when they work."""

    async def run() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await run_until_stopped(parts, settings, stop, ready=ready)

    async def ready() -> None:
        say(f"{', '.join(parts)} running on {hide_passwords(settings.nats_url)}; Ctrl-C stops")

    asyncio.run(run())


async def run_until_stopped(
    parts: Mapping[str, Part],
    settings: CommonSettings,
    stop: asyncio.Event,
    *,
    ready: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run ``parts`` on one event loop until ``stop`` is set or one of them fails; then stop all of them cleanly.

    Each part has its own connection to the bus, as it would in a process of its own.
    """
    name = "+".join(parts)
    configure_logging(settings, process=name)
    shutdown = configure(settings, process=name)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutdown)
        buses: dict[str, Bus] = {}
        for key in parts:
            bus = await connect(settings.nats_url, name=key)
            stack.push_async_callback(bus.close)
            if not buses:
                await _bring_about_streams(bus, settings)
            buses[key] = bus
        tasks = [asyncio.create_task(_call(part, buses[key], stop), name=key) for key, part in parts.items()]
        stopping = asyncio.create_task(stop.wait())
        try:
            if ready is not None:
                await ready()
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            stopping.cancel()
        for result in results:
            if isinstance(result, BaseException):
                raise result


def wanted_streams(settings: CommonSettings) -> Sequence[StreamSpec]:
    """Return the streams as these settings want them; what is not set stays as it is on the server."""
    hours = settings.telemetry_keep_hours
    return declared(
        telemetry_max_age=None if hours is None else timedelta(hours=hours),
        telemetry_max_bytes=settings.telemetry_keep_bytes,
        replicas=settings.stream_replicas,
    )


async def _bring_about_streams(bus: StreamAdministration, settings: CommonSettings) -> None:
    """Bring about the streams; an election in the middle of it is waited for."""
    for pause in (*_ELECTION_PAUSES_SECONDS, None):
        try:
            await reconcile(bus, wanted_streams(settings))
        except BusUnreachableError:
            if pause is None:
                raise
            await asyncio.sleep(pause)
        else:
            return


async def _call(part: Part, bus: Bus, stop: asyncio.Event) -> None:
    await part(bus, stop)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGINT and SIGTERM. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()

    def begin(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, begin, number)


def agent_part(settings: CommonSettings) -> Part:
    """Return the agent of this node, or of a simulated fleet."""
    with needs("agent"):
        from shardbus_agents.process import run
        from shardbus_agents.settings import AgentSettings
    assert isinstance(settings, AgentSettings)
    return lambda bus, stop: run(bus, settings, stop)


def projector_part(settings: CommonSettings) -> Part:
    """Return the projector."""
    with needs("projector"):
        from shardbus_eventstore.projector import run
        from shardbus_eventstore.settings import ProjectorSettings
    assert isinstance(settings, ProjectorSettings)
    return lambda bus, stop: run(bus, settings, stop)


def placer_part(settings: CommonSettings) -> Part:
    """Return the placer, with the catalogue, the standard policy and the planner of this version."""
    with needs("placer"):
        from shardbus_placer.knowledge import Knowledge
        from shardbus_placer.models.catalogue import catalogue
        from shardbus_placer.planner import plan
        from shardbus_placer.policy import Policy
        from shardbus_placer.process import run
        from shardbus_placer.settings import PlacerSettings
        from shardbus_placer.solver_pulp import warm_up
    assert isinstance(settings, PlacerSettings)
    warm_up()  # now, not within the first command's deadline
    knowledge = Knowledge(catalogue(), Policy(), plan, rules=settings)
    return lambda bus, stop: run(bus, settings, stop, knowledge)
