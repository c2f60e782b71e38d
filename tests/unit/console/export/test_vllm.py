"""A plan as scripts of vLLM: what the shell makes of them, and what cannot be said."""

from pathlib import Path

import pytest
from shardbus_console.export.placement import Options
from shardbus_console.export.refusal import CannotExpressError
from shardbus_console.export.vllm import export
from support.exported_scripts import Shell
from support.exporting import placement_of, small_model, uuid_of

HERE = Options()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_stages_of_one_node_are_its_own_processes(shell: Shell) -> None:
    placement = placement_of([(["a/1"], 7), (["a/0"], 3)], context_tokens=2048, concurrency=4)
    call = shell.only(export(placement, HERE).files["1-vllm-a.sh"], "--enforce-eager")
    assert (call.program, call.words[:2], call.words[-1]) == ("vllm", ["serve", "the model"], "--enforce-eager")
    assert call.variables["VLLM_PP_LAYER_PARTITION"] == "7,3"
    assert call.variables["CUDA_VISIBLE_DEVICES"] == f"{uuid_of('a/1')},{uuid_of('a/0')}"
    assert (call.option("--pipeline-parallel-size"), call.option("--tensor-parallel-size")) == ("2", "1")
    assert (call.option("--max-model-len"), call.option("--max-num-seqs")) == ("2048", "4")
    assert call.option("--gpu-memory-utilization") == "0.30"  # 7 of 24 GiB, rounded up
    assert "--nnodes" not in call.words


def test_nodes_of_equal_size_are_numbered_in_the_plans_order(shell: Shell) -> None:
    cut = [(["b/0", "b/1"], 6), (["a/0", "a/1"], 4)]
    placement = placement_of(cut, addresses={"a": "10.0.0.1", "b": "10.0.0.2:4000"}, model=small_model())
    files = export(placement, HERE).files
    assert list(files) == ["1-vllm-b.sh", "2-vllm-a.sh"]
    head, other = (shell.only(text) for text in files.values())
    for rank, call in enumerate((head, other)):
        assert (call.option("--nnodes"), call.option("--node-rank")) == ("2", str(rank))
        assert (call.option("--master-addr"), call.option("--master-port")) == ("10.0.0.2", "4000")
        assert (call.option("--pipeline-parallel-size"), call.option("--tensor-parallel-size")) == ("2", "2")
        assert call.option("--distributed-executor-backend") == "mp"
        assert call.variables["VLLM_PP_LAYER_PARTITION"] == "6,4"
        assert ("--headless" in call.words) == bool(rank)
    assert (head.variables["VLLM_HOST_IP"], other.variables["VLLM_HOST_IP"]) == ("10.0.0.2", "10.0.0.1")


def test_two_nodes_of_unequal_size_need_ray(shell: Shell) -> None:
    cut = [(["a/0"], 6), (["b/0"], 2), (["b/1"], 2)]
    exported = export(placement_of(cut, addresses={"a": "10.0.0.1", "b": "10.0.0.2"}), HERE)
    assert list(exported.files) == ["1-ray-a.sh", "2-ray-b.sh", "3-vllm-a.sh"]
    head, other, serve = (shell.only(text) for text in exported.files.values())
    assert head.words == ["start", "--head", "--port", "6379", "--node-ip-address", "10.0.0.1", "--num-gpus", "1"]
    assert (other.option("--address"), other.option("--num-gpus")) == ("10.0.0.1:6379", "2")
    assert other.variables["CUDA_VISIBLE_DEVICES"] == f"{uuid_of('b/0')},{uuid_of('b/1')}"
    assert (serve.program, serve.option("--distributed-executor-backend")) == ("vllm", "ray")
    assert serve.variables["VLLM_PP_LAYER_PARTITION"] == "6,2,2"


def test_amds_cards_are_named_in_both_variables(shell: Shell) -> None:
    call = shell.only(export(placement_of([(["a/0"], 3)], backends={"a/0": "rocm"}), HERE).files["1-vllm-a.sh"])
    assert call.variables["HIP_VISIBLE_DEVICES"] == call.variables["CUDA_VISIBLE_DEVICES"] == "0"
    assert "VLLM_PP_LAYER_PARTITION" not in call.variables
    assert "--distributed-executor-backend" not in call.words


def test_a_cpu_gets_no_share_of_a_gpu(shell: Shell) -> None:
    exported = export(placement_of([(["a/cpu"], 3)], backends={"a/cpu": "cpu"}), HERE)
    assert "--gpu-memory-utilization" not in shell.only(exported.files["1-vllm-a.sh"]).words
    assert any("VLLM_CPU_KVCACHE_SPACE" in note for note in exported.notes)


@pytest.mark.parametrize(
    ("cut", "code"),
    [
        ([(["a/0", "a/1"], 4), (["b/0"], 4)], "tensor_sizes_differ"),
        ([(["a/0"], 4), (["b/0"], 4), (["a/1"], 2)], "node_split"),
        ([(["a/0"], 4), (["b/0"], 4), (["b/1"], 2)], "rank_order"),
        ([(["a/0"], 4), (["b/0"], 4), (["c/0"], 2), (["c/1"], 2)], "rank_order"),
        ([(["a/0", "a/1", "a/2"], 4)], "heads_uneven"),
    ],
)
def test_what_vllm_cannot_arrange_is_refused(cut: list[tuple[list[str], int]], code: str) -> None:
    with pytest.raises(CannotExpressError) as refused:
        export(placement_of(cut, model=small_model()), HERE)
    assert refused.value.code == code
    assert refused.value.remedy.startswith("place it with ")


def test_all_workers_are_of_one_backend_that_vllm_has() -> None:
    cut = [(["a/0"], 4), (["b/0"], 4)]
    with pytest.raises(CannotExpressError) as refused:
        export(placement_of(cut, backends={"a/0": "cuda", "b/0": "rocm"}), HERE)
    assert refused.value.code == "backend_mixed"
    with pytest.raises(CannotExpressError) as refused:
        export(placement_of(cut, backends={"a/0": "metal", "b/0": "metal"}), HERE)
    assert refused.value.code == "backend_unsupported"
