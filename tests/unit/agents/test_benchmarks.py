import logging
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.benchmarks import (
    AbsurdMeasurementError,
    BenchmarkFile,
    StoredBenchmark,
    benchmark_of,
    fingerprint,
    with_benchmark,
)
from shardbus_agents.collector import Sampled, merge
from shardbus_agents.measuring import allowance
from shardbus_schemas.devices import Benchmark
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.node_report import ReportedDevice
from support.readings import START, facts, state

GIBIBYTE = 2**30
FOUND: dict[str, Any] = {
    "mlx": "0.32.4",
    "sum": {"bytes": GIBIBYTE, "seconds": [0.0020, 0.0016, 0.0017]},
    "matmul": {"float16": {"size": 4096, "seconds": [0.010, 0.008]}, "float32": {"size": 2048, "seconds": [0.004]}},
    "problems": {},
}
MEASURED = Benchmark(
    measured_at=START, method="a sum", memory_bandwidth_bytes_per_second=6e11, flops={"float16": 2e13}, runs=5
)


def test_the_best_run_counts_and_the_spread_is_said() -> None:
    benchmark = benchmark_of(FOUND, START, None)
    assert benchmark.memory_bandwidth_bytes_per_second == pytest.approx(GIBIBYTE / 0.0016)
    assert benchmark.flops == {
        "float16": pytest.approx(2 * 4096**3 / 0.008),
        "float32": pytest.approx(2 * 2048**3 / 0.004),
    }
    assert (benchmark.runs, benchmark.measured_at) == (3, START)
    assert benchmark.spread == pytest.approx(0.2)
    assert benchmark.method == "mlx 0.32.4, sum of 1024 MiB of int32, float16 matmul 4096, float32 matmul 2048"


@pytest.mark.parametrize("seconds", [[], [0.0], [-1.0, 0.1], [math.nan], [math.inf], [1e-9], [1e6]], ids=str)
def test_times_that_cannot_be_are_refused(seconds: list[float]) -> None:
    with pytest.raises(AbsurdMeasurementError, match="cannot be"):
        benchmark_of({**FOUND, "sum": {"bytes": GIBIBYTE, "seconds": seconds}}, START, None)


def test_nothing_is_faster_than_the_parts_own_peak() -> None:
    fast = {**FOUND, "sum": {"bytes": GIBIBYTE, "seconds": [GIBIBYTE / 1.2e12]}}
    with pytest.raises(AbsurdMeasurementError, match=r"beyond the part's peak of 9\.36e\+11"):
        benchmark_of(fast, START, "NVIDIA GeForce RTX 3090")
    assert benchmark_of(fast, START, "A part that no table has").memory_bandwidth_bytes_per_second is not None
    quick = {**FOUND, "matmul": {"float16": {"size": 4096, "seconds": [1e-4]}}}
    with pytest.raises(AbsurdMeasurementError, match="float16 operations"):
        benchmark_of(quick, START, "NVIDIA GeForce RTX 3090")


def test_nothing_measured_is_no_measurement() -> None:
    with pytest.raises(AbsurdMeasurementError, match="nothing could be measured"):
        benchmark_of({"mlx": "1", "matmul": {}}, START, None)


@given(st.lists(st.floats(), max_size=5), st.integers(1, 2**40))
def test_whatever_a_clock_says_a_kept_figure_is_finite_and_credible(seconds: list[float], count: int) -> None:
    try:
        benchmark = benchmark_of({"mlx": "1", "sum": {"bytes": count, "seconds": seconds}}, START, None)
    except AbsurdMeasurementError:
        return
    bandwidth = benchmark.memory_bandwidth_bytes_per_second
    assert bandwidth is not None
    assert 1e7 <= bandwidth <= 1e14
    assert benchmark.spread is not None
    assert 0 <= benchmark.spread <= 1


def test_a_measurement_replaces_the_tables_figures_and_says_so() -> None:
    table = facts(
        "a",
        memory_bandwidth_bytes_per_second=9e11,
        peak_flops={"float16": 7e13, "int8": 3e14},
        sources={"memory_bandwidth_bytes_per_second": "table", "peak_flops": "table", "name": "driver"},
        benchmark=MEASURED,
    )
    measured = with_benchmark(table)
    assert measured.memory_bandwidth_bytes_per_second == 6e11
    assert measured.peak_flops == {"float16": 2e13, "int8": 3e14}
    assert measured.sources == {
        "memory_bandwidth_bytes_per_second": "measured",
        "peak_flops": "table",
        "peak_flops.float16": "measured",
        "name": "driver",
    }
    assert with_benchmark(measured) == measured


