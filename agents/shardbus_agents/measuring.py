"""``shardbus agent --measure``: what each device really does, measured by MLX in a process of its own, and kept.

It is for an idle machine. An accelerator that somebody uses is left out; so is what cannot be believed.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from shardbus_schemas.devices import Benchmark
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.node_report import NodeReport, ReportedDevice

from shardbus_agents.backends.host_memory import host_memory
from shardbus_agents.backends.mlx import MlxDevice, ask_child, mlx_devices
from shardbus_agents.backends.protocol import BackendUnavailableError
from shardbus_agents.benchmarks import AbsurdMeasurementError, StoredBenchmark, benchmark_of
from shardbus_agents.bootstrap import benchmark_file
from shardbus_agents.once import look_once
from shardbus_agents.settings import AgentSettings

BUSY_PERCENT: Final = 20.0
"""From here on a device is in use: it would be slow for us, and we would be in the way."""
_DEADLINE_SECONDS: Final = 120.0
_MOST_BYTES: Final[Mapping[str, int]] = {"cpu": 2 * 2**30, "metal": 4 * 2**30, "cuda": 4 * 2**30}
"""Half of it is the buffer that is summed: more than any cache, and no more than it needs."""
_LEAST_BYTES: Final = 128 * 2**20
_SHARE_OF_FREE: Final = 4
"""We take a quarter of what is free at most."""


class MeasuredDevice(FrozenModel):
    """What came of measuring one device."""

    device_id: DeviceId
    name: str | None = None
    benchmark: Benchmark | None = None
    problem: str | None = None
    """Why there is no benchmark, or why it is to be taken with care."""


class Measurements(FrozenModel):
    """What ``shardbus agent --measure --json`` prints."""

    version: int = 1
    kept_in: str
    """The file that agents of this host read."""
    devices: tuple[MeasuredDevice, ...]


def measure(settings: AgentSettings, say: Callable[[str], None]) -> Measurements:
    """Measure every device that MLX can compute on, and keep what was found; raises OSError if it cannot be kept."""
    file = benchmark_file(settings)
    file.path.parent.mkdir(parents=True, exist_ok=True)  # now, not after a minute of measuring
    report = look_once(settings)
    try:
        devices = mlx_devices()
    except BackendUnavailableError as error:
        reason = f"only MLX measures, and it is not there: {error}"
        return Measurements(
            kept_in=str(file.path),
            devices=tuple(
                MeasuredDevice(device_id=device.facts.device_id, name=device.facts.name, problem=reason)
                for device in report.devices
            ),
        )
    measured: list[MeasuredDevice] = []
    for device in devices:
        say(f"measuring {device.facts.device_id} ({device.facts.name or device.runtime})…")
        found = _measured(device, report)
        if found.benchmark is not None:
            file.keep(
                StoredBenchmark(
                    fingerprint=device.fingerprint, device_id=device.facts.device_id, benchmark=found.benchmark
                )
            )
        measured.append(found)
    return Measurements(kept_in=str(file.path), devices=tuple(measured))


def allowance(device: ReportedDevice | None, runtime: str, host_available_bytes: int) -> int:
    """Return how many bytes a measurement may take: a share of what is free, and no more than it needs."""
    free = host_available_bytes
    if device is not None and runtime != "cpu" and device.state is not None:
        total, used = device.state.memory_total_bytes, device.state.memory_used_bytes
        if total is not None and used is not None:
            free = total - used if not device.facts.unified_memory else min(free, total - used)
    return min(_MOST_BYTES[runtime], free // _SHARE_OF_FREE)


def _measured(device: MlxDevice, report: NodeReport) -> MeasuredDevice:
    seen = next((each for each in report.devices if each.facts.device_id == device.facts.device_id), None)
    result = MeasuredDevice(device_id=device.facts.device_id, name=device.facts.name)
    if seen is not None and seen.problem is not None:
        return result.model_copy(update={"problem": seen.problem})
    busy = None if seen is None or seen.state is None else seen.state.compute_utilization_percent
    caution: str | None = None
    if busy is not None and busy >= BUSY_PERCENT:
        if device.runtime != "cpu":
            return result.model_copy(update={"problem": f"{busy:.0f} % busy: measure it when it is idle"})
        caution = f"the processor was {busy:.0f} % busy: the figures may be too low"
    most = allowance(seen, device.runtime, host_memory().available_bytes)
    if most < _LEAST_BYTES:
        return result.model_copy(update={"problem": "too little memory is free to measure anything"})
    try:
        found = ask_child("measure", device.runtime, str(device.index), str(most), deadline_seconds=_DEADLINE_SECONDS)
        benchmark = benchmark_of(found, datetime.now(UTC), device.facts.name)
    except (BackendUnavailableError, AbsurdMeasurementError) as error:
        return result.model_copy(update={"problem": str(error)})
    problems = [f"{what}: {why}" for what, why in found.get("problems", {}).items()]
    said = "; ".join(([caution] if caution else []) + problems) or None
    return result.model_copy(update={"benchmark": benchmark, "problem": said})
