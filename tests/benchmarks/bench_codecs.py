"""What one message costs to write and to read, in CPU time. Prints a markdown section."""

import gc
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from shardbus_schemas.envelope import Envelope, to_headers
from shardbus_schemas.events import DeviceGPUStateUpdated, InstancePlaced
from shardbus_schemas.ids import EventId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import decode, encode, subject_of, type_of, version_of
from shardbus_schemas.telemetry import DeviceGPUState
from support.golden import GOLDEN

ROUNDS = 7
SECONDS_PER_ROUND = 0.3
MOMENT = datetime(2026, 11, 20, 9, 30, 0, 123456, tzinfo=UTC)


def tick(devices: int) -> DeviceGPUStateUpdated:
    """Return one tick of a node with all readings of so many devices."""
    states = tuple(
        DeviceGPUState(
            device_id=f"GPU-3fa1c6e2-0000-{index:04}",
            node_id="attic",
            memory_used_bytes=9_663_676_416 + index,
            memory_total_bytes=25_769_803_776,
            compute_utilization_percent=37.5,
            thermal_temperature_c=61.0,
            thermal_throttle_threshold_c=83.0,
            is_thermal_throttling=False,
            last_update=MOMENT,
        )
        for index in range(devices)
    )
    return DeviceGPUStateUpdated(node_id="attic", boot_id="b-7f3a", tick=17, states=states)


def microseconds(call: Callable[[], object]) -> float:
    """Return the CPU time of one call: the median of some rounds, each long enough to trust the clock."""
    count = 1
    while (spent := _spend(call, count)) < SECONDS_PER_ROUND / 10:
        count *= 4
    count = max(1, int(count * SECONDS_PER_ROUND / spent))
    return statistics.median(_spend(call, count) / count for _ in range(ROUNDS)) * 1e6


def _spend(call: Callable[[], object], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        call()
    return time.process_time() - start


def row(name: str, message: FrozenModel, readings: int) -> str:
    """Return one line of the table."""
    payload, subject = encode(message), subject_of(message)
    headers = to_headers(Envelope(EventId("e"), type_of(message), version_of(message), MOMENT, "agent/attic"))

    def read() -> object:
        return decode(subject, headers, payload, stream="S", sequence=1, recorded_at=MOMENT)

    written, got, plain = (
        microseconds(lambda: encode(message)),
        microseconds(read),
        microseconds(lambda: json.loads(payload)),
    )
    per = f"{(written + got) / readings:.1f}" if readings else ""
    return f"| {name} | {len(payload):,} | {written:.1f} | {got:.1f} | {plain:.1f} | {per} |"


def main() -> None:
    """Measure and print."""
    placed = GOLDEN["InstancePlaced.v1"].decode().message
    assert isinstance(placed, InstancePlaced)
    gc.disable()  # a collection inside a round would be charged to whichever codec runs then
    print("## Codecs\n")
    print("CPU time in µs per message on one core; reading includes the envelope and full validation.\n")
    print("| message | payload bytes | write | read | json.loads alone | write + read, per reading |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(row("tick of a node with 1 device", tick(1), 1))
    print(row("tick of a node with 8 devices", tick(8), 8))
    print(row("placement decision", placed, 0))


if __name__ == "__main__":
    main()
