"""The same path on a real NVIDIA GPU, where there is one."""

import statistics
import subprocess
import sys

import pytest
from support.nvml_child import resident_bytes
from support.nvml_fixtures import Watched, with_sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
    pytest.mark.usefixtures("gpu"),
]


@pytest.fixture(scope="module")
def gpu() -> None:
    """Skip where there is no GPU, with what the sampler says of it."""

    async def look(gpu: Watched) -> str | None:
        await gpu.tick()
        return None if gpu.facts else gpu.sampler.absence or "the NVIDIA driver has no GPU"

    if why_not := with_sampler(look):
        pytest.skip(why_not)


OWN_LIMIT_BYTES = 16e6
"""What the child may take beside a bare interpreter that has initialised the driver's library. That alone is 10 MB and
18 MB on an H100 with driver 580."""

BARE = """
import ctypes
ctypes.CDLL("libnvidia-ml.so.1").nvmlInit_v2()
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024)
"""


def test_every_gpu_tells_what_it_is() -> None:
    async def scenario(gpu: Watched) -> None:
        await gpu.tick()
        assert gpu.last.devices
        assert gpu.problems == {}
        for facts in gpu.last.devices:
            assert facts.uuid.startswith(("GPU-", "MIG-"))
            assert facts.name
            assert facts.driver
            assert facts.memory_total_bytes or "memory_total_bytes" in facts.unknown
            assert facts.memory_bandwidth_bytes_per_second
            assert facts.peak_flops
            assert {"memory_bandwidth_bytes_per_second", "name", "peak_flops"} <= facts.sources.keys()
            assert facts.pci_address or "pci_address" in facts.unknown

    with_sampler(scenario)


def test_every_reading_is_there_or_its_absence_has_a_reason() -> None:
    async def scenario(gpu: Watched) -> None:
        for _ in range(2):
            await gpu.tick()
        assert set(gpu.samples) == set(gpu.facts)
        for sample in gpu.samples.values():
            known = sample.state.model_dump(exclude_none=True)
            for name in (
                "compute_utilization_percent",
                "health",
                "is_thermal_throttling",
                "memory_total_bytes",
                "memory_used_bytes",
                "power_watts",
                "thermal_temperature_c",
                "thermal_throttle_threshold_c",
                "throttle_reasons",
            ):
                assert (name in known) != (name in sample.unknown), name

    with_sampler(scenario)


def test_a_tick_holds_the_driver_for_a_millisecond_and_the_child_stays_small() -> None:
    async def scenario(gpu: Watched) -> tuple[float, int]:
        taken: list[float] = []
        for _ in range(21):
            await gpu.tick()
            taken.append(sum(sample.gauges["driver_seconds"] for sample in gpu.samples.values()) / len(gpu.samples))
        return statistics.median(taken), resident_bytes(gpu.pid)

    # The usual tick: nothing of the slower tiers.
    seconds, resident = with_sampler(scenario, medium_seconds=3600, slow_seconds=3600)
    bare = int(subprocess.run([sys.executable, "-I", "-S", "-c", BARE], capture_output=True, check=True).stdout)
    sys.stdout.write(
        f"driver {seconds * 1000:.3f} ms per GPU and tick, child {resident / 1e6:.1f} MB, {bare / 1e6:.1f} of it bare\n"
    )
    assert seconds <= 0.001
    assert resident - bare <= OWN_LIMIT_BYTES
