"""What was measured, for people."""

from typing import TYPE_CHECKING

from shardbus_schemas.units import rate_text

from shardbus_console.output import data, heading, print_table, say

if TYPE_CHECKING:
    from shardbus_agents.measuring import MeasuredDevice, Measurements

_RIGHT = frozenset({"memory bandwidth", "float16", "float32", "spread"})


def print_measurements(measured: "Measurements") -> None:
    """Print a row for each device that was measured, how, and what went wrong."""
    done = [device for device in measured.devices if device.benchmark is not None]
    if done:
        heading("Measured")
        print_table(None, [_row(device) for device in done], right=_RIGHT)
    for device in done:
        if device.benchmark is not None:
            how = device.benchmark
            data.print(f"{device.device_id}: best of {how.runs} at {how.measured_at:%Y-%m-%d %H:%M} UTC; {how.method}")
    for device in measured.devices:
        if device.problem is not None:
            say(f"{device.device_id}: {device.problem}")
    if done:
        say(f"kept in {measured.kept_in}; agents of this host use it, running ones from their next look on")


def _row(device: "MeasuredDevice") -> dict[str, object]:
    benchmark = device.benchmark
    assert benchmark is not None
    return {
        "device": device.device_id,
        "name": device.name,
        "memory bandwidth": rate_text(benchmark.memory_bandwidth_bytes_per_second),
        "float16": flops_text(benchmark.flops.get("float16")),
        "float32": flops_text(benchmark.flops.get("float32")),
        "spread": "?" if benchmark.spread is None else f"{100 * benchmark.spread:.0f} %",
    }


def flops_text(per_second: float | None) -> str:
    """Return an arithmetic rate such as ``71.2 TFLOPS``. Unknown is ``?``."""
    if per_second is None:
        return "?"
    return f"{per_second / 1e12:.3g} TFLOPS" if per_second >= 1e12 else f"{per_second / 1e9:.3g} GFLOPS"  # noqa: PLR2004
