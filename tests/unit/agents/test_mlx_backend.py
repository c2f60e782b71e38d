from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.mlx import MlxBackend, mlx_devices
from shardbus_agents.backends.protocol import BackendUnavailableError
from shardbus_agents.benchmarks import BenchmarkFile, StoredBenchmark
from shardbus_schemas.devices import Benchmark
from support.readings import NODE, START

GIBIBYTE = 2**30


class Switch:
    def __init__(self, on: bool) -> None:
        self._on = on

    def is_available(self) -> bool:
        return self._on


class Build:
    """A build of mlx.core, with the devices that its ``device_info`` tells of."""

    cpu, gpu = "cpu", "gpu"

    def __init__(self, gpus: list[dict[str, Any]], *, metal: bool = False, cuda: bool = False) -> None:
        self._infos: Mapping[str, list[dict[str, Any]]] = {
            "cpu": [{"device_name": "Some CPU", "architecture": "arm64"}],
            "gpu": gpus,
        }
        self.metal = Switch(metal)
        self.cuda = Switch(cuda)

    def Device(self, kind: str, index: int) -> tuple[str, int]:  # noqa: N802
        return kind, index

    def device_count(self, kind: str) -> int:
        return len(self._infos[kind])

    def device_info(self, device: tuple[str, int]) -> dict[str, Any]:
        kind, index = device
        return self._infos[kind][index]


MAC = Build(
    [
        {
            "device_name": "Apple M3 Max",
            "architecture": "applegpu_g15s",
            "max_buffer_length": 80 * GIBIBYTE,
            "max_recommended_working_set_size": 96 * GIBIBYTE,
            "memory_size": 128 * GIBIBYTE,
            "resource_limit": 499000,
        }
    ],
    metal=True,
)


def mac(available: int) -> MlxBackend:
    return MlxBackend(NODE, core=MAC, memory=lambda: HostMemory(128 * GIBIBYTE, available * GIBIBYTE))


def test_a_metal_gpu_may_hold_its_recommended_working_set() -> None:
    gpu, cpu = mac(available=100).devices()
    assert (gpu.device_id, gpu.backend, gpu.unified_memory) == ("metal:0", "metal", True)
    assert gpu.memory_total_bytes == 96 * GIBIBYTE
    assert gpu.name == "Apple M3 Max"
    assert gpu.reported_by == "mlx"
    assert cpu.device_id == "cpu"


def test_a_metal_gpu_has_left_what_the_host_has_left_and_never_more_than_its_working_set() -> None:
    (roomy,) = mac(available=120).sample(START)
    assert (roomy.state.memory_used_bytes, roomy.state.memory_total_bytes) == (0, 96 * GIBIBYTE)
    (tight,) = mac(available=10).sample(START)
    assert tight.state.memory_used_bytes == 86 * GIBIBYTE
    assert tight.state.compute_utilization_percent is None


def test_a_cuda_gpu_goes_by_the_uuid_that_nvml_gives_it_and_has_no_load() -> None:
    build = Build(
        [
            {
                "device_name": "NVIDIA GeForce RTX 4090",
                "uuid": "GPU-aaaa",
                "architecture": "sm_89",
                "total_memory": 24 * GIBIBYTE,
            }
        ],
        cuda=True,
    )
    backend = MlxBackend(NODE, core=build)
    gpu, _ = backend.devices()
    assert (gpu.device_id, gpu.uuid, gpu.label) == ("GPU-aaaa", "GPU-aaaa", "cuda:0")
    assert (gpu.backend, gpu.architecture, gpu.memory_total_bytes) == ("cuda", "sm_89", 24 * GIBIBYTE)
    assert gpu.memory_bandwidth_bytes_per_second == pytest.approx(1008e9)
    assert gpu.sources["memory_bandwidth_bytes_per_second"] == "table"
    assert backend.sample(START) == ()


def test_a_cpu_build_adds_facts_to_the_processor_and_no_load() -> None:
    backend = MlxBackend(NODE, core=Build([]))
    (cpu,) = backend.devices()
    assert (cpu.device_id, cpu.name, cpu.architecture, cpu.backend) == ("cpu", "Some CPU", "arm64", "cpu")
    assert backend.sample(START) == ()


def test_a_library_that_fails_is_one_backend_less() -> None:
    class Broken(Build):
        def device_info(self, device: tuple[str, int]) -> dict[str, Any]:
            raise RuntimeError("[metal] no device")

    with pytest.raises(BackendUnavailableError, match="no device"):
        MlxBackend(NODE, core=Broken([]))


def test_a_build_without_devices_is_one_backend_less() -> None:
    build = Build([])
    build._infos = {"cpu": [], "gpu": []}
    with pytest.raises(BackendUnavailableError, match="finds no device"):
        MlxBackend(NODE, core=build)


def test_a_gpu_whose_figures_no_table_has_says_so() -> None:
    build = Build([{"device_name": "NVIDIA Something", "uuid": "GPU-b", "total_memory": GIBIBYTE}], cuda=True)
    gpu, _ = MlxBackend(NODE, core=build).devices()
    assert "device table" in gpu.unknown["memory_bandwidth_bytes_per_second"]
    assert "device table" in gpu.unknown["peak_flops"]


def test_a_measurement_counts_while_device_driver_and_mlx_are_the_same(tmp_path: Path) -> None:
    file = BenchmarkFile(tmp_path / "benchmarks.json")
    backend = MlxBackend(NODE, core=MAC, benchmarks=file)
    assert backend.devices()[0].benchmark is None
    (gpu, _) = mlx_devices(MAC)
    measured = Benchmark(measured_at=START, method="a sum", memory_bandwidth_bytes_per_second=3e11)
    BenchmarkFile(file.path).keep(
        StoredBenchmark(fingerprint=gpu.fingerprint, device_id=gpu.facts.device_id, benchmark=measured)
    )
    assert backend.devices()[0].benchmark == measured  # written while the agent runs
    BenchmarkFile(file.path).keep(
        StoredBenchmark(fingerprint=f"{gpu.fingerprint} newer", device_id=gpu.facts.device_id, benchmark=measured)
    )
    assert backend.devices()[0].benchmark is None
