"""The device table: its figures agree with the formulas, and names mean what they say."""

import pytest
from shardbus_schemas import device_formulas
from shardbus_schemas.device_table import GIBIBYTE, MEBIBYTE, TableRow, complete, lookup, rows
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.ids import DeviceId

NVIDIA = [row for row in rows() if row.nvidia is not None]
CLOCKED = [row for row in NVIDIA if row.nvidia and row.nvidia.max_memory_clock_mhz]
"""Without those whose memory clock is not published."""

# Why the specified tensor rate is not SMs x operations x boost clock (DEVICES.md §4.1).
NOT_THE_FORMULA = {
    "H100 PCIe 80GB": "Hopper's tensor units boost below the maximal clock",
    "H100 SXM5 80GB": "Hopper's tensor units boost below the maximal clock",
    "H100 NVL": "Hopper's tensor units boost below the maximal clock",
    "H200 SXM": "Hopper's tensor units boost below the maximal clock",
    "H200 NVL": "Hopper's tensor units boost below the maximal clock",
    "GH200 96GB": "Hopper's tensor units boost below the maximal clock",
    "GH200 144GB": "Hopper's tensor units boost below the maximal clock",
    "L40": "marketed at half the silicon's rate",
    "H20": "capped for export",
}


def device(name: str | None = None, **facts: object) -> FleetDevice:
    return FleetDevice.model_validate({"device_id": DeviceId("gpu"), "name": name, **facts})


@pytest.mark.parametrize("row", CLOCKED, ids=lambda row: row.name)
def test_the_published_bandwidth_is_what_bus_width_and_memory_clock_give(row: TableRow) -> None:
    figures = row.nvidia
    assert figures is not None
    assert figures.bus_bits is not None
    assert figures.max_memory_clock_mhz is not None
    assert row.bandwidth_gb_per_second is not None
    formula = device_formulas.bandwidth(figures.bus_bits, figures.max_memory_clock_mhz)
    assert formula == pytest.approx(row.bandwidth_gb_per_second * 1e9, rel=0.03)


@pytest.mark.parametrize("row", NVIDIA, ids=lambda row: row.name)
def test_the_published_tensor_rate_is_what_the_sms_give_but_for_the_known_exceptions(row: TableRow) -> None:
    figures = row.nvidia
    assert figures is not None
    assert row.float16_tflops is not None
    formula = device_formulas.float16_flops(
        figures.compute_capability,
        figures.sm_count,
        figures.boost_mhz,
        geforce_half_rate=figures.geforce_half_rate,
    )
    assert formula is not None
    agrees = formula == pytest.approx(row.float16_tflops * 1e12, rel=0.06)
    # A row that begins to agree is no exception any more: this list may not rot either.
    assert agrees is (row.name not in NOT_THE_FORMULA)


def test_most_nvidia_rows_have_a_memory_clock_to_check_against() -> None:
    assert len(CLOCKED) >= 49


def test_geforce_cards_and_no_others_run_at_half_rate() -> None:
    half = {row.name for row in NVIDIA if row.nvidia and row.nvidia.geforce_half_rate}
    assert half == {row.name for row in NVIDIA if row.name.startswith("GeForce")}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_every_row_is_found_by_its_own_name_and_by_each_alias(row: TableRow) -> None:
    found = lookup(row.name)
    assert found is not None
    assert found.name == row.name
    for alias in row.aliases:
        known = lookup(alias)
        assert known is not None
        assert row.name in known.name.split(" or ")


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_what_a_driver_shows_is_never_more_than_what_is_marketed(row: TableRow) -> None:
    for marketed, size in zip(row.memory_gb, row.memory_sizes, strict=True):
        assert 0.93 * marketed * GIBIBYTE < size <= marketed * GIBIBYTE


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("NVIDIA GeForce RTX 3090", "GeForce RTX 3090"),
        ("NVIDIA RTX 3090", "GeForce RTX 3090"),
        ("rtx 3090", "GeForce RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "GeForce RTX 3090 Ti"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "GeForce RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 4060 Ti 16GB", "GeForce RTX 4060 Ti"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM4"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB (SXM4/PCIe)"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("NVIDIA GH200 144G HBM3e", "GH200 144GB"),
        ("Tesla V100-SXM2-32GB", "Tesla V100 SXM2"),
        ("NVIDIA GB10", "GB10 (DGX Spark)"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("Apple M2 Ultra", "Apple M2 Ultra"),
        ("Apple M2", "Apple M2"),
        ("Mac Studio M2 Ultra", "Apple M2 Ultra"),
        ("Apple M3 Max (40-core GPU)", "Apple M3 Max (40-core GPU)"),
        ("AMD Radeon RX 7900 XTX", "Radeon RX 7900 XTX"),
        ("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", "Ryzen AI Max+ 395 (Radeon 8060S)"),
    ],
)
def test_a_drivers_name_finds_its_part(name: str, part: str) -> None:
    found = lookup(name)
    assert found is not None
    assert found.name == part


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3080 Ti Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4070 Ti",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 3090 48GB",
        "Quadro RTX 6000",
        "Tesla M4",
        "NVIDIA A16",
        "A16",
        "NVIDIA",
        "llvmpipe",
        "",
    ],
)
def test_a_name_that_is_not_quite_a_part_of_the_table_is_unknown(name: str) -> None:
    assert lookup(name) is None


