"""What ``shardbus agent --measure`` found, kept on disk for as long as it holds: one device, driver and MLX.

A measured figure replaces the table's peak: the peak is what the maker promises, this is what programs get.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from shardbus_schemas.device_table import lookup
from shardbus_schemas.devices import Benchmark, DeviceFacts, FactSource
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.model import FrozenModel

_log = logging.getLogger(__name__)

FILE_NAME: Final = "benchmarks.json"

_BANDWIDTHS: Final = (1e7, 1e14)
_RATES: Final = (1e6, 1e17)
"""Slower than a 1990s PC or faster than anything built by ten: the clock or the device lied."""
_MOST_OF_PEAK_BANDWIDTH: Final = 1.15
_MOST_OF_PEAK_FLOPS: Final = 2.5
"""A table's peak may be that of half rate, which a product in float16 alone runs at double."""


class AbsurdMeasurementError(Exception):
    """What was measured cannot be; the text says why. Nothing of it is kept."""


class StoredBenchmark(FrozenModel):
    """One device's measurement, and what it holds for."""

    fingerprint: str
    device_id: DeviceId
    benchmark: Benchmark


class _Stored(FrozenModel):
    version: Annotated[int, Field(ge=1)] = 1
    benchmarks: tuple[StoredBenchmark, ...] = ()


def fingerprint(device_id: DeviceId, name: str | None, driver: str | None, mlx: str) -> str:
    """Return what a measurement holds for: another card, driver or MLX is to be measured anew."""
    return " | ".join((device_id, name or "?", f"driver {driver or '?'}", f"mlx {mlx or '?'}"))


def benchmark_of(found: Mapping[str, Any], at: datetime, name: str | None) -> Benchmark:
    """Return what the child's timings come to; raises AbsurdMeasurementError for what cannot be.

    ``name`` is the device's: nothing beats the peak of the device table by far.
    """
    known = None if name is None else lookup(name)
    peak = None if known is None else known.memory_bandwidth_bytes_per_second
    bandwidth: float | None = None
    spread: float | None = None
    runs, ran = 1, [f"mlx {found.get('mlx', '?')}"]
    if (summed := found.get("sum")) is not None:
        seconds = _credible_seconds(summed["seconds"])
        bandwidth = _credible_rate("memory bandwidth", summed["bytes"] / min(seconds), "B/s", _BANDWIDTHS)
        if peak is not None and bandwidth > _MOST_OF_PEAK_BANDWIDTH * peak:
            raise AbsurdMeasurementError(f"{bandwidth:.3g} B/s is beyond the part's peak of {peak:.3g} B/s")
        spread = (max(seconds) - min(seconds)) / max(seconds)
        runs = len(seconds)
        ran.append(f"sum of {summed['bytes'] >> 20} MiB of int32")
    flops: dict[str, float] = {}
    for dtype, product in found.get("matmul", {}).items():
        seconds = _credible_seconds(product["seconds"])
        rate = _credible_rate(f"{dtype} rate", 2 * product["size"] ** 3 / min(seconds), "operations/s", _RATES)
        promised = None if known is None else known.peak_flops.get(dtype)
        if promised is not None and rate > _MOST_OF_PEAK_FLOPS * promised:
            raise AbsurdMeasurementError(
                f"{rate:.3g} {dtype} operations/s are beyond the part's peak of {promised:.3g}"
            )
        flops[dtype] = rate
        ran.append(f"{dtype} matmul {product['size']}")
    if bandwidth is None and not flops:
        raise AbsurdMeasurementError("nothing could be measured")
    return Benchmark(
        measured_at=at,
        method=", ".join(ran),
        memory_bandwidth_bytes_per_second=bandwidth,
        flops=flops,
        runs=runs,
        spread=spread,
    )


def _credible_seconds(seconds: Sequence[float]) -> Sequence[float]:
    if not seconds or not all(math.isfinite(each) and each > 0 for each in seconds):
        raise AbsurdMeasurementError(f"the runs took {list(seconds)} s, which cannot be")
    return seconds


def _credible_rate(what: str, rate: float, unit: str, bounds: tuple[float, float]) -> float:
    if not bounds[0] <= rate <= bounds[1]:
        raise AbsurdMeasurementError(f"a {what} of {rate:.3g} {unit} cannot be")
    return rate


def with_benchmark(facts: DeviceFacts) -> DeviceFacts:
    """Return ``facts`` with what was measured in place of what a table or a formula says."""
    measured = facts.benchmark
    if measured is None:
        return facts
    figures: dict[str, Any] = {}
    sources: dict[str, FactSource] = {}
    if measured.memory_bandwidth_bytes_per_second is not None:
        figures["memory_bandwidth_bytes_per_second"] = measured.memory_bandwidth_bytes_per_second
        sources["memory_bandwidth_bytes_per_second"] = "measured"
    if measured.flops:
        figures["peak_flops"] = {**facts.peak_flops, **measured.flops}
        sources |= {f"peak_flops.{dtype}": "measured" for dtype in measured.flops}
        if not facts.peak_flops.keys() - measured.flops.keys():
            sources["peak_flops"] = "measured"
    unknown = {name: why for name, why in facts.unknown.items() if name not in figures}
    return facts.model_copy(update={**figures, "sources": {**facts.sources, **sources}, "unknown": unknown})


class BenchmarkFile:
    """The measurements of this host. It is read again when it has changed, so a running agent sees a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._stored: tuple[StoredBenchmark, ...] = ()

    def find(self, mark: str) -> Benchmark | None:
        """Return the measurement for this fingerprint, or ``None``."""
        return next((stored.benchmark for stored in self._read() if stored.fingerprint == mark), None)

    def keep(self, stored: StoredBenchmark) -> None:
        """Write a measurement in place of the device's former ones; raises OSError."""
        others = tuple(other for other in self._read() if other.device_id != stored.device_id)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_Stored(benchmarks=(*others, stored)).model_dump(mode="json"), indent=2)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(self.path)

    def _read(self) -> tuple[StoredBenchmark, ...]:
        try:
            status = self.path.stat()
            if (seen := (status.st_mtime_ns, status.st_ino)) != self._seen:
                self._seen = seen
                self._stored = ()
                self._stored = _Stored.model_validate_json(self.path.read_bytes()).benchmarks
        except FileNotFoundError:
            self._seen, self._stored = None, ()
        except (OSError, ValidationError) as error:
            _log.warning("%s is no file of measurements and is not used: %s", self.path, str(error).splitlines()[0])
        return self._stored
