"""AMD GPUs, on real files laid out as the kernel does."""

from pathlib import Path

import pytest
from shardbus_agents.backends.amdgpu import AmdgpuBackend
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.protocol import BackendUnavailableError
from support.readings import NODE, START, after
from support.sysfs_tree import RX_7900_XTX, STRIX_HALO, SysfsTree, break_file, without

GIBIBYTE = 2**30
ROOMY = HostMemory(64 * GIBIBYTE, 50 * GIBIBYTE)


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path)


def backend(tree: SysfsTree, memory: HostMemory = ROOMY) -> AmdgpuBackend:
    return AmdgpuBackend(NODE, root=tree.root, memory=lambda: memory)


def test_a_card_is_known_by_its_own_id_and_described_by_driver_and_table(tree: SysfsTree) -> None:
    tree.card(1, "0000:03:00.0", "amdgpu", RX_7900_XTX)
    (card,) = backend(tree).devices()
    assert card.device_id == card.uuid == "GPU-d2f1a0b3c4e59687"
    assert (card.label, card.name, card.vendor, card.backend) == ("rocm:1", "AMD Radeon RX 7900 XTX", "amd", "rocm")
    assert (card.memory_total_bytes, card.unified_memory) == (25753026560, False)
    assert card.memory_bandwidth_bytes_per_second == pytest.approx(960e9)
    assert card.peak_flops["float16"] > 1e14
    assert card.sources["memory_bandwidth_bytes_per_second"] == "table"
    assert card.sources["memory_total_bytes"] == "driver"
    assert (card.pci_address, card.power_limit_watts) == ("0000:03:00.0", 339)
    assert card.reported_by == "amdgpu"


def test_the_link_is_as_fast_as_its_slowest_part(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "amdgpu", RX_7900_XTX)
    (card,) = backend(tree).devices()
    assert (card.pcie_generation, card.pcie_width) == (3, 16)  # the slot's third generation, not the card's fourth


def test_every_reading_that_amdgpu_offers_is_read(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "amdgpu", RX_7900_XTX)
    (sample,) = backend(tree).sample(START)
    state = sample.state
    assert (state.memory_used_bytes, state.memory_total_bytes) == (GIBIBYTE, 25753026560)
    assert (state.compute_utilization_percent, state.power_watts) == (37, 212)
    assert (state.thermal_temperature_c, state.thermal_throttle_threshold_c) == (67, 110)  # the junction's
    assert (state.is_thermal_throttling, state.throttle_reasons) == (None, None)
    assert "gpu_metrics" in sample.unknown["is_thermal_throttling"]
    assert sample.gauges == {
        "clock_hertz": 1.78e9,
        "memory_clock_hertz": 1.249e9,
        "memory_busy_percent": 11,
        "junction_temperature_celsius": 67,
        "edge_temperature_celsius": 54,
        "mem_temperature_celsius": 72,
    }


def test_an_apu_holds_its_carve_out_and_what_it_reaches_of_the_hosts_memory(tree: SysfsTree) -> None:
    tree.card(0, "0000:c4:00.0", "amdgpu", STRIX_HALO)
    apu = backend(tree)
    (facts,), (sample,) = apu.devices(), apu.sample(START)
    assert (facts.unified_memory, facts.memory_total_bytes) == (True, 62 * GIBIBYTE + 512 * 2**20)
    assert facts.device_id == "pci-0000:c4:00.0"
    assert "unique_id" in facts.unknown["uuid"]
    # 50 GiB are left on the host: 12 GiB of the 62 are taken, whoever took them.
    assert sample.state.memory_used_bytes == 12 * GIBIBYTE + 200 * 2**20
    assert sample.state.power_watts == pytest.approx(9.012)
    # Unused by others it is what the GPU itself took.
    (idle,) = backend(tree, HostMemory(64 * GIBIBYTE, 64 * GIBIBYTE)).sample(START)
    assert idle.state.memory_used_bytes == 8 * GIBIBYTE + 200 * 2**20


def test_a_small_carve_out_without_a_power_cap_is_an_apu_on_kernels_that_show_no_voltages(tree: SysfsTree) -> None:
    tree.card(0, "0000:c4:00.0", "amdgpu", without(STRIX_HALO, "hwmon/hwmon5/in1_label"))
    tree.card(1, "0000:03:00.0", "amdgpu", {**RX_7900_XTX, "mem_info_vram_total": str(2 * GIBIBYTE)})
    assert [facts.unified_memory for facts in backend(tree).devices()] == [True, False]


def test_a_part_that_no_list_has_goes_by_what_its_driver_says_or_by_its_number(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "amdgpu", {**RX_7900_XTX, "device": "0x75b0", "product_name": "AMD Instinct MI350X"})
    tree.card(1, "0000:04:00.0", "amdgpu", {**RX_7900_XTX, "device": "0x9999", "unique_id": "1"})
    known, unknown = backend(tree).devices()
    assert (known.name, known.sources["name"]) == ("AMD Instinct MI350X", "driver")
    assert unknown.name == "AMD GPU 0x9999"
    assert "no list" in unknown.unknown["name"]
    assert unknown.memory_bandwidth_bytes_per_second is None
    assert "table" in unknown.unknown["memory_bandwidth_bytes_per_second"]


