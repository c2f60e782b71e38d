"""MLX in its own process: the real one, and wheels that do not work, as real packages."""

import sys
import time
from pathlib import Path

import pytest
from shardbus_agents.backends.mlx import MlxBackend, ask_child, mlx_devices
from shardbus_agents.backends.protocol import BackendUnavailableError
from shardbus_agents.benchmarks import benchmark_of
from support.readings import NODE, START

MEBIBYTE = 2**20


def broken(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a package ``mlx`` before the real one, for child processes."""
    package = folder / "mlx"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "core.py").write_text(text)
    before = [folder, *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, before)))


def test_the_agent_itself_never_imports_mlx() -> None:
    (cpu,) = [device for device in mlx_devices() if device.runtime == "cpu"]
    assert cpu.facts.device_id == "cpu"
    assert "mlx" in cpu.fingerprint
    assert "mlx.core" not in sys.modules


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ImportError('libopenblas.so.0: cannot open shared object file')", "libopenblas.so.0: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL; this wheel may be for another processor"),
        ("import os; os._exit(3)", "its process ended with 3"),
        ("import os; os.write(1, b'hello\\n'); os._exit(0)", "it gave no answer"),
        ("raise KeyError('libamd_smi.so')", "KeyError: 'libamd_smi.so'"),
        ("import os; os.write(2, b'dyld: no such symbol\\n'); os._exit(1)", "dyld: no such symbol"),
        ("cpu = gpu = metal = None", "AttributeError"),
    ],
)
def test_a_wheel_that_does_not_work_is_one_backend_less_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    broken(tmp_path, monkeypatch, text)
    with pytest.raises(BackendUnavailableError) as raised:
        MlxBackend(NODE)
    assert reason in str(raised.value)


def test_a_wheel_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, monkeypatch, "import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match=r"no answer within 0\.5 s"):
        ask_child("describe", deadline_seconds=0.5)
    assert time.monotonic() - began < 10


def test_without_mlx_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="mlx is not installed"):
        MlxBackend(NODE)


def test_a_file_of_the_working_directory_is_not_taken_for_mlx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlx.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert mlx_devices()


@pytest.mark.slow
def test_the_processor_is_measured_for_real() -> None:
    found = ask_child("measure", "cpu", "0", str(256 * MEBIBYTE), deadline_seconds=100)
    benchmark = benchmark_of(found, START, None)
    assert found["problems"] == {}
    assert found["sum"]["bytes"] == 128 * MEBIBYTE
    assert len(found["sum"]["seconds"]) == benchmark.runs == 5
    assert benchmark.memory_bandwidth_bytes_per_second is not None
    assert 1e8 < benchmark.memory_bandwidth_bytes_per_second < 1e13
    assert set(benchmark.flops) == {"float16", "float32"}
    assert all(1e8 < rate < 1e15 for rate in benchmark.flops.values())
    assert benchmark.measured_at == START
    assert benchmark.method.startswith("mlx 0.")


def test_what_mlx_refuses_is_said_in_words() -> None:
    with pytest.raises(BackendUnavailableError, match="mlx cannot be used here: "):
        ask_child("measure", "cuda", "7", str(64 * MEBIBYTE))