def test_a_name_of_several_parts_yields_only_what_they_have_in_common() -> None:
    a100 = lookup("NVIDIA A100")
    assert a100 is not None
    assert a100.peak_flops == {"float16": 312e12}
    assert a100.memory_bandwidth_bytes_per_second is None
    assert a100.memory_total_bytes is None


def test_the_memory_tells_parts_of_one_name_apart() -> None:
    small, large = lookup("Apple M3 Max", 36 * GIBIBYTE), lookup("Apple M3 Max", 128 * GIBIBYTE)
    assert small is not None
    assert large is not None
    assert small.memory_bandwidth_bytes_per_second == 300e9
    assert large.memory_bandwidth_bytes_per_second == 400e9


def test_a_card_with_more_memory_than_the_part_ever_had_is_another_card() -> None:
    assert lookup("NVIDIA GeForce RTX 3090", 48 * GIBIBYTE) is None


def test_a_memory_limit_below_the_parts_own_does_not_make_it_unknown() -> None:
    found = lookup("NVIDIA GeForce RTX 3090", 20 * GIBIBYTE)
    assert found is not None
    assert found.memory_bandwidth_bytes_per_second == 936e9


def test_completing_a_named_device_fills_its_facts_and_says_where_they_come_from() -> None:
    done = complete(device("NVIDIA GeForce RTX 3090"))
    assert done.vendor == "nvidia"
    assert done.architecture == "Ampere"
    assert done.backend == "cuda"
    assert done.memory_total_bytes == 24 * GIBIBYTE
    assert done.memory_bandwidth_bytes_per_second == 936e9
    assert done.peak_flops == {"float16": 71.2e12}
    assert done.unified_memory is False
    assert set(done.sources.values()) == {"table"}


def test_a_given_figure_wins_and_is_declared() -> None:
    done = complete(
        device("NVIDIA GeForce RTX 3090", memory_bandwidth_bytes_per_second=800e9, peak_flops={"int8": 1e12})
    )
    assert done.memory_bandwidth_bytes_per_second == 800e9
    assert done.peak_flops == {"int8": 1e12, "float16": 71.2e12}
    assert done.sources["memory_bandwidth_bytes_per_second"] == "declared"
    assert done.sources["peak_flops"] == "declared"
    assert done.sources["peak_flops.float16"] == "table"


def test_a_given_source_is_kept() -> None:
    done = complete(device("Apple M4", memory_total_bytes=2**34, sources={"memory_total_bytes": "driver"}))
    assert done.sources["memory_total_bytes"] == "driver"


def test_inline_error_correction_is_taken_off_a_cards_memory() -> None:
    assert complete(device("NVIDIA L40S")).memory_total_bytes == 46068 * MEBIBYTE


def test_a_device_of_several_memory_sizes_keeps_its_memory_unknown() -> None:
    done = complete(device("Apple M2 Ultra"))
    assert done.memory_total_bytes is None
    assert done.memory_bandwidth_bytes_per_second == 800e9


def test_an_unknown_device_stays_as_it_was() -> None:
    given = device("a card of tomorrow", memory_total_bytes=GIBIBYTE)
    assert complete(given) == given.model_copy(update={"sources": {"memory_total_bytes": "declared"}})
    assert complete(device()) == device()
