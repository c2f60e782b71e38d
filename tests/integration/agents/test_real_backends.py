"""What this very host says of itself: real psutil, real MLX, whole agents."""

import asyncio
import contextlib
import platform
import time
from pathlib import Path

import psutil
import pytest
from shardbus_agents import process
from shardbus_agents.backends.host import HostBackend
from shardbus_agents.backends.host_memory import host_memory
from shardbus_agents.backends.mlx import MlxBackend, mlx_devices
from shardbus_agents.benchmarks import BenchmarkFile, StoredBenchmark
from shardbus_agents.settings import AgentSettings
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.files.document import FileError
from shardbus_schemas.devices import Benchmark
from shardbus_schemas.events import (
    DeviceGPUStateUpdated,
    DeviceLost,
    DeviceRegistered,
    GPUBandwidthMeasured,
    NodeJoined,
    NodeLeft,
)
from support.readings import NODE, START
from support.unreliable_bus import UnreliableBus
from support.waiting import until

MIXED = Path(__file__).parents[3] / "examples" / "mixed.yaml"


@contextlib.asynccontextmanager
async def agent(bus: UnreliableBus, **settings: object):  # noqa: ANN201 - a test's own context
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(bus, AgentSettings(**settings), stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)


def test_psutil_tells_of_this_host() -> None:
    backend = HostBackend(NODE)
    (facts,), (sample,) = backend.devices(), backend.sample(START)
    state = sample.state
    assert facts.memory_total_bytes == host_memory().total_bytes <= psutil.virtual_memory().total
    assert facts.architecture == platform.machine()
    assert facts.name
    assert state.memory_used_bytes is not None
    assert 0 < state.memory_used_bytes < psutil.virtual_memory().total


@pytest.mark.skipif(platform.system() != "Linux", reason="MLX on the processor alone is the Linux build")
def test_mlx_tells_of_this_host() -> None:
    backend = MlxBackend(NODE)
    cpu = next(facts for facts in backend.devices() if facts.device_id == "cpu")
    assert cpu.name
    assert cpu.architecture == platform.machine()
    assert cpu.reported_by == "mlx"


def test_an_agent_reports_this_host_with_the_facts_of_all_its_backends() -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        started = time.monotonic()
        async with agent(bus, node_id="here", sample_interval_seconds=0.05):
            await until(lambda: bus.said(TELEMETRY))
            assert time.monotonic() - started < 3
            await until(
                lambda: any(
                    state.compute_utilization_percent is not None
                    for update in bus.said(TELEMETRY)
                    for state in update.states
                )
            )
        joined, *registered, left = bus.said(FLEET)
        assert isinstance(joined, NodeJoined)
        assert joined.hostname == platform.node()
        # This host may have a GPU too.
        devices = {message.device.device_id: message.device for message in registered}
        assert devices["cpu"].reported_by == "psutil+mlx"
        assert isinstance(left, NodeLeft)
        states = {state.device_id: state for state in bus.said(TELEMETRY)[0].states}
        assert states["cpu"].memory_total_bytes == host_memory().total_bytes

    asyncio.run(scenario())


def test_a_running_agent_tells_what_was_measured_meanwhile(tmp_path: Path) -> None:
    measured = Benchmark(measured_at=START, method="a sum", memory_bandwidth_bytes_per_second=3e10)

    async def scenario() -> None:
        bus = UnreliableBus()
        async with agent(bus, node_id="here", data_dir=tmp_path, sample_interval_seconds=0.05):
            await until(lambda: any(m.device.reported_by == "psutil+mlx" for m in registrations(bus)))
            cpu = next(device for device in mlx_devices() if device.runtime == "cpu")
            BenchmarkFile(tmp_path / "benchmarks.json").keep(
                StoredBenchmark(fingerprint=cpu.fingerprint, device_id=cpu.facts.device_id, benchmark=measured)
            )
            await until(lambda: any(m.device.benchmark == measured for m in registrations(bus)))
        told = registrations(bus)[-1].device
        assert told.memory_bandwidth_bytes_per_second == 3e10
        assert told.sources["memory_bandwidth_bytes_per_second"] == "measured"

    asyncio.run(scenario())


def registrations(bus: UnreliableBus) -> list[DeviceRegistered]:
    said = [message for message in bus.said(FLEET) if isinstance(message, DeviceRegistered)]
    return [message for message in said if message.device.device_id == "cpu"]


def test_a_backend_that_a_person_leaves_out_is_not_asked() -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        async with agent(bus, node_id="here", backends=("psutil",), sample_interval_seconds=0.05):
            await until(lambda: len(bus.said(FLEET)) == 2)
        assert bus.said(FLEET)[1].device.reported_by == "psutil"

    asyncio.run(scenario())


