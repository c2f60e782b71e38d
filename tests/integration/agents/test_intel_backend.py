"""Intel GPUs, on real files laid out as xe and i915 do."""

from pathlib import Path

import pytest
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.intel import IntelBackend
from shardbus_agents.backends.protocol import BackendUnavailableError
from support.readings import NODE, START, after
from support.sysfs_tree import ARC_B580, SysfsTree, without

GIBIBYTE = 2**30
HOST = HostMemory(32 * GIBIBYTE, 20 * GIBIBYTE)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path)


def backend(tree: SysfsTree, clock: Clock | None = None) -> IntelBackend:
    return IntelBackend(NODE, root=tree.root, memory=lambda: HOST, seconds=clock or Clock())


def test_a_card_under_xe_is_described_by_driver_and_table(tree: SysfsTree) -> None:
    tree.card(1, "0000:03:00.0", "xe", ARC_B580)
    (card,) = backend(tree).devices()
    assert (card.device_id, card.label, card.name) == ("pci-0000:03:00.0", "xpu:1", "Intel Arc B580")
    assert (card.vendor, card.backend, card.unified_memory, card.architecture) == ("intel", "xpu", False, "Xe2")
    # The kernel tells no size; the part is sold with one only.
    assert (card.memory_total_bytes, card.sources["memory_total_bytes"]) == (12 * GIBIBYTE, "table")
    assert "memory_total_bytes" not in card.unknown
    assert (card.pcie_generation, card.pcie_width, card.power_limit_watts) == (3, 8, 190)


def test_the_memory_of_all_tiles_counts_where_the_kernel_tells_it(tree: SysfsTree) -> None:
    sizes = {f"tile{tile}/physical_vram_size_bytes": str(24 * GIBIBYTE) for tile in range(2)}
    tree.card(0, "0000:03:00.0", "xe", {**ARC_B580, "device": "0x0bd5", **sizes})
    arc = {"vendor": "0x8086", "device": "0x56a0"}
    tree.card(1, "0000:04:00.0", "i915", arc, card={"lmem_total_bytes": "17179869184"})
    two_tiles, outside = backend(tree).devices()
    assert (two_tiles.memory_total_bytes, two_tiles.sources["memory_total_bytes"]) == (48 * GIBIBYTE, "driver")
    assert two_tiles.name == "Intel GPU 0x0bd5"
    assert (outside.name, outside.memory_total_bytes) == ("Intel Arc A770", 16 * GIBIBYTE)
    assert outside.memory_bandwidth_bytes_per_second == pytest.approx(560e9)  # the size tells the two A770 apart


def test_what_the_kernel_offers_is_read_and_the_rest_says_why_not(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "xe", ARC_B580)
    (sample,) = backend(tree).sample(START)
    state = sample.state
    assert (state.thermal_temperature_c, state.thermal_throttle_threshold_c) == (48, 105)
    assert (state.is_thermal_throttling, state.throttle_reasons) == (False, ())
    assert state.memory_total_bytes == 12 * GIBIBYTE
    assert sample.gauges == {"clock_hertz": 2.85e9}
    assert "performance counters" in sample.unknown["compute_utilization_percent"]
    assert "query on the device node" in sample.unknown["memory_used_bytes"]
    assert "two looks" in sample.unknown["power_watts"]


def test_power_is_the_energy_between_two_looks(tree: SysfsTree) -> None:
    folder, clock = tree.card(0, "0000:03:00.0", "xe", ARC_B580), Clock()
    card = backend(tree, clock)
    card.sample(START)
    clock.seconds += 2
    (folder / "hwmon/hwmon4/energy1_input").write_text("1150000000\n")
    (second,) = card.sample(after(2))
    assert second.state.power_watts == pytest.approx(75)
    clock.seconds += 2
    (folder / "hwmon/hwmon4/energy1_input").write_text("1000\n")
    (third,) = card.sample(after(4))
    assert third.state.power_watts is None
    assert "began anew" in third.unknown["power_watts"]


