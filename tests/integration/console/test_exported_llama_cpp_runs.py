"""An exported placement run by llama.cpp itself, where SHARDBUS_TEST_LLAMA_CPP names a folder with its programs.

No package brings them (docs/how-to/run-a-placement.md says how to build them in some minutes), so elsewhere this is
skipped. Each simulated node is an RPC server of this machine's CPU.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from shardbus_console.export.llama_cpp import export
from shardbus_console.export.placement import Options
from support.cpu_placements import consecutive_ports, plan_over_cpus
from support.exporting import held
from support.small_gguf import write_gguf
from support.waiting import until_sync

PROGRAMS = os.environ.get("SHARDBUS_TEST_LLAMA_CPP")
LAYERS = 7
WITHIN_SECONDS = 30.0
ASSIGNED = re.compile(r"layer +(\d+) assigned to device (\w+)")

pytestmark = pytest.mark.skipif(
    not PROGRAMS, reason="SHARDBUS_TEST_LLAMA_CPP names no folder with llama.cpp's programs"
)


@pytest.mark.parametrize("speeds", [(100.0, 30.0), (60.0, 100.0, 20.0)], ids=["two", "three"])
def test_llama_cpp_puts_the_layers_where_the_plan_does_and_says_the_same(
    speeds: tuple[float, ...], tmp_path: Path
) -> None:
    model = tmp_path / "small.gguf"
    write_gguf(model, LAYERS, seed=2)
    first = consecutive_ports(len(speeds) + 2)
    placement = plan_over_cpus(speeds, LAYERS, first_port=first)
    assert len({stage.layers for stage in placement.plan.stages}) > 1, "the cut is to be uneven"
    exported = export(placement, Options(weights=str(model), port=first))
    *servers, main = exported.files
    assert len(servers) == len(speeds)
    with contextlib.ExitStack() as stack:
        for name in servers:
            stack.enter_context(_running(tmp_path / name, exported.files[name]))
        for port in range(first, first + len(speeds)):
            until_sync(lambda port=port: _listens(port), within=WITHIN_SECONDS, what=f"an RPC server at {port}")
        together = _answer(tmp_path / main, exported.files[main], first + len(speeds))
    alone = _answer(
        tmp_path / "alone.sh",
        f'#!/bin/sh\nexec "$LLAMA_SERVER" --model {model} --device none --fit off "$@"\n',
        first + len(speeds) + 1,
    )
    assert together["tokens"] == alone["tokens"]
    assert len(set(alone["tokens"])) > 3
    servers_of = {f"RPC{number}": device for number, device in enumerate(placement.members)}  # CPUs are all servers
    *layers, output = (servers_of[name] for name in _assigned((tmp_path / f"{main}.log").read_text(errors="replace")))
    assert layers == [device for device, (start, end) in held(placement).items() for _ in range(start, end)]
    assert output == placement.members[-1]


def _assigned(log: str) -> list[str]:
    """On which device each layer is, and last the output layer, by the words of llama.cpp as it loaded the model."""
    found = {int(layer): name for layer, name in ASSIGNED.findall(log)}
    assert sorted(found) == list(range(LAYERS + 1)), log[-3000:]
    return [found[layer] for layer in sorted(found)]


def _answer(script: Path, text: str, port: int) -> dict[str, Any]:
    """Start a server by its script, and return what it says to a prompt, always the most likely token."""
    words = (
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--verbose",
        "--no-warmup",
        "--ctx-size",
        "256",
        "--parallel",
        "1",
    )
    with _running(script, text, *words):
        until_sync(lambda: _get(port, "/health"), within=WITHIN_SECONDS, what=f"{script.name} to be ready")
        asked = {
            "prompt": [5, 9, 2, 77, 31],
            "n_predict": 12,
            "temperature": 0,
            "return_tokens": True,
            "ignore_eos": True,
        }
        return _get(port, "/completion", json.dumps(asked).encode())


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WITHIN_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def _get(port: int, path: str, body: bytes | None = None) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=body, timeout=WITHIN_SECONDS) as answer:
            return json.load(answer)
    except OSError:
        if body is not None:
            raise
        return None


@contextmanager
def _running(script: Path, text: str, *words: str) -> Generator[None]:
    """Run a script, its output beside it; at the end it and all that it started are killed."""
    script.write_text(text)
    assert PROGRAMS is not None
    programs = {"LLAMA_SERVER": f"{PROGRAMS}/llama-server", "RPC_SERVER": f"{PROGRAMS}/ggml-rpc-server"}
    with script.with_name(f"{script.name}.log").open("w") as log:
        process = subprocess.Popen(
            ["/bin/sh", script, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **programs},
            start_new_session=True,
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
