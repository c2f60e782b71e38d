"""What an agent costs the node it runs on, and the work beside it."""

import re
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.ports import free_port
from support.footprint import Agent, agent, matmuls_per_second
from support.nvml_stub import SYSTEM_NAME, StubState, build_stub
from support.server_folders import server_folder
from support.waiting import until_sync

SETTLING_SECONDS = 5.0
"""Backends that open slowly are not what an agent costs from then on."""
WATCHED_SECONDS = 40.0
STARTS = 5
ROUNDS = 10
WORK_SECONDS = 3.0
DRIVER_SECONDS = re.compile(r"^shardbus_device_driver_seconds\{.*\} (\S+)$", re.MULTILINE)
"""What the agent itself says of the time in driver calls, per device and tick."""


def main() -> None:
    """Print the section."""
    sys.stderr.write("bench: agent\n")
    with server_folder() as folder, EmbeddedNats(folder / "nats") as server, tempfile.TemporaryDirectory() as kept:
        bytecode, driver = Path(kept) / "bytecode", Path(kept)
        has_compiler = shutil.which("gcc") or shutil.which("cc")
        library = build_stub(driver / "driver", name=SYSTEM_NAME) if has_compiler else None
        state = StubState(driver / "state")

        def on_stub(count: int, **variables: str) -> dict[str, str]:
            assert library is not None
            state.set(count=count)
            return {"LD_LIBRARY_PATH": str(library.parent), "NVML_STUB_STATE": str(state.path), **variables}

        with agent(server.url, bytecode):
            pass  # compiles
        print(HEADING)
        print(*rows("the processor alone, all backends", server.url, bytecode, {}), sep="\n")
        if library is not None:
            print(*rows("1 GPU (stub) and the processor", server.url, bytecode, on_stub(1)), sep="\n")
            print(*rows("8 GPUs (stub) and the processor", server.url, bytecode, on_stub(8)), sep="\n")
            print(driver_row(server.url, bytecode, on_stub))
        print(*start_rows(server.url, bytecode), sep="\n")
        print(overhead(server.url, bytecode, on_stub(1) if library is not None else {}))


HEADING = """## Agent

`shardbus agent` at its default pace (a look every 2 s), watched from outside with all its children; bytecode cached.
The stub is a driver library in C that reads a file at each call, which costs about 20 µs.

| what | quantity | measured | goal |
|---|---|---|---|"""


def rows(what: str, nats_url: str, bytecode: Path, variables: dict[str, str]) -> Iterator[str]:
    """Yield the rows of memory and processor of one node."""
    sys.stderr.write(f"bench: agent: {what}\n")
    with agent(nats_url, bytecode, **variables) as running:
        time.sleep(SETTLING_SECONDS)
        share = running.cpu_share(WATCHED_SECONDS)
        own, children, count = running.own_memory(), running.child_memory(), len(running.children())
    goal = "0.5 %" if "8 GPUs" in what else "0.15 %"
    yield f"| {what} | share of one core | {share:.2%} | ≤ {goal} |"
    yield (
        f"| | the agent's memory | {own.resident / 1e6:.1f} MB resident, {own.proportional / 1e6:.1f} MB of it its own"
        " share | ≤ 45 MB |"
    )
    yield (
        f"| | its children's memory | {children.resident / 1e6:.1f} MB resident in {count}, "
        f"{children.proportional / 1e6:.1f} MB of it their own share | ≤ 16 MB |"
    )


def driver_row(nats_url: str, bytecode: Path, on_stub: Callable[..., dict[str, str]]) -> str:
    """Return the row of the time in driver calls, as the agent's own metrics have it."""
    port = free_port()
    metrics = {"SHARDBUS_OTEL_EXPORTER": "prometheus", "SHARDBUS_PROMETHEUS_PORT": str(port)}
    told: list[float] = []

    def look() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            told.extend(float(value) for value in DRIVER_SECONDS.findall(answer.read().decode()))
        return len(told) >= 8 * 10

    with agent(nats_url, bytecode, **on_stub(8, **metrics)):
        try:
            until_sync(look, within=30)
        except AssertionError:
            return "| 8 GPUs (stub) | time in driver calls per device and tick | not told by this backend | ≤ 1 ms |"
    return (
        f"| 8 GPUs (stub) | time in driver calls per device and tick | median {statistics.median(told) * 1e3:.2f} ms, "
        f"at most {max(told) * 1e3:.2f} ms | ≤ 1 ms |"
    )


def start_rows(nats_url: str, bytecode: Path) -> Iterator[str]:
    """Yield the row of the time from the command to the first reading in the stream."""

    def once(_: int) -> float:
        with agent(nats_url, bytecode) as running:
            return started(running)

    seconds = [once(turn) for turn in range(STARTS)]
    yield (
        f"| the processor alone | start to first reading in the stream | median {statistics.median(seconds):.2f} s, "
        f"at most {max(seconds):.2f} s of {STARTS} | ≤ 1 s |"
    )


def started(running: Agent) -> float:
    """Return how long it took."""
    return running.seconds_to_first_reading


def overhead(nats_url: str, bytecode: Path, variables: dict[str, str]) -> str:
    """Return what an agent takes from a workload beside it: with and without it in turns, so that drift hits both."""
    sys.stderr.write("bench: agent: beside a workload\n")
    alone, beside, differences = [], [], []
    for turn in range(ROUNDS):
        pair = {}
        for with_agent in (turn % 2 == 0, turn % 2 == 1):  # ABBA: whoever comes first is not always the same
            if with_agent:
                with agent(nats_url, bytecode, **variables):
                    pair[True] = matmuls_per_second(WORK_SECONDS)
            else:
                pair[False] = matmuls_per_second(WORK_SECONDS)
        alone.append(pair[False])
        beside.append(pair[True])
        differences.append(1 - pair[True] / pair[False])
    low, _, high = statistics.quantiles(differences, n=4)
    spread = (max(alone) - min(alone)) / statistics.median(alone)
    return (
        "\nBeside a workload (MLX multiplying 512 x 512 matrices on the processor, "
        f"{ROUNDS} pairs of {WORK_SECONDS:g} s in turns): {statistics.median(alone):.1f} a second without an agent, "
        f"{statistics.median(beside):.1f} with one; the agent took {statistics.median(differences):.2%} (median of the "
        f"pairs; quartiles {low:.2%} and {high:.2%}; goal ≤ 1 %). Without any agent the runs differ by {spread:.1%} "
        "from least to most.\n"
    )


if __name__ == "__main__":
    main()