@pytest.mark.parametrize(
    ("file", "reasons", "by_heat"),
    [
        ("tile0/gt0/freq0/throttle/reason_pl1", ("power_cap",), False),
        ("tile0/gt0/freq0/throttle/reason_thermal", ("hardware_thermal",), True),
        ("tile0/gt0/freq0/throttle/reason_ratl", ("software_thermal",), True),
        ("tile0/gt1/freq0/throttle/reason_soc_avg_thermal", ("software_thermal",), True),
        ("tile0/gt0/freq0/throttle/reason_of_tomorrow", ("hardware",), False),
    ],
)
def test_whatever_holds_any_part_of_it_back_is_told(
    tree: SysfsTree, file: str, reasons: tuple[str, ...], by_heat: bool
) -> None:
    tree.card(0, "0000:03:00.0", "xe", {**ARC_B580, file: "1"})
    (sample,) = backend(tree).sample(START)
    assert (sample.state.throttle_reasons, sample.state.is_thermal_throttling) == (reasons, by_heat)


def test_i915_has_its_files_at_the_card(tree: SysfsTree) -> None:
    files = {
        "gt/gt0/throttle_reason_status": "1",
        "gt/gt0/throttle_reason_pl4": "1",
        "gt/gt0/throttle_reason_prochot": "1",
        "gt/gt0/throttle_reason_thermal": "0",
        "gt_act_freq_mhz": "1300",
    }
    tree.card(0, "0000:00:02.0", "i915", {"vendor": "0x8086", "device": "0x46a6"}, card=files)
    (sample,) = backend(tree).sample(START)
    assert sample.state.throttle_reasons == ("power_cap", "hardware_thermal")
    assert sample.state.is_thermal_throttling is True
    assert sample.gauges == {"clock_hertz": 1.3e9}


def test_a_processors_own_gpu_has_the_hosts_memory(tree: SysfsTree) -> None:
    tree.card(0, "0000:00:02.0", "i915", {"vendor": "0x8086", "device": "0x46a6"})
    gpu = backend(tree)
    (facts,), (sample,) = gpu.devices(), gpu.sample(START)
    assert (facts.unified_memory, facts.memory_total_bytes) == (True, 32 * GIBIBYTE)
    assert (sample.state.memory_used_bytes, sample.state.memory_total_bytes) == (12 * GIBIBYTE, 32 * GIBIBYTE)
    assert sample.state.is_thermal_throttling is None
    assert "throttle reasons" in sample.unknown["is_thermal_throttling"]
    assert "hwmon" in sample.unknown["thermal_temperature_c"]


def test_the_hosts_pci_ids_name_a_part(tree: SysfsTree) -> None:
    listed = tree.root / "usr/share/misc/pci.ids"
    listed.parent.mkdir(parents=True)
    listed.write_text(
        "# comment\n8086  Intel Corporation\n\t46a6  Alder Lake-P GT2 [Iris Xe Graphics]\n\t\t1028 0b19  Some laptop\n"
        "\t7d55  Meteor Lake-P [Intel Arc Graphics]\n8087  Somebody\n\t5917  Not this one\n"
    )
    tree.card(0, "0000:00:02.0", "i915", {"vendor": "0x8086", "device": "0x46a6"})
    tree.card(1, "0000:04:00.0", "xe", {"vendor": "0x8086", "device": "0x7d55"})
    tree.card(2, "0000:05:00.0", "xe", {"vendor": "0x8086", "device": "0x5917"})
    assert [facts.name for facts in backend(tree).devices()] == [
        "Intel Iris Xe Graphics",
        "Intel Arc Graphics",
        "Intel GPU 0x5917",
    ]


def test_a_discrete_card_that_nobody_knows_has_no_memory_rather_than_a_guess(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "xe", {**ARC_B580, "device": "0xe2ff"})
    card = backend(tree)
    (facts,), (sample,) = card.devices(), card.sample(START)
    assert facts.memory_total_bytes is None
    assert "device node" in facts.unknown["memory_total_bytes"]
    assert sample.unknown["memory_total_bytes"] == facts.unknown["memory_total_bytes"]


def test_a_card_that_leaves_is_gone(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "xe", without(ARC_B580, "hwmon/hwmon4/energy1_input"))
    card = backend(tree)
    tree.remove(0)
    assert (card.sample(START), card.devices()) == ((), ())


def test_a_host_without_such_cards_says_what_it_has_instead(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="no graphics drivers"):
        IntelBackend(NODE, root=tmp_path)
    tree = SysfsTree(tmp_path / "host")
    tree.card(0, "0000:03:00.0", "vfio-pci", ARC_B580)
    with pytest.raises(BackendUnavailableError, match="card0 is driven by vfio-pci"):
        backend(tree)
