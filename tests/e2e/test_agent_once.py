"""``shardbus agent --once`` and ``--measure``: the first things a person runs on a new box, with no server anywhere."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from shardbus_schemas.node_report import NodeReport
from support.command_line import COMMAND, document, environment, shardbus, shardbus_here

SCHEMA = Path(__file__).parents[2] / "schemas" / "jsonschema" / "node-report.json"
MIXED = Path(__file__).parents[2] / "examples" / "mixed.yaml"


def test_one_look_says_what_this_node_is_for_people() -> None:
    done = shardbus("agent", "--once", "--node-id", "attic")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("attic\n")
    for words in ("Devices", "One look", "cpu", "psutil+mlx", "Unknown, and why", "Where devices were looked for"):
        assert words in done.stdout
    assert "nvml" in done.stdout


def test_one_look_is_one_document_of_the_shape_that_is_promised() -> None:
    done = shardbus("agent", "--once", "--json", SHARDBUS_LABELS='{"site": "home"}')
    told = document(done)
    jsonschema.validate(told, json.loads(SCHEMA.read_text()))
    report = NodeReport.model_validate_json(done.stdout)
    assert done.stderr == ""
    assert report.seconds < 3
    assert report.labels == {"site": "home"}
    cpu = next(device for device in report.devices if device.facts.device_id == "cpu")
    assert cpu.state is not None
    assert cpu.state.compute_utilization_percent is not None
    assert cpu.facts.sources["memory_total_bytes"] == "driver"
    for name, value in cpu.state:
        if value is None and not name.startswith("utilization_"):
            assert cpu.unknown[name]
    assert all(backend.is_available or backend.reason for backend in report.backends)


def test_a_box_whose_libraries_are_broken_gets_its_report_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").touch()
    (tmp_path / "mlx" / "core.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    path = ":".join([str(tmp_path), *filter(None, sys.path)])
    for flags in ((), ("--json",)):
        done = shardbus("agent", "--once", *flags, PYTHONPATH=path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Traceback" not in done.stdout
    measuring = shardbus("agent", "--measure", PYTHONPATH=path, SHARDBUS_DATA_DIR=str(tmp_path / "data"))
    assert (measuring.returncode, measuring.stdout) == (1, "")
    assert "only MLX measures, and it is not there" in measuring.stderr
    assert "Traceback" not in measuring.stderr
    reasons = {backend["name"]: backend["reason"] for backend in document(done)["backends"]}
    assert "SIGILL" in reasons["mlx"]
    assert reasons["psutil"] is None


def test_one_look_fits_a_narrow_terminal() -> None:
    controller, terminal = pty.openpty()
    command = [*COMMAND, "agent", "--once"]
    process = subprocess.Popen(command, env=environment(COLUMNS="60"), stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = b""
    while True:
        try:
            if not (read := os.read(controller, 4096)):
                break
        except OSError:  # Linux says EIO when the other end is closed
            break
        said += read
    os.close(controller)
    assert process.wait(30) == 0
    lines = said.decode().splitlines()
    assert any("psutil" in line for line in lines)


@pytest.mark.slow
def test_what_is_measured_replaces_the_unknown_and_says_when(tmp_path: Path) -> None:
    folder = {"SHARDBUS_DATA_DIR": str(tmp_path / "data")}
    measured = document(shardbus("agent", "--measure", "--json", within=120, **folder))
    benchmark = next(device["benchmark"] for device in measured["devices"] if device["device_id"] == "cpu")
    assert benchmark["memory_bandwidth_bytes_per_second"] > 1e8
    assert Path(measured["kept_in"]) == tmp_path / "data" / "benchmarks.json"
    report = NodeReport.model_validate_json(shardbus("agent", "--once", "--json", **folder).stdout)
    cpu = next(device.facts for device in report.devices if device.facts.device_id == "cpu")
    assert cpu.memory_bandwidth_bytes_per_second == benchmark["memory_bandwidth_bytes_per_second"]
    assert cpu.sources["memory_bandwidth_bytes_per_second"] == cpu.sources["peak_flops"] == "measured"
    assert "memory_bandwidth_bytes_per_second" not in cpu.unknown
    assert cpu.benchmark is not None
    shown = shardbus("agent", "--once", **folder).stdout
    assert f"(measured {cpu.benchmark.measured_at:%Y-%m-%d})" in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--json",), "--json goes with --once or --measure"),
        (("--once", "--measure"), "exclude each other"),
        (("--once", "--simulate", str(MIXED)), "exclude each other"),
    ],
)
def test_flags_that_do_not_go_together_are_a_persons_mistake(flags: tuple[str, ...], said: str) -> None:
    done = shardbus_here("agent", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_keep_measurements_is_said_before_anything_is_measured() -> None:
    done = shardbus("agent", "--measure", SHARDBUS_DATA_DIR="/dev/null/here")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "shardbus: measurements cannot be kept in /dev/null/here: Not a directory; "
        "name another folder by SHARDBUS_DATA_DIR\n"
    )