def test_libdrms_list_on_the_host_names_what_we_do_not_know(tree: SysfsTree) -> None:
    listed = tree.root / "usr/share/libdrm/amdgpu.ids"
    listed.parent.mkdir(parents=True)
    listed.write_text("# List\n1.0.0\n1586,\tC1,\tAMD Radeon 8060S Graphics\n")
    tree.card(0, "0000:c4:00.0", "amdgpu", STRIX_HALO)
    (facts,) = backend(tree).devices()
    assert facts.name == "AMD Radeon 8060S Graphics"
    assert facts.architecture == "RDNA 3.5"


@pytest.mark.parametrize("unique_id", ["", "0", "xyz"])
def test_a_unique_id_that_is_none_gives_way_to_the_pci_address(tree: SysfsTree, unique_id: str) -> None:
    tree.card(0, "0000:03:00.0", "amdgpu", {**RX_7900_XTX, "unique_id": unique_id})
    (card,) = backend(tree).devices()
    assert (card.device_id, card.uuid) == ("pci-0000:03:00.0", None)
    assert card.unknown["uuid"]


def test_two_cards_that_claim_one_id_stay_two(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "amdgpu", RX_7900_XTX)
    tree.card(1, "0000:04:00.0", "amdgpu", RX_7900_XTX)
    assert [card.device_id for card in backend(tree).devices()] == ["GPU-d2f1a0b3c4e59687", "pci-0000:04:00.0"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), "the kernel offers no gpu_busy_percent for it"),
        (lambda file: file.write_text(""), "gpu_busy_percent is empty"),
        (lambda file: file.write_text("N/A\n"), "gpu_busy_percent holds no whole number: 'N/A'"),
        (lambda file: file.write_bytes(b"\xff\x00\xfe"), "gpu_busy_percent holds no whole number"),
        (break_file, "gpu_busy_percent cannot be read: Input/output error"),
        (lambda file: file.write_text("65535\n"), "the driver says 65535"),
    ],
)
def test_a_file_that_fails_is_one_reading_less(tree: SysfsTree, damage, reason: str) -> None:  # noqa: ANN001
    folder = tree.card(0, "0000:03:00.0", "amdgpu", RX_7900_XTX)
    card = backend(tree)
    damage(folder / "gpu_busy_percent")
    (sample,) = card.sample(START)
    assert sample.state.compute_utilization_percent is None
    assert reason in sample.unknown["compute_utilization_percent"]
    assert (sample.state.power_watts, sample.state.memory_used_bytes) == (212, GIBIBYTE)


def test_a_card_without_sensors_or_link_files_says_why(tree: SysfsTree) -> None:
    bare = {name: text for name, text in RX_7900_XTX.items() if not name.startswith(("hwmon", "max_link"))}
    tree.card(0, "0000:03:00.0", "amdgpu", bare)
    card = backend(tree)
    (facts,), (sample,) = card.devices(), card.sample(START)
    assert "link speed" in facts.unknown["pcie_generation"]
    assert "hwmon" in sample.unknown["thermal_temperature_c"]
    assert "hwmon" in sample.unknown["power_watts"]
    assert sample.unknown["thermal_throttle_threshold_c"] == "without a temperature there is none"


def test_a_card_that_leaves_is_gone_and_one_that_comes_is_found(tree: SysfsTree) -> None:
    tree.card(0, "0000:03:00.0", "amdgpu", RX_7900_XTX)
    tree.card(1, "0000:04:00.0", "amdgpu", {**RX_7900_XTX, "unique_id": "2"})
    cards = backend(tree)
    assert len(cards.sample(START)) == 2
    tree.remove(0)
    (left,) = cards.sample(after(2))
    assert left.device_id == "GPU-0000000000000002"
    assert [facts.device_id for facts in cards.devices()] == [left.device_id]
    tree.remove(1)
    assert (cards.sample(after(4)), cards.devices()) == ((), ())
    tree.card(2, "0000:05:00.0", "amdgpu", {**RX_7900_XTX, "unique_id": "3"})
    assert [sample.device_id for sample in cards.sample(after(6))] == ["GPU-0000000000000003"]


def test_a_host_without_such_cards_says_what_it_has_instead(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="no graphics drivers"):
        AmdgpuBackend(NODE, root=tmp_path)
    tree = SysfsTree(tmp_path / "host")
    with pytest.raises(BackendUnavailableError, match="no AMD GPU under"):
        backend(tree)
    tree.card(0, "0000:03:00.0", "vfio-pci", RX_7900_XTX)
    with pytest.raises(BackendUnavailableError, match="card0 is driven by vfio-pci, not amdgpu"):
        backend(tree)