def test_without_its_packages_a_node_still_reports_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        async with agent(bus, node_id="bare", sample_interval_seconds=0.05):
            await until(lambda: bus.said(TELEMETRY))
        assert [type(message) for message in bus.said(FLEET)] == [NodeJoined, NodeLeft]
        assert bus.said(TELEMETRY)[0].heartbeat

    for name in ("pynvml", "shardbus_agents.backends.host", "shardbus_agents.backends.mlx"):
        # None in sys.modules makes the import fail, as a package that is not installed does.
        monkeypatch.setitem(__import__("sys").modules, name, None)
    asyncio.run(scenario())


def test_a_fleet_file_is_played_by_one_process_as_many_nodes() -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        async with agent(bus, simulate=MIXED, simulate_seed=3, sample_interval_seconds=0.05, heartbeat_seconds=0.5):
            await until(lambda: len([m for m in bus.said(TELEMETRY) if isinstance(m, DeviceGPUStateUpdated)]) > 60)
        fleet, telemetry = bus.said(FLEET), bus.said(TELEMETRY)
        nodes = {message.node_id for message in fleet if isinstance(message, NodeJoined)}
        assert len(nodes) >= 8
        assert {message.node_id for message in fleet if isinstance(message, NodeLeft)} == nodes
        registered = [message for message in fleet if isinstance(message, DeviceRegistered)]
        assert {message.node_id for message in registered} == nodes
        assert all(message.device.memory_total_bytes for message in registered)
        assert not any(isinstance(message, DeviceLost) for message in fleet)
        links = [message for message in telemetry if isinstance(message, GPUBandwidthMeasured)]
        assert {link.method for link in links} == {"simulated"}
        assert len({(link.from_node, link.to_node) for link in links}) == len(links) > 0
        boots = {message.node_id: message.boot_id for message in fleet if isinstance(message, NodeJoined)}
        assert len(set(boots.values())) == len(boots)

    asyncio.run(scenario())


def test_two_plays_of_one_seed_tell_the_same_readings() -> None:
    async def readings_by_tick() -> dict[tuple[str, int | None], object]:
        bus = UnreliableBus()

        def updates() -> list[DeviceGPUStateUpdated]:
            return [message for message in bus.said(TELEMETRY) if isinstance(message, DeviceGPUStateUpdated)]

        # A report at every tick, so that each is told whole, and the samples themselves: means depend on the pace.
        whole = {"heartbeat_seconds": 60, "report_seconds": 0.001, "smoothing_seconds": 0}
        async with agent(bus, simulate=MIXED, simulate_seed=3, sample_interval_seconds=0.02, **whole):
            await until(lambda: sum(update.tick == 5 for update in updates()) >= 8)
        return {
            (state.key, update.tick): state.model_dump(exclude={"last_update"})
            for update in updates()
            for state in update.states
        }

    first, second = asyncio.run(readings_by_tick()), asyncio.run(readings_by_tick())
    both = first.keys() & second.keys()
    assert len(both) > 40
    assert {key: first[key] for key in both} == {key: second[key] for key in both}


def test_a_fleet_file_that_is_wrong_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        path = tmp_path / "fleet.json"
        path.write_text('{"nodes": [{"node_id": "attic", "devises": []}]}')
        with pytest.raises(FileError, match="devises"):
            await process.run(bus, AgentSettings(simulate=path), asyncio.Event())
        assert bus.said(FLEET) == []

    asyncio.run(scenario())


def test_while_the_bus_is_away_the_lifecycle_waits_and_of_readings_the_latest() -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        bus.away = True
        async with agent(bus, simulate=MIXED, sample_interval_seconds=0.02, heartbeat_seconds=0.02):
            await until(lambda: bus.attempts > 30)
            assert bus.said(FLEET) == []
            bus.away = False
            await until(lambda: len([m for m in bus.said(FLEET) if isinstance(m, DeviceRegistered)]) >= 8)
            await until(lambda: bus.said(TELEMETRY))
        fleet = bus.said(FLEET)
        by_node = {
            joined.node_id: [type(m) for m in fleet if m.node_id == joined.node_id]
            for joined in fleet
            if isinstance(joined, NodeJoined)
        }
        for kinds in by_node.values():
            assert kinds[0] is NodeJoined
            assert kinds[-1] is NodeLeft
            assert set(kinds[1:-1]) == {DeviceRegistered}
        first = next(m for m in bus.said(TELEMETRY) if isinstance(m, DeviceGPUStateUpdated))
        assert first.tick > 0

    asyncio.run(scenario())


def test_an_agent_stops_soon_even_when_the_bus_never_answers() -> None:
    async def scenario() -> None:
        bus = UnreliableBus()
        bus.away = True
        started = time.monotonic()
        async with agent(bus, node_id="here", backends=("psutil",), leave_patience_seconds=0.2):
            await until(lambda: bus.attempts)
        assert time.monotonic() - started < 3

    asyncio.run(scenario())
