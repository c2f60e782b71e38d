"""All backends of a node are opened side by side: one that hangs, or fails, takes nobody else's time or devices."""

import asyncio
import threading
import time
from datetime import datetime

from shardbus_agents.backends.host import HostBackend
from shardbus_agents.backends.protocol import Backend, BackendUnavailableError, Reading
from shardbus_agents.bootstrap import real_samplers
from shardbus_agents.once import look
from shardbus_agents.sampler import ThreadedSampler
from shardbus_agents.settings import AgentSettings
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.node_report import ReportedBackend
from support.readings import NODE, facts, state


class Steady:
    """A backend with one device that works."""

    name = "steady"

    def sample(self, at: datetime) -> tuple[Reading, ...]:
        return (state("card", last_update=at, compute_utilization_percent=5.0),)

    def devices(self) -> tuple[DeviceFacts, ...]:
        return (facts("card"),)

    def close(self) -> None:
        pass


class Stalling(Steady):
    """A backend whose driver hangs at the second look."""

    def __init__(self, forever: threading.Event) -> None:
        self._looks = 0
        self._forever = forever

    def sample(self, at: datetime) -> tuple[Reading, ...]:
        self._looks += 1
        if self._looks > 1:
            self._forever.wait(30)
        return super().sample(at)


def test_a_node_reports_at_once_what_works_and_why_the_rest_does_not() -> None:
    forever = threading.Event()

    def hang() -> Backend:
        forever.wait(30)
        raise BackendUnavailableError("too late")

    def crash() -> Backend:
        raise KeyError("libamd_smi.so")

    def refuse() -> Backend:
        raise BackendUnavailableError("there is no such driver")

    samplers = [
        ThreadedSampler("hanging", hang),
        ThreadedSampler("crashing", crash),
        ThreadedSampler("absent", refuse),
        ThreadedSampler("psutil", lambda: HostBackend(NODE)),
        ThreadedSampler("steady", Steady),
    ]
    began = time.monotonic()
    report = asyncio.run(look(samplers, AgentSettings(node_id=NODE)))
    took = time.monotonic() - began
    forever.set()
    assert took < 3
    assert {device.facts.device_id for device in report.devices} == {"cpu", "card"}
    assert all(device.state is not None for device in report.devices)
    cpu = next(device for device in report.devices if device.facts.device_id == "cpu")
    assert cpu.state is not None
    assert cpu.state.compute_utilization_percent is not None
    backends = {backend.name: backend for backend in report.backends}
    assert backends["hanging"] == ReportedBackend(
        name="hanging", is_available=False, reason="it hangs while it is opened"
    )
    assert backends["absent"].reason == "there is no such driver"
    assert backends["crashing"].reason == "the backend crashing failed: KeyError('libamd_smi.so')"
    assert backends["psutil"].devices == ("cpu",)
    assert backends["steady"].is_available


def test_a_device_whose_driver_hangs_is_in_the_report_with_the_problem() -> None:
    forever = threading.Event()
    report = asyncio.run(look([ThreadedSampler("steady", lambda: Stalling(forever))], AgentSettings(node_id=NODE)))
    forever.set()
    (device,) = report.devices
    assert device.facts == facts("card")
    assert device.state is None
    assert device.problem == "the driver behind steady hangs: no answer within 0.5 s"


def test_all_real_backends_of_this_host_are_open_within_three_seconds() -> None:
    async def scenario() -> None:
        samplers = real_samplers(AgentSettings(node_id=NODE))
        began = time.monotonic()
        at = datetime.fromisoformat("2026-11-01T12:00:00+00:00")
        sampled = await asyncio.gather(*(sampler.sample(at, patience_seconds=10) for sampler in samplers))
        took = time.monotonic() - began
        for sampler in samplers:
            await sampler.close(patience_seconds=2)
        assert took < 3
        told = {sampler.name: (said, sampler.absence) for sampler, said in zip(samplers, sampled, strict=True)}
        assert told["psutil"][0].devices
        assert all(said.devices or absence for said, absence in told.values())

    asyncio.run(scenario())


def test_utilisation_takes_two_looks_and_one_report_has_both() -> None:
    report = asyncio.run(look([ThreadedSampler("psutil", lambda: HostBackend(NODE))], AgentSettings(node_id=NODE)))
    (cpu,) = report.devices
    assert cpu.state is not None
    assert cpu.state.compute_utilization_percent is not None
    assert report.seconds < 2