def test_what_was_unknown_is_known_once_it_is_measured() -> None:
    bare = facts("a", unknown={"memory_bandwidth_bytes_per_second": "?", "peak_flops": "?", "driver": "?"})
    assert with_benchmark(bare) == bare
    measured = with_benchmark(bare.model_copy(update={"benchmark": MEASURED}))
    assert measured.unknown == {"driver": "?"}
    assert measured.sources["peak_flops"] == "measured"


def test_a_measurement_wins_over_a_more_trusted_backends_table() -> None:
    trusted = facts("a", memory_bandwidth_bytes_per_second=9e11, sources={"memory_bandwidth_bytes_per_second": "table"})
    merged = merge([Sampled((trusted,)), Sampled((facts("a", benchmark=MEASURED),))])
    assert merged.devices["a"].memory_bandwidth_bytes_per_second == 6e11
    assert merged.devices["a"].sources["memory_bandwidth_bytes_per_second"] == "measured"
    assert merged.devices["a"].benchmark == MEASURED


def stored(mark: str, device: str = "a") -> StoredBenchmark:
    return StoredBenchmark(fingerprint=mark, device_id=DeviceId(device), benchmark=MEASURED)


def test_what_is_kept_is_found_by_anybody_and_replaces_the_devices_former_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "benchmarks.json"
    writer, reader = BenchmarkFile(path), BenchmarkFile(path)
    assert reader.find("mark 1") is None
    writer.keep(stored("mark 1"))
    writer.keep(stored("other", "b"))
    assert reader.find("mark 1") == MEASURED
    writer.keep(stored("mark 2"))
    assert reader.find("mark 1") is None
    assert (reader.find("mark 2"), reader.find("other")) == (MEASURED, MEASURED)
    path.unlink()
    assert reader.find("mark 2") is None
    assert [file.name for file in path.parent.iterdir()] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "benchmarks": [{"fingerprint": 3}]}'])
def test_a_damaged_file_is_reported_once_and_not_used(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "benchmarks.json"
    path.write_text(text)
    file = BenchmarkFile(path)
    with caplog.at_level(logging.WARNING):
        assert [file.find("mark") for _ in range(3)] == [None] * 3
    assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1
    file.keep(stored("mark"))
    assert file.find("mark") == MEASURED


def test_another_card_driver_or_mlx_has_another_fingerprint() -> None:
    marks = {
        fingerprint(DeviceId(device), name, driver, mlx)
        for device in ("a", "b")
        for name in ("RTX", None)
        for driver in ("580", None)
        for mlx in ("0.30", "0.31")
    }
    assert len(marks) == 16


def reported(used: int | None, total: int | None, *, unified: bool = False) -> ReportedDevice:
    memory = {"memory_used_bytes": used, "memory_total_bytes": total}
    return ReportedDevice(facts=facts("a", unified_memory=unified), state=state("a", **memory))


@pytest.mark.parametrize(
    ("device", "runtime", "host", "allowed"),
    [
        (None, "cpu", 64 * GIBIBYTE, 2 * GIBIBYTE),
        (None, "cpu", 2 * GIBIBYTE, GIBIBYTE // 2),
        (reported(16 * GIBIBYTE, 24 * GIBIBYTE), "cuda", GIBIBYTE, 2 * GIBIBYTE),
        (reported(0, 80 * GIBIBYTE), "cuda", GIBIBYTE, 4 * GIBIBYTE),
        (reported(0, 24 * GIBIBYTE, unified=True), "metal", 4 * GIBIBYTE, GIBIBYTE),
        (reported(None, None), "cuda", 4 * GIBIBYTE, GIBIBYTE),
    ],
)
def test_a_measurement_takes_a_quarter_of_what_is_free_at_most(
    device: ReportedDevice | None, runtime: str, host: int, allowed: int
) -> None:
    assert allowance(device, runtime, HostMemory(host, host).available_bytes) == allowed
