"""An exported placement, started as it was written: MLX's own launcher, a process for each rank, the ring between.

The pipeline's tokens and logits are those of one process that has the whole model.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shardbus_console.export.mlx import export
from shardbus_console.export.placement import Exported, Options, Placement
from support.cpu_placements import consecutive_ports, plan_over_cpus
from support.exporting import held
from support.small_llama import weights, write_config, write_safetensors

# Looked for, not imported: other tests of this process insist that the agent has not done so.
pytestmark = pytest.mark.skipif(find_spec("mlx") is None, reason="mlx is not there for this platform")

PIPELINE = Path(__file__).parents[3] / "examples" / "mlx_pipeline.py"
LAYERS = 7
ASKED = ("--prompt", "5,9,2,77,31", "--tokens", "12")
WITHIN_SECONDS = 60.0
ATTEMPTS = 3
FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    write_config(folder, LAYERS)
    write_safetensors(folder / "model.safetensors", weights(LAYERS, seed=2))
    return folder


@pytest.mark.parametrize("speeds", [(100.0, 30.0), (60.0, 100.0, 20.0)], ids=["two", "three"])
def test_a_pipeline_says_what_one_process_says(speeds: tuple[float, ...], checkpoint: Path, tmp_path: Path) -> None:
    placement = plan_over_cpus(speeds, LAYERS)
    assert len(set(_sizes(placement))) > 1, "the cut is to be uneven"
    alone = _alone(checkpoint, tmp_path / "alone.npy")
    together = _launched(placement, checkpoint, tmp_path)
    assert (together["of"], together["rank"]) == (len(speeds), len(speeds) - 1)
    assert tuple(together["layers"]) == list(held(placement).values())[-1]
    assert together["tokens"] == alone["tokens"]
    assert len(set(alone["tokens"])) > 3
    one, many = np.load(tmp_path / "alone.npy"), np.load(tmp_path / "together.npy")
    assert one.std() > 0.1
    # Elsewhere one process computes on the GPU and the ranks, which stand for CPUs, do not.
    np.testing.assert_allclose(many, one, rtol=0, atol=0 if sys.platform == "linux" else 1e-3)


def test_one_rank_is_launched_too(tmp_path: Path) -> None:
    folder = tmp_path / "made-up"
    write_config(folder, LAYERS, tie_word_embeddings=True)
    made_up = ("--random-weights", "3")
    together = _launched(plan_over_cpus((100.0,), LAYERS), folder, tmp_path, *made_up)
    assert together["tokens"] == _alone(folder, tmp_path / "alone.npy", *made_up)["tokens"]


def test_what_a_cache_holds_is_what_a_longer_prompt_says(checkpoint: Path, tmp_path: Path) -> None:
    step_by_step = _alone(checkpoint, tmp_path / "steps.npy")["tokens"]
    longer = ",".join(map(str, [5, 9, 2, 77, 31, *step_by_step[:-1]]))
    at_once = _alone(checkpoint, tmp_path / "once.npy", "--prompt", longer, "--tokens", "1")["tokens"]
    assert at_once == step_by_step[-1:]
    np.testing.assert_allclose(np.load(tmp_path / "once.npy")[0], np.load(tmp_path / "steps.npy")[-1], atol=1e-4)


def test_a_rank_list_of_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    exported = export(plan_over_cpus((100.0,), LAYERS + 1), Options())
    ranks = tmp_path / "ranks.json"
    ranks.write_text(exported.files["ranks.json"])
    done = _run([sys.executable, PIPELINE, "--model", checkpoint, "--ranks", ranks, *ASKED], {"MLX_RANK": "0"})
    assert done.returncode == 1
    assert "it ends at layer 8, this one has 7" in done.stderr


def _sizes(placement: Placement) -> list[int]:
    return [stage.layers for stage in placement.plan.stages]


def _alone(model: Path, logits: Path, *more: str) -> dict[str, Any]:
    done = _run([sys.executable, PIPELINE, "--model", model, *ASKED, "--logits", logits, *more], {})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _launched(placement: Placement, model: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Start what was exported, and return what its last rank says; a port that was taken meanwhile is no failure."""
    for _ in range(ATTEMPTS):
        exported = export(placement, Options(port=consecutive_ports(len(placement.plan.stages))))
        script = _written(exported, folder)
        variables = {
            "MLX_LAUNCH": str(Path(sys.executable).parent / "mlx.launch"),
            "PYTHON": sys.executable,
            "PIPELINE": str(PIPELINE),
            "MODEL": str(model),
        }
        done = _run([script, *ASKED, "--logits", folder / "together.npy", *more], variables)
        if done.returncode == 0 and done.stdout.strip():
            return json.loads(done.stdout)
        if "bind" not in done.stderr:
            break
    raise AssertionError(f"{script} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")


def _written(exported: Exported, folder: Path) -> Path:
    for name, text in exported.files.items():
        (folder / name).write_text(text)
    script = folder / "launch.sh"
    script.chmod(0o755)
    return script


def _run(words: list[str | Path], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command and all that it starts to its end; what is left then, or at the deadline, is killed as a group."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            list(map(str, words)),
            stdin=subprocess.PIPE,  # kept open: at its end the launcher would read it round and round
            stdout=out,
            stderr=err,
            env={**os.environ, **FEW_THREADS, **variables},
            start_new_session=True,
        )
        try:
            code = process.wait(WITHIN_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())
