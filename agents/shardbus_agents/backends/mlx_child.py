"""What a short-lived process of its own asks MLX; the one file that imports it. Prints one JSON document, and ends.

MLX costs an agent 17 MB for facts that never change, and a wheel that does not fit the processor ends whoever imports
it. So: ``python -m shardbus_agents.backends.mlx_child describe``, or ``measure KIND INDEX BYTES``.
"""

import importlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, cast

RUNS: Final = 5
"""The best of so many counts: what else the machine does only ever makes one slower."""
RUN_SECONDS: Final = 0.1
"""A run repeats its work until it has lasted so long, so that starting a kernel does not count."""
WARM_UP_SECONDS: Final = 0.5
"""Clocks rise and kernels are compiled in the first moments: cold runs differ by a fifth."""
SMALLEST_MATRIX, LARGEST_MATRIX = 256, 4096
DTYPES: Final = ("float16", "float32")
ROW: Final = 2**20
"""Elements of a row of the buffer that is summed."""


class MlxCore(Protocol):
    """The part of ``mlx.core`` that says what the devices are."""

    cpu: Any
    gpu: Any
    metal: Any
    cuda: Any

    def Device(self, kind: Any, index: int) -> Any:  # noqa: N802 - the library's name for it
        """Return one device."""
        ...

    def device_count(self, kind: Any) -> int:
        """Return how many devices of a kind there are."""
        ...

    def device_info(self, device: Any) -> Mapping[str, str | int]:
        """Return what MLX knows of a device."""
        ...


def describe(core: MlxCore) -> dict[str, Any]:
    """Return the version, and each device with its runtime (``metal``, ``cuda``, ``cpu``) and what MLX knows of it."""
    devices: list[dict[str, Any]] = []
    for kind in (core.gpu, core.cpu):
        for index in range(core.device_count(kind)):
            runtime = "cpu"
            if kind != core.cpu:
                runtime = "metal" if core.metal.is_available() else "cuda" if core.cuda.is_available() else ""
            if runtime:
                information = dict(core.device_info(core.Device(kind, index)))
                devices.append({"runtime": runtime, "index": index, "driver": _driver(runtime), "info": information})
    return {"mlx": str(getattr(core, "__version__", "")), "devices": devices}


def measure(core: Any, runtime: str, index: int, most_bytes: int) -> dict[str, Any]:
    """Return what a sum over a big buffer and square matrix products took, in seconds per run.

    The result of each is looked at too: a device that computes nonsense is not fast.
    """
    core.set_default_device(core.Device(core.cpu if runtime == "cpu" else core.gpu, index))
    core.set_memory_limit(most_bytes)
    core.set_cache_limit(0)
    found: dict[str, Any] = {"mlx": str(core.__version__), "matmul": {}, "problems": {}}
    try:
        found["sum"] = _sum(core, most_bytes)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        found["problems"]["memory_bandwidth_bytes_per_second"] = str(error)
    for name in DTYPES:
        try:
            found["matmul"][name] = _product(core, name, most_bytes)
        except (RuntimeError, ValueError, ArithmeticError) as error:
            found["problems"][name] = str(error)
    return found


def _sum(core: Any, most_bytes: int) -> dict[str, Any]:
    # Half of the allowance: MLX may copy once while it fills the buffer. Integers, because a processor may add them
    # in any order, many at once: a running sum of floats waits for each addition, not for memory (5 GB/s where
    # integers reach 30), and stops at 2**24 ones.
    rows = most_bytes // 2 // 4 // ROW
    buffer = core.ones((rows, ROW), dtype=core.int32)
    sums = core.sum(buffer, axis=1)
    least, most = core.min(sums), core.max(sums)
    core.eval(buffer, least, most)
    if (least.item(), most.item()) != (ROW, ROW):
        raise ArithmeticError(f"sums of {ROW} ones came out as {least.item()} to {most.item()}")
    return {"bytes": 4 * rows * ROW, "seconds": _seconds(core, lambda: core.sum(buffer, axis=1))}


def _product(core: Any, dtype: str, most_bytes: int) -> dict[str, Any]:
    size = SMALLEST_MATRIX
    while True:
        matrix = core.ones((size, size), dtype=getattr(core, dtype))
        core.eval(matrix)
        began = time.perf_counter()
        product = matrix @ matrix
        core.eval(product)
        took = time.perf_counter() - began
        larger = 3 * (2 * size) ** 2 * 4
        if took >= RUN_SECONDS / 2 or size >= LARGEST_MATRIX or larger > most_bytes:
            break
        size *= 2
    if not math.isclose(float(product[0, 0].item()), size, rel_tol=0.01):
        raise ArithmeticError(f"a product of ones came out as {product[0, 0].item()} in place of {size}")
    return {"size": size, "seconds": _seconds(core, lambda: matrix @ matrix)}


def _seconds(core: Any, work: Callable[[], Any]) -> list[float]:
    """Return how long ``work`` took in each run, after a warm-up."""
    times, began = 0, time.perf_counter()
    while times == 0 or time.perf_counter() - began < WARM_UP_SECONDS:
        core.eval(work())
        times += 1
    each = (time.perf_counter() - began) / times
    repeats = max(1, math.ceil(RUN_SECONDS / each))
    runs: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for _ in range(repeats):
            core.eval(work())
        core.synchronize()
        runs.append((time.perf_counter() - began) / repeats)
    return runs


def _driver(runtime: str) -> str | None:
    """Return the version of what drives the device: a new one may be faster or slower."""
    if runtime == "metal":
        return platform.mac_ver()[0] or None
    if runtime == "cuda":
        try:
            return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None
    return None


def main(arguments: list[str]) -> int:
    """Print what is asked for; what MLX refuses becomes ``{"error": …}``."""
    try:
        core = cast("Any", importlib.import_module("mlx.core"))
        if arguments[:1] == ["measure"]:
            runtime, index, most_bytes = arguments[1:]
            answer = measure(core, runtime, int(index), int(most_bytes))
        else:
            answer = describe(core)
    except Exception as error:  # noqa: BLE001 - the parent hears it in words, whatever a broken wheel raises
        answer = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
