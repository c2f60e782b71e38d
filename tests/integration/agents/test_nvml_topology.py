"""How NVIDIA GPUs are connected, and how they are cut into MIG slices."""

import sys

import pytest
from support.nvml_fixtures import GIBIBYTE, Watched, with_sampler
from support.nvml_stub import StubState
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub takes the place of Linux' driver library")


def test_ways_through_pcie_are_told_with_their_speed(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=2, topology=10, p2p=3, gpu1_max_lanes=8)
        await gpu.tick()
        (path,) = gpu.facts["GPU-00000000"].peers
        assert (path.device_id, path.kind, path.links) == ("GPU-00000001", "pcie_switch", None)
        assert path.peer_to_peer is False
        assert path.bandwidth_bytes_per_second == pytest.approx(8 * 1.969e9)

    with_sampler(scenario)


def test_nvlinks_between_two_cards_are_counted_and_one_that_fails_is_noticed(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        driver.set(count=3, gpu0_nvlinks=4, gpu1_nvlinks=4, gpu0_nvlink_to=1, gpu1_nvlink_to=0, gpu0_nvlink_crc=17)
        await gpu.tick()
        direct, other = gpu.facts["GPU-00000000"].peers
        assert (direct.device_id, direct.kind, direct.links) == ("GPU-00000001", "nvlink", 4)
        assert (direct.peer_to_peer, direct.bandwidth_bytes_per_second) == (True, 100e9)
        assert (other.device_id, other.kind, other.links) == ("GPU-00000002", "pcie_switches", None)
        gauges = (await gpu.tick()).samples["GPU-00000000"].gauges
        assert (gauges["nvlink_active_links"], gauges["nvlink_errors"]) == (4, 17)
        driver.set(gpu0_nvlinks_down=1)
        direct, _ = (await gpu.tick()).facts["GPU-00000000"].peers
        assert (direct.links, direct.bandwidth_bytes_per_second) == (3, 75e9)

    with_sampler(scenario)


def test_a_switch_connects_all_cards_and_the_drivers_own_speed_wins(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        for index in range(3):
            driver.set(**{f"gpu{index}_nvlinks": 18, f"gpu{index}_nvlink_speed": 26562})
        driver.set(count=3)
        await gpu.tick()
        for facts in gpu.last.devices:
            assert [(peer.kind, peer.links) for peer in facts.peers] == [("nvlink", 18)] * 2
            assert facts.peers[0].bandwidth_bytes_per_second == pytest.approx(18 * 26562e6)

    with_sampler(scenario)


def partition(driver: StubState, **more: str | int) -> None:
    """Make GPU 0 an A100 with slices in places 0 and 2."""
    driver.set(
        **{
            "gpu0_name": "NVIDIA A100-SXM4-80GB",
            "gpu0_total": 80 * GIBIBYTE,
            "gpu0_minor": 0,
            "gpu0_cores": 6912,
            "gpu0_mig": 1,
            "gpu0_mig0_there": 1,
            "gpu0_mig2_there": 1,
            "gpu0_mig0_total": 20 * GIBIBYTE,
            "gpu0_mig2_total": 20 * GIBIBYTE,
            "gpu0_mig2_used": 3 * GIBIBYTE,
        }
        | more
    )


FIRST, SECOND = "MIG-00000000-0", "MIG-00000000-2"


def test_the_slices_of_a_card_are_devices_and_the_card_is_none(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver, count=2)
        await gpu.tick()
        assert set(gpu.samples) == set(gpu.facts) == {FIRST, SECOND, "GPU-00000001"}
        facts = gpu.facts[SECOND]
        assert (facts.parent_device_id, facts.partition, facts.label) == ("GPU-00000000", "2g.20gb", "cuda:0:2")
        assert (facts.memory_total_bytes, facts.architecture) == (20 * GIBIBYTE, "Ampere")
        assert facts.memory_bandwidth_bytes_per_second == pytest.approx(2039e9 / 4)
        assert facts.peak_flops["float16"] == pytest.approx(312e12 * 28 / 108)
        assert facts.sources["peak_flops"] == "formula"
        assert facts.peers == ()
        sample = gpu.samples[SECOND]
        assert (sample.state.memory_used_bytes, sample.state.memory_total_bytes) == (3 * GIBIBYTE, 20 * GIBIBYTE)
        assert (sample.state.thermal_temperature_c, sample.state.power_watts) == (45, 25.5)
        assert sample.state.compute_utilization_percent is None
        assert "MIG" in sample.unknown["compute_utilization_percent"]

    with_sampler(scenario)


def test_a_slice_that_fails_does_not_hide_its_siblings(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver)
        await gpu.tick()
        driver.set(gpu0_mig0_error=999)
        for _ in range(2):
            await gpu.tick()
            assert set(gpu.samples) == set(gpu.facts) == {SECOND}
            assert set(gpu.problems) == {FIRST}
        driver.set(gpu0_mig0_error=0)
        assert set((await gpu.tick()).samples) == {FIRST, SECOND}
        driver.set(gpu0_lost=1)
        assert set((await gpu.tick()).problems) == {FIRST, SECOND}
        driver.set(gpu0_lost=0)
        assert set((await gpu.tick()).samples) == {FIRST, SECOND}

    with_sampler(scenario)


def test_slices_that_are_made_and_destroyed_come_and_go(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver)
        await gpu.tick()
        driver.set(gpu0_mig0_there=0, gpu0_mig0_error=2, gpu0_mig1_there=1)
        await gpu.tick()
        assert set(gpu.samples) == set(gpu.facts) == {"MIG-00000000-1", SECOND}
        assert gpu.problems == {}
        driver.set(gpu0_mig=0)
        assert set((await gpu.tick()).samples) == {"GPU-00000000"}

    with_sampler(scenario)


def test_an_xid_on_a_partitioned_card_is_of_the_slice_that_it_hit_or_of_all(driver: StubState) -> None:
    async def scenario(gpu: Watched) -> None:
        partition(driver)
        await gpu.tick()
        driver.raise_event(43, xid_instance=3)
        await until(lambda: gpu.sampler._news)
        assert [fault.device_id for fault in (await gpu.tick()).faults] == [SECOND]
        driver.set(gpu0_lost=1)
        await gpu.tick()
        driver.raise_event(79, xid_instance=0xFFFFFFFF)
        await until(lambda: gpu.sampler._news)
        assert {fault.device_id for fault in (await gpu.tick()).faults} == {FIRST, SECOND}

    with_sampler(scenario)
